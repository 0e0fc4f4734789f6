//! Capture tables → compact rows in time order.
//!
//! Segments are decoded in parallel; one that cannot be read costs its rows and a line in `damage`, nothing else.
//! Rows lie in a capture in the order in which their events *ended*; here they are sorted by their start.

use std::collections::BTreeMap;

use mtrace_formats::capture::{Capture, Skipped};
use mtrace_formats::table::Row;
use mtrace_formats::tables::{
    Fault, FaultKind, FileRow, Frame, GcEvent, IoCall, Loss, MapRow, MemoryCall, OffCpu, ProcessEvent, Refusal, Sample,
    SocketRow,
};
use rayon::prelude::*;

use crate::model::TouchKind;
use crate::symbols::SymbolTable;

/// "No stack", "no release", "no mapping" in the compact rows.
pub const NONE: u32 = u32::MAX;

/// Times beyond this are not CLOCK_MONOTONIC; clamping them keeps every later sum inside i64.
const MAX_NS: i64 = 1 << 60;

/// A page fault, compact: 655,000 of them must stay far below 512 MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRow {
    /// Start (end if `dur` is negative).
    pub ts: i64,
    /// Service time; negative: not measured.
    pub dur: i64,
    /// Faulting address.
    pub addr: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// User stack of the toucher; [`NONE`] if there is none.
    pub stack: u32,
    /// x86 #PF error code; [`NONE`] if not seen.
    pub error_code: u32,
    /// Stack that mapped the page; [`NONE`] for maps older than the capture.
    pub map_stack: u32,
    /// Name of the mapping, see [`crate::replay::Replay::names`]; [`NONE`] if it hit no known mapping.
    pub mapping: u32,
    /// The call that had given the page back, as an index into [`crate::replay::Replay::releases`]; or [`NONE`].
    pub release: u32,
    /// What it did; filled by the replay.
    pub touch: TouchKind,
    /// True if the kernel accounted it as major.
    pub major: bool,
}

impl FaultRow {
    /// Service time, null if not measured.
    pub fn measured(&self) -> Option<i64> {
        (self.dur >= 0).then_some(self.dur)
    }

    /// Service time, zero if not measured.
    pub fn wall_ns(&self) -> i64 {
        self.dur.max(0)
    }
}

impl From<Fault> for FaultRow {
    fn from(f: Fault) -> Self {
        let (ts, dur) = match f.dur {
            Some(dur) => clamp(f.ts, dur),
            None => (clamp(f.ts, 0).0, -1),
        };
        Self {
            ts,
            dur,
            addr: f.addr,
            pid: f.pid,
            tid: f.tid,
            stack: f.stack_id.unwrap_or(NONE),
            error_code: f.error_code.unwrap_or(NONE),
            map_stack: NONE,
            mapping: NONE,
            release: NONE,
            touch: TouchKind::Unknown,
            major: f.kind == FaultKind::Major,
        }
    }
}

/// Everything in a capture that the joins need, sorted by time.
#[derive(Debug, Default)]
pub struct Tables {
    /// Faults.
    pub faults: Vec<FaultRow>,
    /// Calls of the mmap family.
    pub calls: Vec<MemoryCall>,
    /// Steps of Go's GC.
    pub gc: Vec<GcEvent>,
    /// Life of processes and threads.
    pub process_events: Vec<ProcessEvent>,
    /// File and network calls.
    pub io: Vec<IoCall>,
    /// Intervals off the CPU.
    pub off_cpu: Vec<OffCpu>,
    /// Sockets that were open when the recording began.
    pub sockets: Vec<SocketRow>,
    /// Lines of /proc/PID/maps; in the order of (ts, pid, start_addr).
    pub maps: Vec<MapRow>,
    /// Mapped files.
    pub files: Vec<FileRow>,
    /// What the kernel counted when it refused a mapping.
    pub refusals: Vec<Refusal>,
    /// Periodic samples.
    pub samples: Vec<Sample>,
    /// Losses.
    pub losses: Vec<Loss>,
    /// Stacks and their names.
    pub symbols: SymbolTable,
    /// What could not be read, in plain words.
    pub damage: Vec<String>,
    /// Rows read, by table.
    pub rows: Vec<(String, u64)>,
}

impl Tables {
    /// First and last moment of any event; null if there is none.
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let mut range: Option<(i64, i64)> = None;
        let mut add = |start: i64, end: i64| {
            let r = range.get_or_insert((start, end));
            *r = (r.0.min(start), r.1.max(end));
        };
        self.faults.iter().for_each(|f| add(f.ts, f.ts + f.wall_ns()));
        self.calls.iter().for_each(|c| add(c.ts, c.ts + c.dur));
        self.io.iter().for_each(|c| add(c.ts, c.ts + c.dur));
        self.gc.iter().for_each(|g| add(g.ts, g.ts));
        self.process_events.iter().for_each(|p| add(p.ts, p.ts));
        range
    }
}

