//! What each thread of a process was doing when: intervals, ready to be laid over a window.

use std::collections::BTreeMap;

use mtrace_formats::tables::{IoCall, IoCallKind, MemoryCall, OffCpu, OffCpuState, ProcessEvent, ProcessEventKind};

use super::overlays::{ByOverlay, Stall};
use super::sleeps::{Kinds, Sleep};
use crate::load::FaultRow;
use crate::symbols::SymbolTable;

/// An interval with the row that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Row of the table that the list is about.
    pub(crate) row: u32,
}

/// The intervals of one thread; every list is sorted and free of overlaps.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    pub(crate) faults: Vec<Interval>,
    pub(crate) calls: Vec<Interval>,
    pub(crate) file_io: Vec<Interval>,
    pub(crate) network: Vec<Interval>,
    /// Stalls within one of the above, by overlay.
    pub(crate) overlays: ByOverlay<Vec<Interval>>,
    /// Off the CPU though it could have run: preempted, or woken and waiting for a CPU since.
    pub(crate) runnable: Vec<Interval>,
    /// When it slept, until it was woken, and by whom.
    pub(crate) sleeps: Vec<Sleep>,
    /// Off the CPU in another way than sleeping: disk, kernel locks, stopped.
    pub(crate) blocked: Vec<Interval>,
    /// Working or held up: neither sleeping outside of a call nor dead.
    pub(crate) active: Vec<Interval>,
    /// Sum of the active intervals before each one; one longer than `active`.
    active_before: Vec<i64>,
    /// Creator, if the creation was seen.
    pub(crate) creator: Option<(i64, u32)>,
}

impl Thread {
    /// The last active interval that begins before `t`.
    pub(crate) fn active_before(&self, t: i64) -> Option<Interval> {
        let n = self.active.partition_point(|i| i.start < t);
        n.checked_sub(1).map(|n| self.active[n])
    }

    /// The sleep that ended at `t`.
    pub(crate) fn sleep_until(&self, t: i64) -> Option<&Sleep> {
        let n = self.sleeps.partition_point(|s| s.start < t);
        n.checked_sub(1).map(|n| &self.sleeps[n]).filter(|s| s.until == t)
    }

    /// Active time within `[a, b)`.
    pub(crate) fn active_within(&self, a: i64, b: i64) -> i64 {
        self.active_until(b) - self.active_until(a)
    }

    fn active_until(&self, t: i64) -> i64 {
        let n = self.active.partition_point(|i| i.start < t);
        let whole = self.active_before.get(n).copied().unwrap_or(0);
        // The last interval that begins before `t` may reach beyond it.
        n.checked_sub(1).map_or(0, |last| whole - (self.active[last].end - t).max(0))
    }
}

/// The threads of a process.
pub(crate) type Threads = BTreeMap<u32, Thread>;

