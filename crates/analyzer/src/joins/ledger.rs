//! The wall time of a window, every nanosecond in exactly one category.
//!
//! The window is laid along its critical path; on each stretch the categories take what is theirs in the order of
//! [`LedgerCategory`], and what is left is on-CPU time (if the times off the CPU were recorded) or unexplained.

use std::collections::BTreeMap;

use mtrace_formats::tables::{IoCall, IoCallKind, MemoryCall, MemoryCallKind, Throttle};

use super::activity::{Interval, Thread, Threads, carve};
use super::critical_path::{Stretch, walk};
use super::overlays::{self, ByOverlay};
use super::sleeps::Waker;
use super::wait::Waits;
use crate::context::LedgerShare;
use crate::load::{FaultRow, NONE};
use crate::model::{Ledger, LedgerCategory, LedgerRow, TouchKind};
use crate::requests::Placed;
use crate::symbols::SymbolTable;

/// What a ledger is made from.
pub(crate) struct Sources<'a> {
    pub(crate) faults: &'a [FaultRow],
    pub(crate) calls: &'a [MemoryCall],
    pub(crate) io: &'a [IoCall],
    pub(crate) throttles: &'a [Throttle],
    /// What the process's sockets say about its waiting.
    pub(crate) waits: &'a Waits,
    /// Times at which the world was stopped, sorted, without overlaps.
    pub(crate) stw: &'a [Interval],
    pub(crate) symbols: &'a SymbolTable,
    /// Function of each release's caller.
    pub(crate) releasers: &'a [u32],
    /// True if the times off the CPU were recorded.
    pub(crate) off_cpu: bool,
}

/// A ledger, and who caused what on its critical path.
pub(crate) struct Split {
    pub(crate) ledger: Ledger,
    pub(crate) shares: Vec<LedgerShare>,
    /// Faults with a row of their own, where others were added up in runs.
    pub(crate) single_faults: u64,
    /// Faults that sampled ones stand for: most of them only passed the probe by.
    pub(crate) sampled_faults: u64,
    /// Wall time of stalls on the critical path, by overlay and row of its table.
    pub(crate) overlays: ByOverlay<BTreeMap<u32, i64>>,
    /// Wall time of refaults by the functions of releaser and toucher.
    pub(crate) refaults: BTreeMap<(u32, u32), i64>,
}

impl Split {
    /// Wall time that the given rows of an overlay's table took on the critical path.
    pub(crate) fn overlay_ns(&self, overlay: &str, rows: &[u32]) -> i64 {
        self.overlays.get(overlay).map_or(0, |by_row| rows.iter().filter_map(|r| by_row.get(r)).sum())
    }
}

/// Splits a window.
pub(crate) fn split(placed: &Placed, threads: &Threads, sources: &Sources<'_>) -> Split {
    let mut window = placed.window.clone();
    let stretches = if sources.off_cpu {
        walk(threads, (window.start_ns, window.end_ns), placed.start_tid, placed.end_tid)
    } else {
        window.assumptions.push(
            "the times off the CPU were not recorded: the whole window is charged to one thread, and its rest, on the CPU or waiting, is unexplained"
                .to_owned(),
        );
        vec![Stretch {
            start: window.start_ns,
            end: window.end_ns,
            tid: placed.end_tid,
            waiting: false,
            waker: Waker::Unknown,
            measured: false,
        }]
    };
    let mut sums = Sums { sources, pieces: Vec::new(), woken_by: BTreeMap::new() };
    let nothing = Thread::default();
    let mut rest = Vec::new();
    let mut overlays: ByOverlay<BTreeMap<u32, i64>> = ByOverlay::new();
    for s in stretches.iter().filter(|s| s.start < s.end) {
        let thread = threads.get(&s.tid).unwrap_or(&nothing);
        // First: a collector that has no CPU stops the world for longer, and it is the CPU that is missing.
        let could_run = sums.waits_for_cpu(&[(s.start, s.end)], thread);
        rest.clear();
        let stops = stops_that_delay(sources, s);
        carve(&could_run, stops, &mut rest, |row, ns| sums.add(LedgerCategory::GcStw, row, ns));
        if !s.waiting {
            for (overlay, list) in &thread.overlays {
                let rows = overlays.entry(overlay).or_default();
                carve(&[(s.start, s.end)], list, &mut Vec::new(), |row, ns| *rows.entry(row).or_insert(0) += ns);
            }
        }
        if s.waiting {
            let (category, ended_by) = sources.waits.reason(s);
            let ns = rest.iter().map(|(a, b)| b - a).sum();
            let row = match category {
                LedgerCategory::Unexplained => sums.asleep(s.waker, ns),
                _ => ended_by.unwrap_or(NONE),
            };
            sums.add(category, row, ns);
        } else {
            sums.stretch(std::mem::take(&mut rest), thread);
        }
    }
    sums.combine();
    let critical_threads = critical_threads(&stretches);
    Split {
        shares: sums.shares(placed),
        single_faults: sums.single_faults(),
        sampled_faults: sums.sampled_faults(),
        overlays,
        refaults: sums.refaults(),
        ledger: Ledger {
            path_measured_ns: path_measured_ns(&stretches, threads),
            window,
            pid: placed.pid,
            rows: sums.rows(),
            critical_threads,
        },
    }
}

