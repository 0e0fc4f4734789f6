//! Capture tables → compact rows in time order.
//!
//! Segments are decoded in parallel; one that cannot be read costs its rows and a line in `damage`, nothing else.
//! Rows lie in a capture in the order in which their events *ended*; here they are sorted by their start.

use std::collections::BTreeMap;

use mtrace_formats::capture::{Capture, Skipped};
use mtrace_formats::table::Row;
use mtrace_formats::tables::{
    FAULT_BUCKETS, Fault, FaultKind, FaultRun, FileRow, Frame, GcEvent, IoCall, Loss, MapRow, MemoryCall, OffCpu,
    ProcessEvent, Refusal, Sample, SocketRow,
};
use rayon::prelude::*;

use crate::model::TouchKind;
use crate::symbols::SymbolTable;

/// "No stack", "no release", "no mapping" in the compact rows.
pub const NONE: u32 = u32::MAX;

/// Times beyond this are not CLOCK_MONOTONIC; clamping them keeps every later sum inside i64.
const MAX_NS: i64 = 1 << 60;

/// Faults of a run beyond this are not believed: the recorder ends a run after a millisecond.
const MAX_RUN: u64 = 1 << 16;

/// Faults in runs that are taken in: hours of nothing but faults.
const MAX_FAULTS: u64 = 1 << 32;

/// A page fault, or a run of them that the recorder added up; compact: 655,000 must stay far below 512 MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRow {
    /// Start (end if `dur` is negative); of a run: of its first fault.
    pub ts: i64,
    /// Service time, of all faults of a run together; negative: not measured.
    pub dur: i64,
    /// Faulting address; of a run: of its first fault.
    pub addr: u64,
    /// Faults; 1 unless it is a run.
    pub count: u32,
    /// Run: pages from one fault to the next.
    pub stride: i32,
    /// Run: from the start of its first fault to the end of its last, ns.
    pub span: u32,
    /// Run: its service times, as an index into [`Tables::shapes`]; [`NONE`] for a single fault.
    pub shape: u32,
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

    /// Address of the i-th fault; of a run exact to the page.
    pub fn addr_of(&self, i: u32, page_shift: u32) -> u64 {
        let pages = i64::from(self.stride).wrapping_mul(i64::from(i));
        self.addr.wrapping_add_signed(pages.wrapping_shl(page_shift))
    }

    /// Start of the i-th fault; of a run as if they were at equal distances.
    pub fn ts_of(&self, i: u32) -> i64 {
        self.ts + i64::from(self.span) * i64::from(i) / i64::from(self.count.max(1))
    }

    /// The first `head` faults of a run and the rest; what is known only of all together is shared in proportion.
    pub fn split(&self, head: u32, page_shift: u32) -> (Self, Self) {
        let share = |whole: i64| (i128::from(whole) * i128::from(head) / i128::from(self.count.max(1))) as i64;
        let (mut a, mut b) = (*self, *self);
        (a.count, b.count) = (head, self.count - head);
        if self.dur >= 0 {
            a.dur = share(self.dur);
            b.dur = self.dur - a.dur;
        }
        a.span = share(i64::from(self.span)) as u32;
        b.span = self.span - a.span;
        b.ts = self.ts + i64::from(a.span);
        b.addr = self.addr_of(head, page_shift);
        (a, b)
    }

    /// Faults and service time of the part that lies in `[start, end)`: of a run in proportion.
    pub fn within(&self, start: i64, end: i64) -> (u64, i64) {
        let (first, last) = (self.ts, self.ts_of(self.count.saturating_sub(1)));
        if self.ts >= start && last < end {
            return (u64::from(self.count), self.wall_ns());
        }
        if self.count < 2 || last < start || first >= end {
            return (0, 0);
        }
        let inside = (0..self.count).filter(|i| (start..end).contains(&self.ts_of(*i))).count() as u64;
        let part = i128::from(self.wall_ns()) * i128::from(inside) / i128::from(self.count);
        (inside, part as i64)
    }
}

/// The service times of a run's faults: all that is known of them beside their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The least and the greatest.
    pub min: i64,
    /// The greatest.
    pub max: i64,
    /// See [`FaultRun::histogram`].
    pub histogram: [u32; FAULT_BUCKETS],
}

impl Shape {
    /// Limits of a bucket: from, and up to but not including.
    fn limits(bucket: usize) -> (i64, i64) {
        let below = 1_i64 << (8 + bucket);
        match bucket {
            0 => (0, below),
            b if b == FAULT_BUCKETS - 1 => (below / 2, i64::MAX),
            _ => (below / 2, below),
        }
    }

