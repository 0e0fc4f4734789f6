//! Faults as compact rows: single ones, and runs that the recorder added up.

use mtrace_formats::tables::{FAULT_BUCKETS, Fault, FaultKind, FaultRun};

use super::read::clamp;
use super::{NONE, Tables};
use crate::model::TouchKind;

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
    /// Faults that each one stands for, see `load/weights.rs`; 1 unless it was sampled.
    pub weight: u32,
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

    /// So many faults with the same service time.
    pub fn of_equal(dur: i64, count: u32) -> Self {
        let mut histogram = [0; FAULT_BUCKETS];
        let bucket = (0..FAULT_BUCKETS).find(|b| dur < Self::limits(*b).1).unwrap_or(FAULT_BUCKETS - 1);
        histogram[bucket] = count;
        Self { min: dur, max: dur, histogram }
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
            weight: weight(f.weight),
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

/// A recorder's weights are at most this.
const MAX_WEIGHT: u32 = 1 << 15;

fn weight(of_row: Option<u32>) -> u32 {
    of_row.unwrap_or(1).clamp(1, MAX_WEIGHT)
}

/// A run as a row and its service times; `None` for one that no recorder writes.
pub(super) fn run_row(r: &FaultRun) -> Option<(FaultRow, Shape)> {
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
        weight: weight(r.weight),
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

/// Puts the runs among the faults.
pub(super) fn take_runs(t: &mut Tables, runs: Vec<Option<(FaultRow, Shape)>>) {
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
