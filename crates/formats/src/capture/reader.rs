//! Reading a capture, whole or damaged: what is good is read, what is not is named.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::manifest::{MANIFEST_FILE, Manifest, SCHEMA, State};
use super::pack;
use crate::table::Row;
use crate::{Error, Result, tables};

/// A manifest larger than this is not one.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// A segment larger than this is not one of ours: they are closed every few seconds.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Rows of one segment; run-length encoding lets a small file claim any number.
const MAX_SEGMENT_ROWS: i64 = 5_000_000;
/// Decoded size that a segment's metadata may claim.
const MAX_SEGMENT_UNCOMPRESSED_BYTES: i64 = 2 << 30;

/// An opened capture, a directory or a packed file.
#[derive(Debug)]
pub struct Capture {
    /// What was opened.
    pub path: PathBuf,
    /// The manifest; a default one if it could not be read (then `problems` says so).
    pub manifest: Manifest,
    /// What was found wrong while opening, in plain words.
    pub problems: Vec<String>,
    segments: BTreeMap<String, Vec<SegmentRef>>,
}

/// Where one segment is.
#[derive(Debug, Clone)]
pub struct SegmentRef {
    /// The file, or the pack.
    pub path: PathBuf,
    /// Name to show: `faults/000001.parquet`.
    pub name: String,
    offset: u64,
    len: u64,
}

/// A segment that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// `TABLE/FILE`.
    pub segment: String,
    /// What was expected and what was found.
    pub why: String,
    /// Rows in it according to the manifest; null if it does not say.
    pub rows: Option<u64>,
}

impl Capture {
    /// Opens a capture directory or a packed capture.
    ///
    /// # Errors
    /// [`Error::NotACapture`] if neither a manifest nor a segment is there, [`Error::Version`] for a capture of
    /// a newer major version, [`Error::Io`] if the path cannot be read. A damaged manifest beside good segments is
    /// not an error: see `problems`.
    pub fn open(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).map_err(|e| Error::io("open the capture", path, e))?;
        let mut problems = Vec::new();
        let (manifest, segments) = if meta.is_dir() {
            (read_manifest_file(&path.join(MANIFEST_FILE)), list_directory(path, &mut problems)?)
        } else if pack::is_packed(path) {
            pack::index(path, &mut problems)?
        } else {
            return Err(not_a_capture(path, "a file of another format"));
        };
        let manifest = match manifest {
            Ok(m) => m,
            Err(e @ Error::Version { .. }) => return Err(e),
            Err(_) if segments.is_empty() => {
                return Err(not_a_capture(path, "no readable manifest.json and no table"));
            }
            Err(e) => {
                problems.push(format!("{e}; the tables are analysed without it"));
                Manifest::default()
            }
        };
        if manifest.state == State::Recording {
            problems.push(unfinished(&manifest));
        }
        Ok(Self { path: path.to_path_buf(), manifest, problems, segments })
    }

    /// The segments of a table in order.
    pub fn segments<R: Row>(&self) -> &[SegmentRef] {
        self.segments.get(R::NAME).map_or(&[], Vec::as_slice)
    }

    /// All segments.
    pub fn all_segments(&self) -> impl Iterator<Item = &SegmentRef> {
        self.segments.values().flatten()
    }

    /// Segments that the manifest lists and that are not there.
    pub fn missing_segments(&self) -> Vec<Skipped> {
        self.manifest
            .segments
            .iter()
            .filter_map(|s| {
                let name = format!("{}/{}", s.table, s.file);
                let there = self.segments.get(&s.table).is_some_and(|v| v.iter().any(|r| r.name == name));
                (!there).then(|| Skipped {
                    segment: name,
                    why: "listed in the manifest, but not there".to_owned(),
                    rows: Some(s.rows),
                })
            })
            .collect()
    }

    /// Rows of a segment according to the manifest.
    pub fn listed_rows(&self, segment: &SegmentRef) -> Option<u64> {
        let (table, file) = segment.name.split_once('/')?;
        self.manifest.segments.iter().find(|s| s.table == table && s.file == file).map(|s| s.rows)
    }

    /// Reads one segment.
    ///
    /// # Errors
    /// [`Skipped`] with the reason; never a panic, and never more memory than a segment may claim.
    pub fn read_segment<R: Row>(&self, segment: &SegmentRef) -> std::result::Result<Vec<R>, Skipped> {
        let listed = self.listed_rows(segment);
        let skip = |why: String| Skipped { segment: segment.name.clone(), why, rows: listed };
        // The Parquet decoder is not ours: a panic in it must not take the analysis down.
        let rows = catch_unwind(AssertUnwindSafe(|| decode::<R>(segment)))
            .unwrap_or_else(|_| Err("the Parquet decoder gave up on it".to_owned()))
            .map_err(&skip)?;
        Ok(rows)
    }

    /// Reads a whole table, segment by segment.
    pub fn read<R: Row>(&self) -> (Vec<R>, Vec<Skipped>) {
        let mut rows = Vec::new();
        let mut skipped = Vec::new();
        for segment in self.segments::<R>() {
            match self.read_segment::<R>(segment) {
                Ok(mut r) => rows.append(&mut r),
                Err(s) => skipped.push(s),
            }
        }
        (rows, skipped)
    }
}