    /// Values and how often each occurs, such that their sum is `sum` as far as the buckets allow.
    pub fn values(&self, sum: i64) -> impl Iterator<Item = (i64, u64)> + '_ {
        let used = || self.histogram.iter().enumerate().filter(|(_, n)| **n > 0);
        let limits = |bucket| {
            let (from, below) = Self::limits(bucket);
            (from.max(self.min), below.saturating_sub(1).min(self.max).max(from.max(self.min)))
        };
        let middle = move |bucket| {
            let (from, to) = limits(bucket);
            from + (to - from) / 2
        };
        let guess: f64 = used().map(|(b, n)| middle(b) as f64 * f64::from(*n)).sum();
        let factor = if guess > 0.0 { sum as f64 / guess } else { 1.0 };
        used().map(move |(b, n)| {
            let (from, to) = limits(b);
            (((middle(b) as f64 * factor) as i64).clamp(from, to), u64::from(*n))
        })
    }

    /// Cuts off the first `head` of `count` faults, in proportion in every bucket.
    pub fn split(&self, head: u32, count: u32) -> (Self, Self) {
        let (mut a, mut b) = (*self, *self);
        let (mut seen, mut taken) = (0_u64, 0_u64);
        for (i, n) in self.histogram.iter().enumerate() {
            seen += u64::from(*n);
            let until = seen * u64::from(head) / u64::from(count.max(1));
            a.histogram[i] = (until - taken) as u32;
            b.histogram[i] = n - a.histogram[i];
            taken = until;
        }
        (a, b)
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
            count: 1,
            stride: 0,
            span: 0,
            shape: NONE,
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

/// A run as a row and its service times; `None` for one that no recorder writes.
fn run_row(r: &FaultRun) -> Option<(FaultRow, Shape)> {
    let histogram = r.histogram();
    let in_buckets: u64 = histogram.iter().map(|n| u64::from(*n)).sum();
    let count = u32::try_from(r.count).ok().filter(|n| (2..=MAX_RUN).contains(&u64::from(*n)))?;
    let span = u32::try_from(r.span).ok()?;
    if in_buckets != r.count || r.dur_min < 0 || r.dur_min > r.dur_max {
        return None;
    }
    let (ts, dur) = clamp(r.ts, r.dur_sum);
    let row = FaultRow {
        ts,
        dur,
        addr: r.addr,
        count,
        stride: r.stride_pages,
        span,
        shape: NONE,
        pid: r.pid,
        tid: r.tid,
        stack: r.stack_id.unwrap_or(NONE),
        error_code: r.error_code,
        map_stack: NONE,
        mapping: NONE,
        release: NONE,
        touch: TouchKind::Unknown,
        major: r.kind == FaultKind::Major,
    };
    Some((row, Shape { min: r.dur_min, max: r.dur_max, histogram }))
}

/// Everything in a capture that the joins need, sorted by time.
#[derive(Debug, Default)]
pub struct Tables {
    /// Faults, those of runs too.
    pub faults: Vec<FaultRow>,
    /// Service times of the runs.
    pub shapes: Vec<Shape>,
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
    /// Rows read, by table; of `faults`: faults, those added up in `fault_runs` included.
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
        self.faults.iter().for_each(|f| add(f.ts, f.ts + f.wall_ns().max(i64::from(f.span))));
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
    let runs = note.take::<FaultRun, _>(read(capture, |r: FaultRun| run_row(&r)));
    t.rows = note.rows.into_iter().map(|(table, rows)| (table.to_owned(), rows)).collect();
    t.symbols = symbols.finish(&t.maps);
    take_runs(&mut t, runs);
    sort(&mut t);
    t
}

/// Puts the runs among the faults.
fn take_runs(t: &mut Tables, runs: Vec<Option<(FaultRow, Shape)>>) {
    let bad = runs.iter().filter(|r| r.is_none()).count();
    if bad > 0 {
        t.damage.push(format!("{bad} rows of `fault_runs` were not used: their counts contradict each other"));
    }
    let mut faults = 0;
    for (mut row, shape) in runs.into_iter().flatten() {
        if faults > MAX_FAULTS {
            t.damage.push(format!("runs after the first {faults} faults were not used: no machine makes so many"));
            break;
        }
        row.shape = t.shapes.len() as u32;
        faults += u64::from(row.count);
        t.shapes.push(shape);
        t.faults.push(row);
    }
    if let Some((_, n)) = t.rows.iter_mut().find(|(table, _)| table == "faults") {
        *n += faults;
    }
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
