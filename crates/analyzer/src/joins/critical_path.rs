//! Which thread the process was waiting for, at every moment of a window, found by walking back from its end.
//!
//! The thread that ended the window (it wrote the response) is followed back to the moment at which it was woken. If a
//! thread of the process woke it, that is where the walk goes on. Whether it stays there, or comes back to the sleeper at
//! the begin of the sleep, depends on who can have had the request in hand (`reach`): a worker that slept since before
//! the request got it from its waker; one that had it, and waited for a lock, had it before as well, and the holder of the
//! lock did not. If an interrupt woke it, nobody in the process was to wait for.
//!
//! Where nobody saw who woke it, and for Go's threads without work, which run anything once they are woken, it is inferred: what it slept
//! through was done by the thread that was active for most of the sleep and up to its end.
//!
//! A sleep that is short beside the run before it is taken for a pause in the same work (a lock, a moment of garbage
//! collection): the other thread gets the pause and not what it did before. Else a thread that is busy all the time, such
//! as a collector's worker, would take the whole window from the one that it held up for a moment. If the other thread is
//! the one that read the request, and it made no network call since, it is the other way round: it worked and handed over.

use super::activity::{Interval, Thread, Threads};
use super::reach::Reach;
use super::sleeps::{WaitKind, Waker};

/// A stretch of the critical path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// The thread; of a wait: the one that ended it.
    pub(crate) tid: u32,
    /// True if it was waited for nobody in the process.
    pub(crate) waiting: bool,
    /// Who ended a wait.
    pub(crate) waker: Waker,
    /// True if recorded wake-ups led here from the end of the window, false if it was inferred somewhere.
    pub(crate) measured: bool,
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
/// in hand until it slept or turned away, whoever was busy besides. Recorded wake-ups know better, but for those of Go.
pub(crate) fn walk(threads: &Threads, (start, end): (i64, i64), start_tid: Option<u32>, end_tid: u32) -> Vec<Stretch> {
    let walk = Walk {
        threads,
        start_tid,
        reach: Reach::new(threads, (start, end), start_tid),
        is_scheduler: threads.values().any(|t| t.sleeps.iter().any(|s| s.kind == WaitKind::Idle)),
    };
    let whole = walk.back((start, end), end_tid, start_tid);
    let sure = !walk.is_scheduler && whole.iter().all(|s| s.measured);
    let held = start_tid
        .filter(|tid| *tid != end_tid && !sure)
        .and_then(|tid| Some((tid, held_until(threads, tid, start, end)?)));
    let Some((reader, until)) = held else { return whole };
    let mut out = walk.back((start, until), reader, start_tid);
    out.iter_mut().for_each(|s| s.measured = false);
    out.extend(walk.back((until, end), end_tid, None));
    merge(out)
}

/// What the walk goes by.
struct Walk<'a> {
    threads: &'a Threads,
    start_tid: Option<u32>,
    reach: Reach,
    /// Threads are those of a scheduler of its own, which moves work between them.
    is_scheduler: bool,
}

/// Where the walk goes on.
#[derive(Debug, Clone, Copy)]
struct Step {
    tid: u32,
    until: i64,
    /// It comes back to the sleeper where the sleep began.
    is_pause: bool,
    measured: bool,
}

/// A sleep that is being looked into: where it began, whose it is, and whether the walk was sure there.
struct Pause {
    start: i64,
    tid: u32,
    measured: bool,
}

/// Until when the thread that read the request had it in hand; null if that was not for most of the window.
fn held_until(threads: &Threads, tid: u32, start: i64, end: i64) -> Option<i64> {
    let thread = threads.get(&tid)?;
    let turned =
        thread.network.get(thread.network.partition_point(|i| i.start <= start)).map_or(end, |i| i.start.min(end));
    let until = thread.active_before(turned)?.end.min(turned);
    (2 * (until - start) >= end - start && is_mostly_active(thread, start, until)).then_some(until)
}

/// True if the thread that read the request at `start` worked on until `t` without turning to anybody.
fn has_in_hand(threads: &Threads, tid: u32, start: i64, t: i64) -> bool {
    t > start
        && stays_with(threads, tid, start, t)
        && threads.get(&tid).is_some_and(|thread| is_mostly_active(thread, start, t))
}

fn is_mostly_active(thread: &Thread, a: i64, b: i64) -> bool {
    thread.active_within(a, b) * LEAST_PART >= (b - a) * (LEAST_PART - 1)
}

