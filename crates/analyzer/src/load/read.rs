//! Reads the segments of a table; what cannot be read is noted.

use std::collections::BTreeMap;

use mtrace_formats::capture::{Capture, Skipped};
use mtrace_formats::table::Row;
use mtrace_formats::tables::SymbolRow;
use rayon::prelude::*;

/// Times beyond this are not CLOCK_MONOTONIC; clamping them keeps every later sum inside i64.
const MAX_NS: i64 = 1 << 60;

/// The rows of a table, and the segments that could not be read.
pub(super) struct Read<T> {
    pub(super) rows: Vec<T>,
    skipped: Vec<Skipped>,
}

impl<T> Default for Read<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), skipped: Vec::new() }
    }
}

pub(super) fn read<R: Row, T: Send>(capture: &Capture, convert: impl Fn(R) -> T + Sync) -> Read<T> {
    let parts: Vec<Result<Vec<T>, Skipped>> = capture
        .segments::<R>()
        .par_iter()
        .map(|s| Ok(capture.read_segment::<R>(s)?.into_iter().map(&convert).collect()))
        .collect();
    let mut read = Read::default();
    read.rows.reserve_exact(parts.iter().flatten().map(Vec::len).sum());
    for part in parts {
        match part {
            Ok(mut part) => read.rows.append(&mut part),
            Err(s) => read.skipped.push(s),
        }
    }
    read
}

/// What was read and what was not.
pub(super) struct Notes {
    pub(super) rows: BTreeMap<&'static str, u64>,
    pub(super) damage: Vec<String>,
}

impl Notes {
    pub(super) fn take<R: Row, T>(&mut self, read: Read<T>) -> Vec<T> {
        self.rows.insert(R::NAME, read.rows.len() as u64);
        self.damage.extend(read.skipped.iter().map(describe));
        read.rows
    }

    /// One segment at a time: its rows hold strings, which are interned at once.
    pub(super) fn symbols(&mut self, capture: &Capture, mut add: impl FnMut(Vec<SymbolRow>)) {
        let mut n = 0;
        for segment in capture.segments::<SymbolRow>() {
            match capture.read_segment(segment) {
                Ok(rows) => {
                    n += rows.len() as u64;
                    add(rows);
                }
                Err(skipped) => self.damage.push(describe(&skipped)),
            }
        }
        self.rows.insert(SymbolRow::NAME, n);
    }
}

pub(super) fn describe(s: &Skipped) -> String {
    let rows = s.rows.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
    format!("`{}` was not used ({rows} rows): {}", s.segment, s.why)
}

/// Keeps a hostile or damaged time inside what later sums can hold.
pub(super) fn clamp(ts: i64, dur: i64) -> (i64, i64) {
    let ts = ts.clamp(0, MAX_NS);
    (ts, dur.clamp(0, MAX_NS - ts))
}
