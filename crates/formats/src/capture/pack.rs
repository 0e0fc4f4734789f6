//! One file of a capture, for copying: a tar archive (its members are compressed already), the manifest first.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read as _};
use std::path::Path;

use super::manifest::{MANIFEST_FILE, Manifest};
use super::private::{beside, create_new_private};
use super::reader::{Capture, SegmentRef, parse_manifest};
use crate::{Error, Result, tables};

/// Packs a capture directory into `out`, a file of mode 0600 like those of the capture.
///
/// # Errors
/// As [`Capture::open`]; [`Error::Exists`] if anything is at `out`, a symbolic link included, also if it came while the
/// pack was being written. Nothing is left under the final name on failure.
pub fn pack(capture: &Capture, out: &Path) -> Result<()> {
    if fs::symlink_metadata(out).is_ok() {
        return Err(Error::Exists { path: out.to_path_buf() });
    }
    let tmp = beside(out);
    let file = create_new_private(&tmp)?;
    let result = write(capture, file, &tmp).and_then(|()| take_name(&tmp, out));
    if result.is_err() {
        let _ = fs::remove_file(&tmp);
    }
    result
}

/// Gives the finished file its name, and never in place of another file: a rename would replace one.
fn take_name(tmp: &Path, out: &Path) -> Result<()> {
    match fs::hard_link(tmp, out) {
        Ok(()) => {
            let _ = fs::remove_file(tmp);
            Ok(())
        }
        Err(_) if fs::symlink_metadata(out).is_ok() => Err(Error::Exists { path: out.to_path_buf() }),
        // A filesystem without hard links.
        Err(_) => fs::rename(tmp, out).map_err(|e| Error::io("rename into place", out, e)),
    }
}

fn write(capture: &Capture, file: File, tmp: &Path) -> Result<()> {
    let io = |e| Error::io("write", tmp, e);
    let mut tar = tar::Builder::new(BufWriter::new(file));
    tar.mode(tar::HeaderMode::Deterministic);
    let manifest = serde_json::to_vec_pretty(&capture.manifest).map_err(|e| io(e.into()))?;
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, MANIFEST_FILE, manifest.as_slice()).map_err(io)?;
    for segment in capture.all_segments() {
        tar.append_path_with_name(&segment.path, &segment.name).map_err(io)?;
    }
    let file = tar.into_inner().map_err(io)?.into_inner().map_err(|e| io(e.into_error()))?;
    // The name must never stand for less than the whole, after a crash of the host either.
    file.sync_all().map_err(io)
}

/// True if the file begins like a packed capture.
pub fn is_packed(path: &Path) -> bool {
    let mut head = [0_u8; 512];
    let Ok(mut file) = File::open(path) else { return false };
    if file.read_exact(&mut head).is_err() {
        return false;
    }
    head.starts_with(MANIFEST_FILE.as_bytes()) && &head[257..262] == b"ustar"
}

type Index = (Result<Manifest>, BTreeMap<String, Vec<SegmentRef>>);

/// Finds the members of a pack; a truncated one keeps what is before the cut.
pub(super) fn index(path: &Path, problems: &mut Vec<String>) -> Result<Index> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let size = file.metadata().map_err(|e| Error::io("read the size of", path, e))?.len();
    let mut archive = tar::Archive::new(file);
    let mut manifest = Err(Error::Corrupt {
        path: path.to_path_buf(),
        what: format!("expected a member `{MANIFEST_FILE}`, found none"),
    });
    let mut found: BTreeMap<String, Vec<SegmentRef>> = BTreeMap::new();
    let entries = archive.entries_with_seek().map_err(|e| Error::io("read", path, e))?;
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                problems.push(format!("`{}` is cut off: {e}; what comes before the cut is used", path.display()));
                break;
            }
        };
        let name = entry.path().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let (offset, len) = (entry.raw_file_position(), entry.size());
        if name == MANIFEST_FILE {
            let mut text = Vec::new();
            manifest = match entry.by_ref().take(64 << 20).read_to_end(&mut text) {
                Ok(_) => parse_manifest(path, &text),
                Err(e) => Err(Error::io("read the manifest in", path, e)),
            };
        } else if let Some(table) = segment_table(&name) {
            if offset.checked_add(len).is_none_or(|end| end > size) {
                problems.push(format!("`{name}` is cut off in `{}`: its rows are lost", path.display()));
                continue;
            }
            let segment = SegmentRef::new(path.to_path_buf(), name, offset, len);
            found.entry(table.to_owned()).or_default().push(segment);
        }
    }
    Ok((manifest, found))
}

/// The table of a member, if it is a segment of a known table.
fn segment_table(name: &str) -> Option<&'static str> {
    let (table, file) = name.split_once('/')?;
    let known = tables::ALL.iter().find(|t| t.name == table)?;
    (file.ends_with(".parquet") && !file.contains('/')).then_some(known.name)
}
