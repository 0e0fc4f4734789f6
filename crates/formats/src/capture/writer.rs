//! Writing a capture: one [`TableWriter`] per table, segments closed regularly, the manifest replaced atomically.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding as ParquetEncoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::manifest::{MANIFEST_FILE, Manifest, SegmentInfo};
use super::place::Place;
use crate::table::{Encoding, Row, RowBuilder as _};
use crate::{Error, Result};

/// Rows collected before they are encoded; bounds the memory of a table.
const BATCH_ROWS: usize = 8 * 1024;
/// Rows of a Parquet row group; the encoder keeps one in memory.
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// Writes a capture directory.
pub struct CaptureWriter {
    place: Arc<Place>,
    tables: BTreeMap<&'static str, (TypeId, Box<dyn AnyTable>)>,
    closed: Vec<SegmentInfo>,
}

impl CaptureWriter {
    /// Creates the directory (mode 0700; its parents must exist).
    ///
    /// # Errors
    /// [`Error::Exists`] if anything is there already, a dangling symbolic link included; [`Error::Io`] otherwise.
    pub fn create(dir: &Path) -> Result<Self> {
        create_dir_private(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists { path: dir.to_path_buf() },
            _ => Error::io("create the capture directory", dir, e),
        })?;
        Ok(Self { place: Arc::new(Place::open(dir)?), tables: BTreeMap::new(), closed: Vec::new() })
    }

    /// As [`CaptureWriter::create`], with a first manifest in it: there is no moment in which the directory exists
    /// without one, whenever the process is killed.
    ///
    /// # Errors
    /// As [`CaptureWriter::create`] and [`CaptureWriter::write_manifest`]; nothing is left then.
    pub fn create_with(dir: &Path, manifest: &Manifest) -> Result<Self> {
        if fs::symlink_metadata(dir).is_ok() {
            return Err(Error::Exists { path: dir.to_path_buf() });
        }
        let tmp = beside(dir);
        let mut writer = Self::create(&tmp)?;
        let named = writer.write_manifest(manifest).and_then(|()| {
            // Fails on whatever came meanwhile, except for an empty directory.
            fs::rename(&tmp, dir).map_err(|e| Error::io("create the capture directory", dir, e))
        });
        if let Err(e) = named {
            let _ = fs::remove_dir_all(&tmp);
            return Err(e);
        }
        if let Some(place) = Arc::get_mut(&mut writer.place) {
            place.renamed(dir);
        }
        Ok(writer)
    }

    /// The directory's name, for people and for readers.
    pub fn dir(&self) -> &Path {
        self.place.name()
    }

    /// The directory itself, for those who write into it as well.
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The writer of one table.
    pub fn table<R: Row>(&mut self) -> &mut TableWriter<R> {
        let entry = self
            .tables
            .entry(R::NAME)
            .or_insert_with(|| (TypeId::of::<R>(), Box::new(TableWriter::<R>::new(&self.place))));
        match entry.1.as_any().downcast_mut() {
            Some(table) => table,
            // Two row types under one table name cannot get past the registry's test.
            None => unreachable!("table {} is declared twice", R::NAME),
        }
    }

    /// Appends one row.
    ///
    /// # Errors
    /// As [`TableWriter::push`].
    pub fn push<R: Row>(&mut self, row: R) -> Result<()> {
        self.table::<R>().push(row).map_err(|e| self.place.named(e))
    }

    /// Closes the open segment of every table and puts the manifest on disk.
    ///
    /// All tables are tried; rows that could not be written are counted in [`CaptureWriter::rows_failed`].
    ///
    /// # Errors
    /// The first error. What was closed before stays readable.
    pub fn roll(&mut self, manifest: &mut Manifest) -> Result<()> {
        let closed = self.close_segments(manifest);
        let written = self.write_manifest(manifest);
        closed.and(written)
    }

    /// Closes the open segment of every table and lists them in `manifest`, which is not written.
    ///
    /// All tables are tried; rows that could not be written are counted in [`CaptureWriter::rows_failed`].
    ///
    /// # Errors
    /// The first error. What was closed before stays readable.
    pub fn close_segments(&mut self, manifest: &mut Manifest) -> Result<()> {
        let mut first = Ok(());
        for (_, table) in self.tables.values_mut() {
            match table.close_segment() {
                Ok(Some(segment)) => self.closed.push(segment),
                Ok(None) => {}
                Err(e) => first = first.and(Err(self.place.named(e))),
            }
        }
        manifest.segments.clone_from(&self.closed);
        first
    }

    /// The closed segments, in the order in which they were closed.
    pub fn closed(&self) -> &[SegmentInfo] {
        &self.closed
    }

    /// Leaves segments out of the next manifest; their files are the caller's to remove after that.
    pub fn forget(&mut self, segments: &[SegmentInfo]) {
        self.closed.retain(|s| !segments.contains(s));
    }

    /// Takes closed segments of another capture in, by a hard link or, where there is none, as a copy. For tables that
    /// this writer writes no rows of: the names of the files stay.
    ///
    /// # Errors
    /// [`Error::Io`] with the segment that could not be had.
    pub fn adopt(&mut self, capture: &Place, segments: &[SegmentInfo]) -> Result<()> {
        for s in segments {
            let folder = self.place.join(&s.table);
            match create_dir_private(&folder) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(self.place.named(Error::io("create", &folder, e)));
                }
                _ => {}
            }
            let (from, to) = (capture.join(Path::new(&s.table).join(&s.file)), folder.join(&s.file));
            fs::hard_link(&from, &to)
                .or_else(|_| {
                    let mut copy = private_file().create_new(true).open(&to)?;
                    std::io::copy(&mut File::open(&from)?, &mut copy).map(|_| ())
                })
                .map_err(|e| capture.named(Error::io("take over", &from, e)))?;
            self.closed.push(s.clone());
        }
        Ok(())
    }

    /// Bytes in segments that are open, as far as they are encoded.
    pub fn bytes_open(&self) -> u64 {
        self.tables.values().map(|(_, t)| t.bytes_open()).sum()
    }

    /// Gives up the rows that are in no closed segment and the space that they take. They count as failed.
    pub fn discard_open(&mut self) {
        self.tables.values_mut().for_each(|(_, table)| table.discard());
    }

    /// Replaces the manifest atomically.
    ///
    /// # Errors
    /// [`Error::Io`]; the previous manifest stays.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let tmp = self.place.join("manifest.json.tmp");
        let file = create_file_private(&tmp).map_err(|e| self.place.named(e))?;
        let written = self.write_manifest_into(manifest, &file, &tmp);
        if written.is_err() {
            remove_with_space(&tmp);
        }
        written
    }

    /// Replaces the manifest atomically by writing it into a file of the capture's directory that exists already, from
    /// its beginning on. Where the file has blocks enough, that needs no space.
    ///
    /// # Errors
    /// As [`CaptureWriter::write_manifest`].
    pub fn write_manifest_into(&self, manifest: &Manifest, mut file: &File, file_path: &Path) -> Result<()> {
        let path = self.place.join(MANIFEST_FILE);
        let text = manifest.to_json()?;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&text))
            .and_then(|()| file.set_len(text.len() as u64))
            .and_then(|()| file.sync_data())
            .map_err(|e| self.place.named(Error::io("write", file_path, e)))?;
        fs::rename(file_path, &path).map_err(|e| self.place.named(Error::io("rename into place", &path, e)))
    }

    /// Rows written so far, by table.
    pub fn rows_written(&self) -> BTreeMap<&'static str, u64> {
        self.tables.iter().map(|(name, (_, t))| (*name, t.written())).collect()
    }

    /// Rows that could not be written, by table.
    pub fn rows_failed(&self) -> BTreeMap<&'static str, u64> {
        self.tables.iter().map(|(name, (_, t))| (*name, t.failed())).filter(|(_, n)| *n > 0).collect()
    }

    /// Events in the rows written so far, by table: see [`Row::events`].
    pub fn events_written(&self) -> BTreeMap<&'static str, u64> {
        self.tables.iter().map(|(name, (_, t))| (*name, t.events_written())).collect()
    }

    /// Events in the rows that could not be written, by table.
    pub fn events_failed(&self) -> BTreeMap<&'static str, u64> {
        self.tables.iter().map(|(name, (_, t))| (*name, t.events_failed())).filter(|(_, n)| *n > 0).collect()
    }

    /// What all segments would take on disk, in blocks of so many bytes, if the open ones were closed now; rows that are
    /// not encoded yet (less than 8192 of a table) are left out.
    pub fn bytes_if_closed(&self, block: u64) -> u64 {
        let closed = self.closed.iter().map(|s| s.bytes);
        let open = self.tables.values().map(|(_, t)| t.open_bytes());
        closed.chain(open).map(|bytes| bytes.next_multiple_of(block)).sum()
    }

    /// Bytes in closed segments.
    pub fn bytes_closed(&self) -> u64 {
        self.closed.iter().map(|s| s.bytes).sum()
    }
}

