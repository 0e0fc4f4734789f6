//! Which thread the process was waiting for, at every moment of a window, found by walking back from its end.
//!
//! The thread that ended the window (it wrote the response) is followed back to the moment at which it woke up. What
//! it slept through was done by another thread: the one that was active for most of the sleep and up to its end (Go
//! moves a goroutine between threads; a pool hands work over). If none was, the process waited for something outside.
//!
//! A sleep that is short beside the run before it is taken for a pause in the same work (a lock, a moment of garbage
//! collection): the other thread gets the pause and not what it did before. Else a thread that is busy all the time, such
//! as a collector's worker, would take the whole window from the one that it held up for a moment. If the other thread is
//! the one that read the request, and it made no network call since, it is the other way round: it worked and handed over.

use super::activity::{Interval, Threads};

/// A stretch of the critical path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// The thread; of a wait: the one that ended it.
    pub(crate) tid: u32,
    /// True if no thread of the process was active.
    pub(crate) waiting: bool,
}

/// From a wake-up to running again takes up to this long.
const WAKE_UP_NS: i64 = 200_000;
/// A sleep is a pause in a run this many times as long.
const RUN_PER_PAUSE: i64 = 10;
/// A longer sleep is no pause.
const PAUSE_NS: i64 = 1_000_000;
/// Who handed over was active for at least one in so many parts of the sleep: a chance meeting is shorter.
const LEAST_PART: i64 = 4;
/// Hand-overs followed; more are not a path that a person could follow either.
const MAX_STRETCHES: usize = 100_000;
/// Work spent on choosing threads.
const MAX_CANDIDATES: usize = 50_000_000;

/// The stretches of a window in order of time, without gaps; empty only for an empty window.
///
/// If the thread that read the request worked on for most of the window without turning to anybody, it had the request
/// in hand until it slept or turned away, whoever was busy besides.
pub(crate) fn walk(threads: &Threads, (start, end): (i64, i64), start_tid: Option<u32>, end_tid: u32) -> Vec<Stretch> {
    let held =
        start_tid.filter(|tid| *tid != end_tid).and_then(|tid| Some((tid, held_until(threads, tid, start, end)?)));
    let Some((reader, until)) = held else { return walk_back(threads, (start, end), start_tid, end_tid) };
    let mut out = walk_back(threads, (start, until), start_tid, reader);
    out.extend(walk_back(threads, (until, end), None, end_tid));
    merge(out)
}

/// Until when the thread that read the request had it in hand; null if that was not for most of the window.
fn held_until(threads: &Threads, tid: u32, start: i64, end: i64) -> Option<i64> {
    let thread = threads.get(&tid)?;
    let turned =
        thread.network.get(thread.network.partition_point(|i| i.start <= start)).map_or(end, |i| i.start.min(end));
    let until = thread.active_before(turned)?.end.min(turned);
    let most = |part: i64, whole: i64| part * LEAST_PART >= whole * (LEAST_PART - 1);
    (2 * (until - start) >= end - start && most(thread.active_within(start, until), until - start)).then_some(until)
}

