//! Writing a capture: one [`TableWriter`] per table, segments closed regularly, the manifest replaced atomically.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::manifest::{MANIFEST_FILE, Manifest, SegmentInfo};
use super::place::Place;
use super::private::{beside, create_dir_private, create_file_private, private_file, remove_with_space};
use super::table_writer::{AnyTable, TableWriter};
use crate::table::Row;
use crate::{Error, Result};

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
        self.tables.values().map(|(_, t)| t.open_bytes()).sum()
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