/// The type-erased side of a [`TableWriter`].
trait AnyTable: Send {
    fn as_any(&mut self) -> &mut dyn Any;
    fn close_segment(&mut self) -> Result<Option<SegmentInfo>>;
    fn discard(&mut self);
    fn open_bytes(&self) -> u64;
    fn written(&self) -> u64;
    fn failed(&self) -> u64;
    fn events_written(&self) -> u64;
    fn events_failed(&self) -> u64;
    fn bytes_open(&self) -> u64;
}

/// Writes the segments of one table.
pub struct TableWriter<R: Row> {
    dir: PathBuf,
    /// The folder is there, made by us.
    made: bool,
    builder: R::Builder,
    segment: Option<Segment>,
    next: u32,
    /// In the builder, not encoded yet.
    pending: Count,
    written: Count,
    failed: Count,
}

/// Rows, and the events that they stand for.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    rows: u64,
    events: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.events += other.events;
    }
}

impl std::ops::SubAssign for Count {
    fn sub_assign(&mut self, other: Self) {
        self.rows -= other.rows;
        self.events -= other.events;
    }
}

struct Segment {
    path: PathBuf,
    writer: ArrowWriter<WatchedFile>,
    os_error: Arc<AtomicI32>,
    count: Count,
}

/// A file that keeps the number of its last error: the Parquet writer turns some errors into text, and "disk full"
/// must stay recognisable.
struct WatchedFile {
    file: File,
    os_error: Arc<AtomicI32>,
}