/// Rows of one process, sorted by time, with their numbers in the tables.
pub(crate) struct Rows<'a> {
    pub(crate) faults: Vec<(u32, &'a FaultRow)>,
    pub(crate) calls: Vec<(u32, &'a MemoryCall)>,
    pub(crate) io: Vec<(u32, &'a IoCall)>,
    pub(crate) overlays: &'a ByOverlay<Vec<Stall>>,
    pub(crate) off_cpu: Vec<&'a OffCpu>,
    pub(crate) events: Vec<&'a ProcessEvent>,
    pub(crate) symbols: &'a SymbolTable,
}

/// Lays out the threads of a process.
pub(crate) fn threads(rows: &Rows<'_>) -> Threads {
    let mut threads = Threads::new();
    let mut lives: BTreeMap<u32, Life> = BTreeMap::new();
    let mut see = |tid: u32, start: i64, end: i64| {
        let life = lives.entry(tid).or_insert(Life { first: start, last: end, born: None, died: None });
        (life.first, life.last) = (life.first.min(start), life.last.max(end));
    };
    // A thread faults many times in a row: one look-up per run.
    for run in rows.faults.chunk_by(|a, b| a.1.tid == b.1.tid) {
        let list = &mut threads.entry(run[0].1.tid).or_default().faults;
        let mut last = run[0].1.ts;
        for (row, f) in run {
            let end = f.ts + f.wall_ns();
            last = last.max(end);
            // What a sampled one stands for is laid behind each other: cut off, the estimate would be too small.
            let late = if f.weight > 1 { list.last().map_or(0, |l| (l.end - f.ts).max(0)) } else { 0 };
            if f.dur > 0 {
                push(list, f.ts + late, end + late, *row);
            }
        }
        see(run[0].1.tid, run[0].1.ts, last);
    }
    for (row, c) in &rows.calls {
        see(c.tid, c.ts, c.ts + c.dur);
        push(&mut threads.entry(c.tid).or_default().calls, c.ts, c.ts + c.dur, *row);
    }
    for (row, c) in &rows.io {
        see(c.tid, c.ts, c.ts + c.dur);
        let t = threads.entry(c.tid).or_default();
        let list = if is_network(c) { &mut t.network } else { &mut t.file_io };
        push(list, c.ts, c.ts + c.dur, *row);
    }
    for (overlay, stalls) in rows.overlays {
        for s in stalls {
            let Interval { start, end, row } = s.interval;
            see(s.tid, start, end);
            push(threads.entry(s.tid).or_default().overlays.entry(overlay).or_default(), start, end, row);
        }
    }
    for o in &rows.off_cpu {
        see(o.tid, o.ts, o.ts + o.dur);
        threads.entry(o.tid).or_default();
    }
    for e in &rows.events {
        let life = lives.entry(e.tid).or_insert(Life { first: e.ts, last: e.ts, born: None, died: None });
        life.last = life.last.max(e.ts);
        life.first = life.first.min(e.ts);
        match e.event {
            ProcessEventKind::Thread => life.born = Some(e.ts),
            ProcessEventKind::ThreadExit | ProcessEventKind::Exit => life.died = Some(e.ts),
            _ => {}
        }
        let t = threads.entry(e.tid).or_default();
        if let (ProcessEventKind::Thread, Some(creator)) = (e.event, e.parent) {
            t.creator = Some((e.ts, creator));
        }
    }
    lay_off_cpu(&mut threads, rows);
    for (tid, t) in &mut threads {
        if let Some(life) = lives.get(tid) {
            finish(t, life);
        }
    }
    threads
}

/// True for calls on sockets.
pub(crate) fn is_network(c: &IoCall) -> bool {
    matches!(c.call, IoCallKind::Accept | IoCallKind::Connect | IoCallKind::Listen) || c.socket == Some(true)
}

struct Life {
    first: i64,
    last: i64,
    born: Option<i64>,
    died: Option<i64>,
}

/// Appends, cutting off what overlaps the previous interval (nested or damaged rows).
fn push(list: &mut Vec<Interval>, start: i64, end: i64, row: u32) {
    let start = list.last().map_or(start, |l| start.max(l.end));
    if start < end {
        list.push(Interval { start, end, row });
    }
}

/// Sorts the times off the CPU: `active` holds the sleeps for now.
fn lay_off_cpu(threads: &mut Threads, rows: &Rows<'_>) {
    let mut kinds = Kinds::new(rows.symbols, &rows.off_cpu);
    for o in &rows.off_cpu {
        let Some(t) = threads.get_mut(&o.tid) else { continue };
        let end = o.ts + o.dur;
        let woken = end - o.runqueue_ns.unwrap_or(0).clamp(0, o.dur);
        match o.state {
            OffCpuState::Runnable => push(&mut t.runnable, o.ts, end, 0),
            OffCpuState::Sleeping => {
                let sleep = Sleep::new(o, woken, kinds.of(o));
                push(&mut t.active, o.ts, sleep.until, 0);
                push(&mut t.runnable, woken, end, 0);
                if t.active.last().is_some_and(|i| i.start >= o.ts && i.end == sleep.until) {
                    t.sleeps.push(sleep);
                }
            }
            OffCpuState::Uninterruptible | OffCpuState::Other => {
                push(&mut t.blocked, o.ts, woken, 0);
                push(&mut t.runnable, woken, end, 0);
            }
        }
    }
}

/// Turns sleeps into their complement within the thread's life.
fn finish(t: &mut Thread, life: &Life) {
    let sleeps = std::mem::take(&mut t.active);
    // A sleep inside a fault, a memory call or a file call is a part of that.
    let mut idle: Vec<(i64, i64)> = sleeps.iter().map(|i| (i.start, i.end)).collect();
    for list in [&t.faults, &t.calls, &t.file_io] {
        idle = subtract(&idle, list);
    }
    // A thread that never came back from its last sleep wrote no row of it: it is not taken for active there.
    let start = life.born.unwrap_or(life.first);
    let end = life.died.unwrap_or(life.last).max(start);
    let mut at = start;
    for (s, e) in idle {
        if s > at {
            t.active.push(Interval { start: at, end: s.min(end), row: 0 });
        }
        at = at.max(e);
    }
    if at < end {
        t.active.push(Interval { start: at, end, row: 0 });
    }
    t.active.retain(|i| i.start < i.end);
    t.active_before = std::iter::once(0)
        .chain(t.active.iter().scan(0, |sum, i| {
            *sum += i.end - i.start;
            Some(*sum)
        }))
        .collect();
}

/// `from` without the intervals of `list`; both sorted.
pub(crate) fn subtract(from: &[(i64, i64)], list: &[Interval]) -> Vec<(i64, i64)> {
    let mut out = Vec::with_capacity(from.len());
    carve(from, list, &mut out, |_, _| {});
    out
}

/// Cuts the intervals of `list` out of `from`, calling `hit(row, ns)` for every piece; the rest goes to `out`.
pub(crate) fn carve(from: &[(i64, i64)], list: &[Interval], out: &mut Vec<(i64, i64)>, mut hit: impl FnMut(u32, i64)) {
    let Some(first) = from.first() else { return };
    let mut j = list.partition_point(|i| i.end <= first.0);
    for (start, end) in from.iter().copied() {
        let mut at = start;
        while let Some(i) = list.get(j).filter(|i| i.start < end) {
            if i.end > at {
                let s = i.start.max(at);
                if s > at {
                    out.push((at, s));
                }
                let e = i.end.min(end);
                hit(i.row, e - s);
                at = e;
            }
            if i.end > end {
                break;
            }
            j += 1;
        }
        if at < end {
            out.push((at, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(start: i64, end: i64) -> Interval {
        Interval { start, end, row: start as u32 }
    }

    #[test]
    fn carving_names_what_it_takes() {
        let mut out = Vec::new();
        let mut hits = Vec::new();
        carve(&[(0, 10), (20, 30)], &[interval(2, 4), interval(8, 25), interval(26, 99)], &mut out, |row, ns| {
            hits.push((row, ns))
        });
        assert_eq!(out, [(0, 2), (4, 8), (25, 26)]);
        assert_eq!(hits, [(2, 2), (8, 2), (8, 5), (26, 4)]);
    }

    #[test]
    fn active_time_is_counted_by_parts() {
        let mut t = Thread { active: vec![interval(10, 20)], ..Thread::default() };
        finish(&mut t, &Life { first: 0, last: 50, born: None, died: None });
        assert_eq!(t.active.iter().map(|i| (i.start, i.end)).collect::<Vec<_>>(), [(0, 10), (20, 50)]);
        assert_eq!(t.active_within(5, 25), 10);
        assert_eq!(t.active_within(12, 18), 0);
        assert_eq!(t.active_within(-5, 500), 40);
        assert_eq!(t.active_before(20).map(|i| i.start), Some(0));
        assert_eq!(t.active_before(21).map(|i| i.start), Some(20));
    }

    fn sorted() -> impl Strategy<Value = Vec<(i64, i64)>> {
        proptest::collection::vec((1_i64..20, 1_i64..20), 0..20).prop_map(|steps| {
            let mut at = 0;
            steps
                .into_iter()
                .map(|(gap, len)| {
                    let start = at + gap;
                    at = start + len;
                    (start, at)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn carving_loses_and_invents_nothing(from in sorted(), list in sorted()) {
            let list: Vec<Interval> = list.into_iter().map(|(s, e)| interval(s, e)).collect();
            let (mut out, mut hit) = (Vec::new(), 0);
            carve(&from, &list, &mut out, |_, ns| hit += ns);
            let covered = |v: &[(i64, i64)], t: i64| v.iter().any(|(s, e)| (*s..*e).contains(&t));
            let mut expected_hit = 0;
            for t in 0..1000 {
                let cut = list.iter().any(|i| (i.start..i.end).contains(&t));
                let inside = covered(&from, t);
                expected_hit += i64::from(inside && cut);
                prop_assert_eq!(covered(&out, t), inside && !cut, "at {}", t);
            }
            prop_assert_eq!(hit, expected_hit);
        }
    }
}