/// The stops that a stretch was longer for. A wait for a socket, a timer or another process goes on while the world is
/// stopped, and is none of its making unless it began within the stop.
fn stops_that_delay<'a>(sources: &Sources<'a>, s: &Stretch) -> &'a [Interval] {
    let of_its_own = s.waiting
        && (sources.waits.reason(s).0 != LedgerCategory::Unexplained
            || matches!(s.waker, Waker::Interrupt | Waker::Process(_)));
    if !of_its_own {
        return sources.stw;
    }
    let begun = sources.stw.partition_point(|stop| stop.start <= s.start);
    &sources.stw[begun.saturating_sub(1)..begun]
}

/// What a ledger says of time in which no thread was active and no call on a socket tells why.
const ALL_SLEPT: &str = "all threads slept: a timer, a lock or another process";
/// Likewise, where it is known what ended it.
const UNTIL_INTERRUPT: &str = "the thread slept until an interrupt woke it: a timer or a device";
const UNTIL_PROCESS: &str = "the thread slept until another process woke it";

/// True if the ledger says with this that nothing was done.
pub(crate) fn is_asleep(top: &str) -> bool {
    [ALL_SLEPT, UNTIL_INTERRUPT].contains(&top) || top.starts_with(UNTIL_PROCESS)
}

/// How much of the window's path recorded wake-ups give; null if none of the process were recorded.
fn path_measured_ns(stretches: &[Stretch], threads: &Threads) -> Option<i64> {
    let recorded = threads.values().any(|t| t.sleeps.iter().any(|s| s.waker != Waker::Unknown));
    recorded.then(|| stretches.iter().filter(|s| s.measured).map(|s| s.end - s.start).sum())
}

/// Who is named as the largest contributor of a category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Contributor {
    /// A function.
    Code(u32),
    /// A memory call from a function.
    Call(MemoryCallKind, u32),
    /// A file or network call on a descriptor.
    Io(IoCallKind, Option<i32>),
    /// Uninterruptible sleep or stop outside of any recorded call.
    Blocked,
    /// No thread of the process was active, as far as is known.
    Asleep,
    /// The thread that was waited for slept until an interrupt.
    UntilInterrupt,
    /// It slept until another process woke it.
    UntilProcess,
}

/// Wall time of a contributor, and by its lines.
#[derive(Debug, Default)]
struct Lines {
    ns: i64,
    by: BTreeMap<u32, i64>,
}

impl Lines {
    fn add(&mut self, ns: i64, location: u32) {
        self.ns += ns;
        *self.by.entry(location).or_insert(0) += ns;
    }

    /// The line with most time; of equals the first.
    fn location(&self) -> u32 {
        self.by.iter().max_by_key(|(id, ns)| (**ns, std::cmp::Reverse(**id))).map_or(NONE, |(id, _)| *id)
    }
}

/// Rows of the ledger's "unexplained" that stand for a reason instead of a row.
const BLOCKED: u32 = NONE - 1;
const ASLEEP: u32 = NONE - 2;
const UNTIL_INTERRUPT_ROW: u32 = NONE - 3;
const UNTIL_PROCESS_ROW: u32 = NONE - 4;