impl WatchedFile {
    fn watch<T>(&self, result: std::io::Result<T>) -> std::io::Result<T> {
        if let Some(code) = result.as_ref().err().and_then(std::io::Error::raw_os_error) {
            self.os_error.store(code, Ordering::Relaxed);
        }
        result
    }
}

impl std::io::Write for WatchedFile {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let result = self.file.write(buf);
        self.watch(result)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        let result = self.file.flush();
        self.watch(result)
    }
}

impl<R: Row> TableWriter<R> {
    fn new(capture: &Place) -> Self {
        Self {
            dir: capture.join(R::NAME),
            made: false,
            builder: R::Builder::default(),
            segment: None,
            next: 1,
            pending: Count::default(),
            written: Count::default(),
            failed: Count::default(),
        }
    }

    /// Appends one row; encodes a batch from time to time.
    ///
    /// # Errors
    /// If a batch could not be written. The open segment is given up (its rows are counted as failed, its file is
    /// removed so that it takes no space), closed ones stay, and the next row begins a new segment.
    pub fn push(&mut self, row: R) -> Result<()> {
        self.pending += Count { rows: 1, events: row.events() };
        self.builder.push(row);
        if self.builder.len() >= BATCH_ROWS { self.flush_batch() } else { Ok(()) }
    }

    fn flush_batch(&mut self) -> Result<()> {
        let count = std::mem::take(&mut self.pending);
        if count.rows == 0 {
            return Ok(());
        }
        let arrays = self.builder.finish();
        let result = self.write_batch(arrays, count);
        if result.is_err() {
            self.give_up(count);
        }
        result
    }

    fn write_batch(&mut self, arrays: Vec<arrow::array::ArrayRef>, count: Count) -> Result<()> {
        if self.segment.is_none() {
            self.segment = Some(self.open_segment()?);
        }
        let Some(segment) = self.segment.as_mut() else { return Ok(()) };
        let batch = RecordBatch::try_new(R::schema(), arrays)
            .map_err(|e| Error::io("encode", &segment.path, std::io::Error::other(e)))?;
        segment.writer.write(&batch).map_err(|e| parquet_error("write", &segment.path, &segment.os_error, e))?;
        segment.count += count;
        self.written += count;
        Ok(())
    }

    fn open_segment(&mut self) -> Result<Segment> {
        if !self.made {
            create_dir_private(&self.dir).map_err(|e| Error::io("create", &self.dir, e))?;
            self.made = true;
        }
        let path = self.dir.join(format!("{:06}.parquet.tmp", self.next));
        let file = create_file_private(&path)?;
        let os_error = Arc::new(AtomicI32::new(0));
        let file = WatchedFile { file, os_error: Arc::clone(&os_error) };
        let writer = ArrowWriter::try_new(file, R::schema(), Some(properties::<R>()))
            .map_err(|e| parquet_error("create", &path, &os_error, e))?;
        self.next += 1;
        Ok(Segment { path, writer, os_error, count: Count::default() })
    }