fn walk_back(threads: &Threads, (start, end): (i64, i64), start_tid: Option<u32>, end_tid: u32) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::new();
    let mut budget = MAX_CANDIDATES;
    let (mut t, mut tid) = (end, end_tid);
    // Pauses that are being looked into: where each began, and whose it is.
    let mut pauses: Vec<(i64, u32)> = Vec::new();
    while t > start {
        while let Some((_, paused)) = pauses.pop_if(|p| t <= p.0) {
            tid = paused;
        }
        let floor = pauses.last().map_or(start, |p| p.0.max(start));
        let current = threads.get(&tid);
        let mut active = current.and_then(|th| th.active_before(t));
        if let Some(a) = active.filter(|a| a.end >= t) {
            let from = a.start.max(floor);
            out.push(Stretch { start: from, end: t, tid, waiting: false });
            t = from;
            if t <= floor {
                continue;
            }
            active = current.and_then(|th| th.active_before(t));
        }
        let gap_start = active.map_or(floor, |a| a.end).max(floor);
        if out.len() >= MAX_STRETCHES || budget < threads.len() {
            out.push(Stretch { start, end: t, tid, waiting: true });
            break;
        }
        budget -= threads.len();
        let born_by = current.and_then(|th| th.creator).filter(|(born, _)| *born >= t).map(|(_, by)| by);
        let (next, until) = match born_by.filter(|by| is_active(threads, *by, t)) {
            Some(creator) => (creator, t),
            None => predecessor(threads, (gap_start, t), tid, start_tid, start).unwrap_or((tid, gap_start)),
        };
        let worked = Some(next) == start_tid && stays_with(threads, next, start, gap_start);
        if next != tid && !worked && active.is_some_and(|a| is_pause(a, gap_start, t)) {
            pauses.push((gap_start, tid));
        }
        if until < t {
            out.push(Stretch { start: until, end: t, tid, waiting: true });
        }
        if until >= t && next == tid {
            // Nothing is left that could move the walk: cannot happen with intervals that are in order.
            out.push(Stretch { start, end: t, tid, waiting: true });
            break;
        }
        (t, tid) = (until, next);
    }
    out.reverse();
    merge(out)
}

/// True if the sleep from `a` to `b` is a pause in the run before it. One that is no longer than a wake-up always is:
/// a thread that looks for work sleeps and wakes several times before it gets it, and whoever happens to be on a CPU
/// then did not do what came before.
fn is_pause(run: Interval, a: i64, b: i64) -> bool {
    let pause = b - a;
    run.end == a && (pause <= WAKE_UP_NS || pause <= PAUSE_NS && (a - run.start) / RUN_PER_PAUSE >= pause)
}

/// True if the thread made no network call from `a` (exclusive) to `b`: it did not turn to somebody else.
fn stays_with(threads: &Threads, tid: u32, a: i64, b: i64) -> bool {
    let Some(thread) = threads.get(&tid) else { return false };
    let next = thread.network.partition_point(|i| i.start <= a);
    thread.network.get(next).is_none_or(|i| i.start >= b)
}

fn is_active(threads: &Threads, tid: u32, t: i64) -> bool {
    threads.get(&tid).and_then(|th| th.active_before(t)).is_some_and(|a| a.end >= t)
}

/// Active up to the end, likely to have handed over, and then the lengths that decide; larger is better.
type Score = (bool, bool, i64, i64);

/// The thread that worked while `tid` slept from `a` to `b`, and until when it did.
///
/// Of those that were active up to the end, one that went to sleep as `tid` woke handed over to it, and the one that read
/// the request and turned to nobody since has it in hand; a thread that is busy before and after, such as a collector's
/// worker, did something else.
fn predecessor(
    threads: &Threads,
    (a, b): (i64, i64),
    tid: u32,
    reader: Option<u32>,
    request_ns: i64,
) -> Option<(u32, i64)> {
    let mut best: Option<(Score, u32, i64)> = None;
    for (other, th) in threads.iter().filter(|(other, _)| **other != tid) {
        let Some(last) = th.active_before(b) else { continue };
        let until = last.end.min(b);
        if until <= a {
            continue;
        }
        let up_to_the_end = until >= b - WAKE_UP_NS;
        // Up to the end: the longest; otherwise: the latest.
        let within = th.active_within(a, b);
        let handed_over = last.end <= b + WAKE_UP_NS;
        let has_it = Some(*other) == reader && stays_with(threads, *other, request_ns, b);
        let likely = within >= (b - a) / LEAST_PART && (handed_over || has_it);
        let score = if up_to_the_end { (true, likely, within, until) } else { (false, false, until, within) };
        if best.as_ref().is_none_or(|(s, ..)| score > *s) {
            best = Some((score, *other, until));
        }
    }
    best.map(|(_, other, until)| (other, until))
}

fn merge(stretches: Vec<Stretch>) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::with_capacity(stretches.len());
    for s in stretches {
        match out.last_mut() {
            Some(l) if l.tid == s.tid && l.waiting == s.waiting && l.end == s.start => l.end = s.end,
            _ => out.push(s),
        }
    }
    out
}