/// Reads a capture.
pub fn load(capture: &Capture) -> Tables {
    let mut t = Tables { damage: capture.problems.clone(), ..Tables::default() };
    for missing in capture.missing_segments() {
        t.damage.push(describe(&missing));
    }
    let ((faults, calls), rest) = rayon::join(
        || {
            rayon::join(
                || read::<Fault, _>(capture, FaultRow::from),
                || {
                    read::<MemoryCall, _>(capture, |mut c| {
                        (c.ts, c.dur) = clamp(c.ts, c.dur);
                        c
                    })
                },
            )
        },
        || read_rest(capture),
    );
    let (io, off_cpu, gc, frames) = rest;
    let mut note = Notes { rows: BTreeMap::new(), damage: &mut t.damage };
    t.faults = note.take::<Fault, _>(faults);
    t.calls = note.take::<MemoryCall, _>(calls);
    t.io = note.take::<IoCall, _>(io);
    t.off_cpu = note.take::<OffCpu, _>(off_cpu);
    t.gc = note.take::<GcEvent, _>(gc);
    let frames = note.take::<Frame, _>(frames);
    t.process_events = note.take::<ProcessEvent, _>(read(capture, |mut p: ProcessEvent| {
        p.ts = clamp(p.ts, 0).0;
        p
    }));
    t.maps = note.take::<MapRow, _>(read(capture, |mut m: MapRow| {
        let (ts, dur) = clamp(m.ts, m.ts_end.saturating_sub(m.ts));
        (m.ts, m.ts_end) = (ts, ts + dur);
        m
    }));
    t.sockets = note.take::<SocketRow, _>(read(capture, |mut s: SocketRow| {
        s.ts = clamp(s.ts, 0).0;
        s
    }));
    t.files = note.take::<FileRow, _>(read(capture, |f| f));
    t.samples = note.take::<Sample, _>(read(capture, |mut s: Sample| {
        s.ts = clamp(s.ts, 0).0;
        s
    }));
    t.refusals = note.take::<Refusal, _>(read(capture, |mut r: Refusal| {
        r.ts = clamp(r.ts, 0).0;
        r
    }));
    t.losses = note.take::<Loss, _>(read(capture, |mut l: Loss| {
        (l.ts, l.dur) = clamp(l.ts, l.dur);
        l
    }));
    let mut symbols = SymbolTable::builder(frames);
    // One segment at a time: its rows hold strings, which are interned at once.
    let mut symbol_rows = 0;
    for segment in capture.segments::<mtrace_formats::tables::SymbolRow>() {
        match capture.read_segment(segment) {
            Ok(rows) => {
                symbol_rows += rows.len() as u64;
                symbols.add(rows);
            }
            Err(skipped) => note.damage.push(describe(&skipped)),
        }
    }
    note.rows.insert("symbols", symbol_rows);
    t.rows = note.rows.into_iter().map(|(table, rows)| (table.to_owned(), rows)).collect();
    t.symbols = symbols.finish(&t.maps);
    sort(&mut t);
    t
}

type Read<T> = (Vec<T>, Vec<Skipped>);
type Rest = (Read<IoCall>, Read<OffCpu>, Read<GcEvent>, Read<Frame>);

fn read_rest(capture: &Capture) -> Rest {
    let ((io, off_cpu), (gc, frames)) = rayon::join(
        || {
            rayon::join(
                || {
                    read(capture, |mut c: IoCall| {
                        (c.ts, c.dur) = clamp(c.ts, c.dur);
                        c
                    })
                },
                || {
                    read(capture, |mut o: OffCpu| {
                        (o.ts, o.dur) = clamp(o.ts, o.dur);
                        o
                    })
                },
            )
        },
        || {
            rayon::join(
                || {
                    read(capture, |mut g: GcEvent| {
                        g.ts = clamp(g.ts, 0).0;
                        g
                    })
                },
                || read(capture, |f: Frame| f),
            )
        },
    );
    (io, off_cpu, gc, frames)
}

fn sort(t: &mut Tables) {
    // Stable sorts of nearly sorted rows: close to one pass each.
    t.faults.sort_by_key(|f| f.ts);
    t.calls.sort_by_key(|c| c.ts);
    t.io.sort_by_key(|c| c.ts);
    t.off_cpu.sort_by_key(|o| o.ts);
    t.gc.sort_by_key(|g| g.ts);
    t.process_events.sort_by_key(|p| p.ts);
    t.maps.sort_by_key(|m| (m.ts, m.pid, m.start_addr));
    t.samples.sort_by_key(|s| s.ts);
    t.sockets.sort_by_key(|s| (s.ts, s.pid, s.fd));
    t.losses.sort_by_key(|l| l.ts);
    t.refusals.sort_by_key(|r| (r.tid, r.ts));
}

fn read<R: Row, T: Send>(capture: &Capture, convert: impl Fn(R) -> T + Sync) -> Read<T> {
    let parts: Vec<Result<Vec<T>, Skipped>> = capture
        .segments::<R>()
        .par_iter()
        .map(|s| Ok(capture.read_segment::<R>(s)?.into_iter().map(&convert).collect()))
        .collect();
    let mut rows = Vec::with_capacity(parts.iter().flatten().map(Vec::len).sum());
    let mut skipped = Vec::new();
    for part in parts {
        match part {
            Ok(mut part) => rows.append(&mut part),
            Err(s) => skipped.push(s),
        }
    }
    (rows, skipped)
}

struct Notes<'a> {
    rows: BTreeMap<&'static str, u64>,
    damage: &'a mut Vec<String>,
}

impl Notes<'_> {
    fn take<R: Row, T>(&mut self, read: Read<T>) -> Vec<T> {
        self.rows.insert(R::NAME, read.0.len() as u64);
        self.damage.extend(read.1.iter().map(describe));
        read.0
    }
}

fn describe(s: &Skipped) -> String {
    let rows = s.rows.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
    format!("`{}` was not used ({rows} rows): {}", s.segment, s.why)
}

/// Keeps a hostile or damaged time inside what later sums can hold.
fn clamp(ts: i64, dur: i64) -> (i64, i64) {
    let ts = ts.clamp(0, MAX_NS);
    (ts, dur.clamp(0, MAX_NS - ts))
}