    /// Drops the open segment after an error; `pending` rows were not yet part of it.
    fn give_up(&mut self, pending: Count) {
        self.failed += pending;
        if let Some(segment) = self.segment.take() {
            self.failed += segment.count;
            self.written -= segment.count;
            remove_with_space(&segment.path);
        }
    }

    fn finish_segment(segment: Segment) -> Result<SegmentInfo> {
        let Segment { path, writer, os_error, count } = segment;
        let file = writer.into_inner().map_err(|e| parquet_error("close", &path, &os_error, e))?.file;
        // No fsync: a crash of the host ends the incident's evidence anyway, a kill of the recorder does not need it.
        let bytes = file.metadata().map_err(|e| Error::io("read the size of", &path, e))?.len();
        let last = path.with_extension("");
        fs::rename(&path, &last).map_err(|e| Error::io("rename into place", &last, e))?;
        let file = last.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(SegmentInfo { table: R::NAME.to_owned(), file, rows: count.rows, bytes })
    }
}

impl<R: Row> AnyTable for TableWriter<R> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn close_segment(&mut self) -> Result<Option<SegmentInfo>> {
        self.flush_batch()?;
        let Some(segment) = self.segment.take() else { return Ok(None) };
        let (count, path) = (segment.count, segment.path.clone());
        match Self::finish_segment(segment) {
            Ok(info) => Ok(Some(info)),
            Err(e) => {
                self.failed += count;
                self.written -= count;
                remove_with_space(&path);
                Err(e)
            }
        }
    }

    fn discard(&mut self) {
        let count = std::mem::take(&mut self.pending);
        self.builder.finish();
        self.give_up(count);
    }

    fn open_bytes(&self) -> u64 {
        self.segment.as_ref().map_or(0, |s| (s.writer.bytes_written() + s.writer.in_progress_size()) as u64)
    }

    fn written(&self) -> u64 {
        self.written.rows + self.pending.rows
    }

    fn failed(&self) -> u64 {
        self.failed.rows
    }

    fn events_written(&self) -> u64 {
        self.written.events + self.pending.events
    }

    fn events_failed(&self) -> u64 {
        self.failed.events
    }

    fn bytes_open(&self) -> u64 {
        self.segment.as_ref().map_or(0, |s| (s.writer.bytes_written() + s.writer.in_progress_size()) as u64)
    }
}

fn properties<R: Row>() -> WriterProperties {
    let mut p = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("mtrace ", env!("CARGO_PKG_VERSION")).to_owned());
    for c in R::columns() {
        let path = ColumnPath::from(c.name);
        p = match c.encoding {
            Encoding::Dictionary => p.set_column_dictionary_enabled(path, true),
            Encoding::Plain => p.set_column_dictionary_enabled(path, false),
            Encoding::Delta => p
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, ParquetEncoding::DELTA_BINARY_PACKED),
        };
    }
    p.build()
}

/// The operating system's error behind a Parquet one, if there was one.
fn parquet_error(action: &'static str, path: &Path, os_error: &AtomicI32, e: ParquetError) -> Error {
    let source = match os_error.load(Ordering::Relaxed) {
        0 => std::io::Error::other(e),
        code => std::io::Error::from_raw_os_error(code),
    };
    Error::io(action, path, source)
}

/// A name in the same folder that no other process uses.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

/// Removes a file that was given up. Its space is given back first: a child of this process may have inherited the
/// descriptor, and then the space of a removed file stays taken for as long as the child has not executed anything.
fn remove_with_space(path: &Path) {
    // Best effort, both.
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        let _ = file.set_len(0);
    }
    let _ = fs::remove_file(path);
}

fn create_dir_private(path: &Path) -> std::io::Result<()> {
    #[allow(unused_mut)]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// Replaces what is there; for names within a capture, whose directory nobody else can write to.
fn create_file_private(path: &Path) -> Result<File> {
    private_file().create(true).truncate(true).open(path).map_err(|e| Error::io("create", path, e))
}

/// Never opens what is there, a symbolic link included.
pub(super) fn create_new_private(path: &Path) -> Result<File> {
    private_file().create_new(true).open(path).map_err(|e| Error::io("create", path, e))
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}