/// Wall time of a row of a table, or of a reason, in a category.
#[derive(Debug, Clone, Copy)]
struct Piece {
    category: LedgerCategory,
    row: u32,
    ns: i64,
    /// Stretches that it consists of.
    parts: u64,
}

struct Sums<'a> {
    sources: &'a Sources<'a>,
    pieces: Vec<Piece>,
    /// Time slept until this other process woke the thread.
    woken_by: BTreeMap<u32, i64>,
}

impl Sums<'_> {
    /// The row of a sleep, by what ended it.
    fn asleep(&mut self, waker: Waker, ns: i64) -> u32 {
        match waker {
            Waker::Interrupt => UNTIL_INTERRUPT_ROW,
            Waker::Process(pid) => {
                *self.woken_by.entry(pid).or_insert(0) += ns;
                UNTIL_PROCESS_ROW
            }
            Waker::Unknown | Waker::Thread(_) => ASLEEP,
        }
    }

    fn add(&mut self, category: LedgerCategory, row: u32, ns: i64) {
        if ns > 0 {
            self.pieces.push(Piece { category, row, ns, parts: 1 });
        }
    }

    /// Takes out the time in which the thread could have run; the rest is left.
    fn waits_for_cpu(&mut self, rest: &[(i64, i64)], t: &Thread) -> Vec<(i64, i64)> {
        let mut left = Vec::with_capacity(rest.len());
        carve(rest, &t.runnable, &mut left, |_, ns| self.add(LedgerCategory::WaitingForCpu, NONE, ns));
        left
    }

    /// Puts together what was cut: a fault cut in two by a hand-over is one fault.
    fn combine(&mut self) {
        self.pieces.sort_by_key(|p| (p.category, p.row));
        self.pieces.dedup_by(|p, kept| {
            let same = (p.category, p.row) == (kept.category, kept.row);
            if same {
                kept.ns += p.ns;
                kept.parts += p.parts;
            }
            same
        });
    }

    /// Splits what the critical thread did itself.
    fn stretch(&mut self, mut rest: Vec<(i64, i64)>, t: &Thread) {
        rest = self.waits_for_cpu(&rest, t);
        let own = [
            (LedgerCategory::Faults, &t.faults),
            (LedgerCategory::MemoryCalls, &t.calls),
            (LedgerCategory::FileIo, &t.file_io),
            (LedgerCategory::Network, &t.network),
        ];
        let stalls = overlays::ALL.iter().filter_map(|o| Some((o.category?, t.overlays.get(o.table)?)));
        let unknown = [(LedgerCategory::Unexplained, &t.blocked)];
        for (category, list) in own.into_iter().chain(stalls).chain(unknown) {
            let mut left = Vec::with_capacity(rest.len());
            carve(&rest, list, &mut left, |row, ns| {
                let row = match category {
                    LedgerCategory::Unexplained => BLOCKED,
                    _ => row,
                };
                self.add(category, row, ns);
            });
            rest = left;
        }
        let category = if self.sources.off_cpu { LedgerCategory::OnCpu } else { LedgerCategory::Unexplained };
        self.add(category, NONE, rest.iter().map(|(a, b)| b - a).sum());
    }

    fn rows(&self) -> Vec<LedgerRow> {
        let mut rows: BTreeMap<LedgerCategory, LedgerRow> = BTreeMap::new();
        let mut tops: BTreeMap<(LedgerCategory, Contributor), Lines> = BTreeMap::new();
        for of in self.pieces.chunk_by(|a, b| a.category == b.category) {
            let category = of[0].category;
            let count = if is_countable(category) {
                Some(of.iter().filter(|p| p.row != NONE).map(|p| self.events(p)).sum())
            } else if category == LedgerCategory::WaitingForCpu {
                Some(of.iter().map(|p| p.parts).sum())
            } else {
                None
            };
            let wall_ns = of.iter().map(|p| p.ns).sum();
            rows.insert(category, LedgerRow { category, wall_ns, count: count.filter(|n| *n > 0), top: None });
        }
        self.by_run(
            |p| self.contributor(p.category, p.row).map(|(who, location)| (p.category, who, location)),
            |key, run| {
                if let Some((category, who, location)) = key {
                    tops.entry((category, who)).or_default().add(run.iter().map(|p| p.ns).sum(), location);
                }
            },
        );
        for (category, r) in &mut rows {
            let of_category = tops.iter().filter(|((c, _), _)| c == category);
            // Of equals the first one: the order is fixed.
            let best = of_category.max_by_key(|((_, who), lines)| (lines.ns, std::cmp::Reverse(*who)));
            r.top = best.and_then(|((_, who), lines)| self.describe(*who, lines.location()));
        }
        let mut rows: Vec<LedgerRow> = rows.into_values().collect();
        rows.sort_by_key(|r| (std::cmp::Reverse(r.wall_ns), r.category));
        rows
    }

    /// Events behind a piece: of a run of faults as many as its part of the run's time.
    fn events(&self, p: &Piece) -> u64 {
        let run =
            self.sources.faults.get(p.row as usize).filter(|f| p.category == LedgerCategory::Faults && f.count > 1);
        run.map_or(1, |f| {
            let part = p.ns as f64 / f.wall_ns().max(1) as f64;
            ((f64::from(f.count) * part).round() as u64).clamp(1, u64::from(f.count))
        })
    }

    /// Visits runs of neighbours with the same key: thousands of faults share a stack.
    fn by_run<K: PartialEq>(&self, key: impl Fn(&Piece) -> K, mut visit: impl FnMut(K, &[Piece])) {
        let mut first = 0;
        while let Some(p) = self.pieces.get(first) {
            let k = key(p);
            let len = 1 + self.pieces[first + 1..].iter().take_while(|p| key(p) == k).count();
            visit(k, &self.pieces[first..first + len]);
            first += len;
        }
    }

    /// Who is behind a row, and where in its code.
    fn contributor(&self, category: LedgerCategory, row: u32) -> Option<(Contributor, u32)> {
        let s = self.sources;
        let i = row as usize;
        let code = |stack: u32| (s.symbols.function_id(stack), s.symbols.location_id(stack));
        match category {
            LedgerCategory::Faults => s.faults.get(i).map(|f| {
                let (function, location) = code(f.stack);
                (Contributor::Code(function), location)
            }),
            LedgerCategory::MemoryCalls => s.calls.get(i).map(|c| {
                let (function, location) = code(c.stack_id.unwrap_or(NONE));
                (Contributor::Call(c.call, function), location)
            }),
            LedgerCategory::Throttled => s.throttles.get(i).map(|t| {
                let (function, location) = code(t.stack_id.unwrap_or(NONE));
                (Contributor::Code(function), location)
            }),
            LedgerCategory::FileIo | LedgerCategory::Network => {
                s.io.get(i).map(|c| (Contributor::Io(c.call, c.fd), NONE))
            }
            LedgerCategory::Unexplained if row == BLOCKED => Some((Contributor::Blocked, NONE)),
            LedgerCategory::Unexplained => match row {
                ASLEEP => Some((Contributor::Asleep, NONE)),
                UNTIL_INTERRUPT_ROW => Some((Contributor::UntilInterrupt, NONE)),
                UNTIL_PROCESS_ROW => Some((Contributor::UntilProcess, NONE)),
                _ => None,
            },
            _ => None,
        }
    }

    fn describe(&self, who: Contributor, location: u32) -> Option<String> {
        let place = self.sources.symbols.location(location).map(|l| match (&l.file, l.line) {
            (Some(file), Some(line)) => {
                format!("{} ({}:{line})", l.function, file.rsplit('/').next().unwrap_or(file))
            }
            _ => l.function.clone(),
        });
        match who {
            Contributor::Code(_) => place,
            Contributor::Call(call, _) => {
                Some(place.map_or_else(|| call.to_string(), |place| format!("{call} by {place}")))
            }
            Contributor::Io(call, Some(fd)) => Some(format!("{call} on descriptor {fd}")),
            Contributor::Io(call, None) => Some(call.to_string()),
            Contributor::Blocked => {
                Some("uninterruptible sleep outside of the recorded calls: disk or a kernel lock".to_owned())
            }
            Contributor::Asleep => Some(ALL_SLEPT.to_owned()),
            Contributor::UntilInterrupt => Some(UNTIL_INTERRUPT.to_owned()),
            Contributor::UntilProcess => {
                let most = self.woken_by.iter().max_by_key(|(pid, ns)| (**ns, std::cmp::Reverse(**pid)));
                Some(most.map_or_else(|| UNTIL_PROCESS.to_owned(), |(pid, _)| format!("{UNTIL_PROCESS} ({pid})")))
            }
        }
    }

    fn sampled_faults(&self) -> u64 {
        let of_faults = self.pieces.iter().filter(|p| p.category == LedgerCategory::Faults);
        let sampled = |p: &&Piece| self.sources.faults.get(p.row as usize).is_some_and(|f| f.weight > 1);
        of_faults.filter(sampled).map(|p| self.events(p)).sum()
    }

    fn single_faults(&self) -> u64 {
        let of_faults = self.pieces.iter().filter(|p| p.category == LedgerCategory::Faults);
        of_faults.filter(|p| self.sources.faults.get(p.row as usize).is_some_and(|f| f.count == 1)).count() as u64
    }

    fn refaults(&self) -> BTreeMap<(u32, u32), i64> {
        let mut out = BTreeMap::new();
        let s = self.sources;
        for p in self.pieces.iter().filter(|p| p.category == LedgerCategory::Faults) {
            let Some(f) = s.faults.get(p.row as usize) else { continue };
            if let Some(releaser) = s.releasers.get(f.release as usize) {
                *out.entry((*releaser, s.symbols.function_id(f.stack))).or_insert(0) += p.ns;
            }
        }
        out
    }

    fn shares(&self, placed: &Placed) -> Vec<LedgerShare> {
        type Key = (LedgerCategory, u32, u32, Option<TouchKind>);
        let mut sums: BTreeMap<Key, (Lines, Lines, u64)> = BTreeMap::new();
        let s = self.sources;
        let key = |p: &Piece| {
            let i = p.row as usize;
            let (who, mapper, kind) = match p.category {
                LedgerCategory::Faults => {
                    s.faults.get(i).map_or((NONE, NONE, None), |f| (f.stack, f.map_stack, Some(f.touch)))
                }
                LedgerCategory::MemoryCalls => (s.calls.get(i).and_then(|c| c.stack_id).unwrap_or(NONE), NONE, None),
                _ => (NONE, NONE, None),
            };
            (p.category, who, mapper, kind)
        };
        self.by_run(key, |(category, who, mapper, kind), run| {
            let key = (category, s.symbols.function_id(who), s.symbols.function_id(mapper), kind);
            let sum = sums.entry(key).or_default();
            let ns = run.iter().map(|p| p.ns).sum();
            sum.0.add(ns, s.symbols.location_id(who));
            sum.1.add(ns, s.symbols.location_id(mapper));
            sum.2 += run.iter().map(|p| self.events(p)).sum::<u64>();
        });
        let location = |lines: &Lines| s.symbols.location(lines.location()).cloned();
        sums.into_iter()
            .map(|((category, _, _, kind), (who, mapper, count))| LedgerShare {
                pid: placed.pid,
                window: placed.window.name.clone(),
                category,
                kind,
                who: location(&who),
                mapper: location(&mapper),
                wall_ns: who.ns,
                count,
            })
            .collect()
    }
}

fn is_countable(category: LedgerCategory) -> bool {
    use LedgerCategory as C;
    matches!(category, C::GcStw | C::Faults | C::MemoryCalls | C::FileIo | C::Network | C::Throttled)
}

/// The path for people: at most this many parts, short ones swallowed by their neighbour.
const MAX_PARTS: usize = 200;

fn critical_threads(stretches: &[Stretch]) -> Vec<(u32, i64, i64)> {
    let mut parts: Vec<(u32, i64, i64)> = Vec::new();
    for s in stretches.iter().filter(|s| !s.waiting) {
        match parts.last_mut() {
            Some(l) if l.0 == s.tid && l.2 == s.start => l.2 = s.end,
            _ => parts.push((s.tid, s.start, s.end)),
        }
    }
    if parts.len() > MAX_PARTS {
        let mut lengths: Vec<i64> = parts.iter().map(|p| p.2 - p.1).collect();
        lengths.sort_unstable_by_key(|l| std::cmp::Reverse(*l));
        let least = lengths[MAX_PARTS - 1];
        parts.retain(|p| p.2 - p.1 >= least);
        parts.truncate(MAX_PARTS);
    }
    parts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "ledger_tests.rs"]
mod tests;
