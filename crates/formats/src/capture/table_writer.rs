//! Writing the segments of one table.

use std::any::Any;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding as ParquetEncoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::manifest::SegmentInfo;
use super::place::Place;
use super::private::{create_dir_private, create_file_private, remove_with_space};
use crate::table::{Encoding, Row, RowBuilder as _};
use crate::{Error, Result};

/// Rows collected before they are encoded; bounds the memory of a table.
const BATCH_ROWS: usize = 8 * 1024;
/// Rows of a Parquet row group; the encoder keeps one in memory.
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// The type-erased side of a [`TableWriter`].
pub(super) trait AnyTable: Send {
    fn as_any(&mut self) -> &mut dyn Any;
    fn close_segment(&mut self) -> Result<Option<SegmentInfo>>;
    fn discard(&mut self);
    fn open_bytes(&self) -> u64;
    fn written(&self) -> u64;
    fn failed(&self) -> u64;
    fn events_written(&self) -> u64;
    fn events_failed(&self) -> u64;
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
    pub(super) fn new(capture: &Place) -> Self {
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