impl Walk<'_> {
    fn back(&self, (start, end): (i64, i64), end_tid: u32, reader: Option<u32>) -> Vec<Stretch> {
        let threads = self.threads;
        let mut out: Vec<Stretch> = Vec::new();
        let mut budget = MAX_CANDIDATES;
        let (mut t, mut tid, mut measured) = (end, end_tid, true);
        let mut pauses: Vec<Pause> = Vec::new();
        while t > start {
            while let Some(paused) = pauses.pop_if(|p| t <= p.start) {
                (tid, measured) = (paused.tid, paused.measured);
            }
            let floor = pauses.last().map_or(start, |p| p.start.max(start));
            let current = threads.get(&tid);
            let mut active = current.and_then(|th| th.active_before(t));
            if let Some(a) = active.filter(|a| a.end >= t) {
                let from = a.start.max(floor);
                out.push(Stretch { start: from, end: t, tid, waiting: false, waker: Waker::Unknown, measured });
                t = from;
                if t <= floor {
                    continue;
                }
                active = current.and_then(|th| th.active_before(t));
            }
            let gap_start = active.map_or(floor, |a| a.end).max(floor);
            let waker = current.and_then(|th| th.sleep_until(t)).map_or(Waker::Unknown, |s| s.waker);
            let wait = |start| Stretch { start, end: t, tid, waiting: true, waker, measured };
            if out.len() >= MAX_STRETCHES || budget < threads.len() {
                out.push(Stretch { measured: false, ..wait(start) });
                break;
            }
            budget -= threads.len();
            let in_hand = reader == Some(tid) && has_in_hand(threads, tid, start, gap_start);
            let gap = Gap { start: gap_start, end: t, run: active, in_pause: !pauses.is_empty(), in_hand };
            let step = current
                .and_then(|th| self.created(th, t).or_else(|| self.followed(th, tid, &gap)))
                .unwrap_or_else(|| self.inferred(tid, &gap, reader, start));
            if step.is_pause {
                pauses.push(Pause { start: gap_start, tid, measured });
            }
            if step.until < t {
                out.push(Stretch { measured: measured && step.measured, ..wait(step.until) });
            }
            if step.until >= t && step.tid == tid {
                // Nothing is left that could move the walk: cannot happen with intervals that are in order.
                out.push(Stretch { measured: false, ..wait(start) });
                break;
            }
            measured &= step.measured;
            (t, tid) = (step.until, step.tid);
        }
        out.reverse();
        merge(out)
    }

    /// The creator of a thread that did not exist before.
    fn created(&self, thread: &Thread, t: i64) -> Option<Step> {
        let (_, by) = thread.creator.filter(|(born, by)| *born >= t && is_active(self.threads, *by, t))?;
        Some(Step { tid: by, until: t, is_pause: false, measured: true })
    }

    /// What the recorded end of the sleep says.
    fn followed(&self, thread: &Thread, tid: u32, gap: &Gap) -> Option<Step> {
        let sleep = thread.sleep_until(gap.end).filter(|s| s.kind != WaitKind::Idle)?;
        // Whether it went on with what it did before. The holder of a lock had it all the time.
        let carried = self.is_scheduler || gap.in_pause || self.reach.has(tid, sleep.start);
        match sleep.waker {
            Waker::Unknown => None,
            Waker::Thread(by) => {
                let brings = self.reach.has(by, gap.end);
                let is_known = by != tid && is_active(self.threads, by, gap.end);
                let is_pause = carried && (!brings || gap.in_pause || sleep.kind == WaitKind::Lock || gap.interrupts());
                is_known.then_some(Step { tid: by, until: gap.end, is_pause, measured: true })
            }
            // Where the window begins with no thread in particular, others may have worked meanwhile.
            Waker::Process(_) | Waker::Interrupt => (carried && self.start_tid.is_some()).then_some(Step {
                tid,
                until: gap.start,
                is_pause: false,
                measured: true,
            }),
        }
    }

    /// Who worked meanwhile; nobody, if the process only waited.
    fn inferred(&self, tid: u32, gap: &Gap, reader: Option<u32>, start: i64) -> Step {
        let found = predecessor(self.threads, (gap.start, gap.end), tid, reader, start);
        let (next, until) = found.unwrap_or((tid, gap.start));
        let worked = Some(next) == reader && stays_with(self.threads, next, start, gap.start);
        Step { tid: next, until, is_pause: next != tid && !worked && gap.interrupts(), measured: false }
    }
}

/// The time between two active intervals of a thread.
struct Gap {
    start: i64,
    end: i64,
    /// What it did before.
    run: Option<Interval>,
    /// It is within a sleep of another thread that is being looked into.
    in_pause: bool,
    /// The thread read the request and has done nothing else since.
    in_hand: bool,
}

impl Gap {
    /// True if the thread had the request before the sleep, whoever else had it meanwhile.
    fn interrupts(&self) -> bool {
        self.in_hand || self.run.is_some_and(|run| is_pause(run, self.start, self.end))
    }
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
            Some(l) if l.end == s.start && Stretch { start: l.start, end: l.end, ..s } == *l => l.end = s.end,
            _ => out.push(s),
        }
    }
    out
}