impl SegmentRef {
    pub(super) fn new(path: PathBuf, name: String, offset: u64, len: u64) -> Self {
        Self { path, name, offset, len }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    fn load(&self) -> std::result::Result<Vec<u8>, String> {
        if self.len > MAX_SEGMENT_BYTES {
            return Err(format!("{} bytes; a segment has at most {MAX_SEGMENT_BYTES}", self.len));
        }
        let mut file = open_regular(&self.path).map_err(|e| format!("failed to open: {e}"))?;
        file.seek(SeekFrom::Start(self.offset)).map_err(|e| format!("failed to seek: {e}"))?;
        let mut bytes = Vec::new();
        file.take(self.len).read_to_end(&mut bytes).map_err(|e| format!("failed to read: {e}"))?;
        Ok(bytes)
    }
}

fn decode<R: Row>(segment: &SegmentRef) -> std::result::Result<Vec<R>, String> {
    let bytes = segment.load()?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes))
        .map_err(|e| format!("not a complete Parquet file: {e}"))?;
    let meta = builder.metadata();
    let rows = meta.file_metadata().num_rows();
    let size: i64 = meta.row_groups().iter().map(|g| g.total_byte_size()).fold(0, i64::saturating_add);
    if !(0..=MAX_SEGMENT_ROWS).contains(&rows) || !(0..=MAX_SEGMENT_UNCOMPRESSED_BYTES).contains(&size) {
        return Err(format!(
            "claims {rows} rows and {size} bytes; expected at most {MAX_SEGMENT_ROWS} rows and {MAX_SEGMENT_UNCOMPRESSED_BYTES} bytes"
        ));
    }
    let reader = builder.with_batch_size(8192).build().map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(usize::try_from(rows).unwrap_or(0).min(1 << 20));
    for batch in reader {
        let batch = batch.map_err(|e| format!("after row {}: {e}", out.len()))?;
        R::read(&batch, &mut out)?;
        if out.len() as i64 > MAX_SEGMENT_ROWS {
            return Err(format!("more than {MAX_SEGMENT_ROWS} rows"));
        }
    }
    Ok(out)
}

fn list_directory(dir: &Path, problems: &mut Vec<String>) -> Result<BTreeMap<String, Vec<SegmentRef>>> {
    let mut found: BTreeMap<String, Vec<SegmentRef>> = BTreeMap::new();
    for table in tables::ALL {
        let folder = dir.join(table.name);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                problems.push(Error::io("read", &folder, e).to_string());
                continue;
            }
        };
        let mut segments = Vec::new();
        for entry in entries.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let name = format!("{}/{file}", table.name);
            let meta = entry.metadata();
            let len = meta.as_ref().map_or(0, std::fs::Metadata::len);
            if !meta.is_ok_and(|m| m.is_file()) {
                // A link could lead anywhere: `pack` would copy what it leads to.
                problems.push(format!("`{name}` is not a regular file: it is not used"));
            } else if file.ends_with(".parquet") {
                segments.push(SegmentRef::new(entry.path(), name, 0, len));
            } else if file.ends_with(".parquet.tmp") {
                problems.push(format!("`{name}` was not closed: its rows ({len} bytes written) are lost"));
            }
        }
        segments.sort_by(|a, b| a.name.cmp(&b.name));
        if !segments.is_empty() {
            found.insert(table.name.to_owned(), segments);
        }
    }
    Ok(found)
}

/// What a recorder that was killed cannot have written.
fn unfinished(m: &Manifest) -> String {
    let seconds = |from: i64, to: i64| to.saturating_sub(from).max(0) as f64 / 1e9;
    let w = &m.window;
    let what = "the recorder did not come to its end";
    match (w.start_ns, w.closed_ns, w.next_closing_ns) {
        (Some(start), Some(closed), Some(next)) => format!(
            "{what}: rows are complete up to {:.2} s after its begin, when segments were closed last; at most {:.2} s \
             after that are missing (the next closing was due then), and symbols and the final accounting",
            seconds(start, closed),
            seconds(closed, next)
        ),
        _ => format!("{what}: symbols, the last seconds and the final accounting may be missing"),
    }
}

/// Opens a regular file: a FIFO in its place would hold the analysis up for ever.
fn open_regular(path: &Path) -> std::io::Result<File> {
    if fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "expected a regular file, found something else"))
}

fn read_manifest_file(path: &Path) -> Result<Manifest> {
    let file = open_regular(path).map_err(|e| Error::io("open", path, e))?;
    let mut text = Vec::new();
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut text).map_err(|e| Error::io("read", path, e))?;
    parse_manifest(path, &text)
}

/// Parses a manifest; the version is looked at first, because everything else may have changed.
pub(super) fn parse_manifest(path: &Path, text: &[u8]) -> Result<Manifest> {
    #[derive(serde::Deserialize)]
    struct Head {
        schema: super::manifest::SchemaVersion,
    }
    let corrupt = |what: String| Error::Corrupt { path: path.to_path_buf(), what };
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(corrupt(format!("larger than {MAX_MANIFEST_BYTES} bytes")));
    }
    let head: Head = serde_json::from_slice(text)
        .map_err(|e| corrupt(format!("expected a manifest with a schema version, found: {e}")))?;
    // 1.x lacks `fault_runs` and is the same otherwise.
    if !(1..=SCHEMA.major).contains(&head.schema.major) {
        return Err(Error::Version {
            path: path.to_path_buf(),
            found: head.schema.to_string(),
            supported: format!("1.0 to {}.x", SCHEMA.major),
            next: "analyse it with a newer mtrace: the one that recorded it, for example",
        });
    }
    serde_json::from_slice(text).map_err(|e| corrupt(format!("expected a manifest, found: {e}")))
}

fn not_a_capture(path: &Path, found: &str) -> Error {
    Error::NotACapture {
        path: path.to_path_buf(),
        found: found.to_owned(),
        expected: "a directory NAME.mtrace written by `mtrace record`, or a file written by `mtrace pack`",
    }
}
