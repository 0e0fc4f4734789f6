//! The wall time of a window, every nanosecond in exactly one category.
//!
//! The window is laid along its critical path; on each stretch the categories take what is theirs in the order of
//! [`LedgerCategory`], and what is left is on-CPU time (if the times off the CPU were recorded) or unexplained.

use std::collections::BTreeMap;

use mtrace_formats::tables::{IoCall, IoCallKind, MemoryCall, MemoryCallKind};

use super::activity::{Interval, Thread, Threads, carve};
use super::critical_path::{Stretch, walk};
use super::windows::Placed;
use crate::context::LedgerShare;
use crate::load::{FaultRow, NONE};
use crate::model::{Ledger, LedgerCategory, LedgerRow, TouchKind};
use crate::symbols::SymbolTable;

/// What a ledger is made from.
pub(crate) struct Sources<'a> {
    pub(crate) faults: &'a [FaultRow],
    pub(crate) calls: &'a [MemoryCall],
    pub(crate) io: &'a [IoCall],
    /// Calls of the process on sockets, in order of time.
    pub(crate) network: &'a [&'a IoCall],
    /// Times at which the world was stopped, sorted, without overlaps.
    pub(crate) stw: &'a [Interval],
    pub(crate) symbols: &'a SymbolTable,
    /// Location of each release's caller.
    pub(crate) releasers: &'a [u32],
    /// True if the times off the CPU were recorded.
    pub(crate) off_cpu: bool,
}

/// A ledger, and who caused what on its critical path.
pub(crate) struct Split {
    pub(crate) ledger: Ledger,
    pub(crate) shares: Vec<LedgerShare>,
    /// Wall time of refaults by the locations of releaser and toucher.
    pub(crate) refaults: BTreeMap<(u32, u32), i64>,
}

/// Splits a window.
pub(crate) fn split(placed: &Placed, threads: &Threads, sources: &Sources<'_>) -> Split {
    let mut window = placed.window.clone();
    let stretches = if sources.off_cpu {
        walk(threads, window.start_ns, window.end_ns, placed.end_tid)
    } else {
        window.assumptions.push(
            "the times off the CPU were not recorded: the whole window is charged to one thread, and its rest, on the CPU or waiting, is unexplained"
                .to_owned(),
        );
        vec![Stretch { start: window.start_ns, end: window.end_ns, tid: placed.end_tid, waiting: false }]
    };
    let mut sums = Sums { sources, by: BTreeMap::new() };
    let nothing = Thread::default();
    let mut rest = Vec::new();
    for s in stretches.iter().filter(|s| s.start < s.end) {
        rest.clear();
        carve(&[(s.start, s.end)], sources.stw, &mut rest, |row, ns| sums.add(LedgerCategory::GcStw, row, ns));
        let thread = threads.get(&s.tid).unwrap_or(&nothing);
        if s.waiting {
            let category = wait_category(s, sources.network);
            let ns = rest.iter().map(|(a, b)| b - a).sum();
            sums.add(category, NONE, ns);
        } else {
            sums.stretch(std::mem::take(&mut rest), thread);
        }
    }
    let critical_threads = critical_threads(&stretches);
    Split {
        shares: sums.shares(placed),
        refaults: sums.refaults(),
        ledger: Ledger { window, pid: placed.pid, rows: sums.rows(), critical_threads },
    }
}

/// Who is named as the largest contributor of a category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Contributor {
    /// A place in the code.
    Code(u32),
    /// A memory call from a place in the code.
    Call(MemoryCallKind, u32),
    /// A file or network call on a descriptor.
    Io(IoCallKind, Option<i32>),
}

/// (category, row) → (wall time, pieces).
struct Sums<'a> {
    sources: &'a Sources<'a>,
    by: BTreeMap<(LedgerCategory, u32), (i64, u64)>,
}

impl Sums<'_> {
    fn add(&mut self, category: LedgerCategory, row: u32, ns: i64) {
        if ns > 0 {
            let sum = self.by.entry((category, row)).or_insert((0, 0));
            *sum = (sum.0 + ns, sum.1 + 1);
        }
    }

    /// Splits what the critical thread did itself.
    fn stretch(&mut self, mut rest: Vec<(i64, i64)>, t: &Thread) {
        let lists = [
            (LedgerCategory::Faults, &t.faults),
            (LedgerCategory::MemoryCalls, &t.calls),
            (LedgerCategory::FileIo, &t.file_io),
            (LedgerCategory::Network, &t.network),
            (LedgerCategory::WaitingForCpu, &t.runnable),
            (LedgerCategory::Unexplained, &t.blocked),
        ];
        for (category, list) in lists {
            let mut left = Vec::with_capacity(rest.len());
            carve(&rest, list, &mut left, |row, ns| {
                let row = if matches!(category, LedgerCategory::WaitingForCpu | LedgerCategory::Unexplained) {
                    NONE
                } else {
                    row
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
        let mut tops: BTreeMap<(LedgerCategory, Contributor), i64> = BTreeMap::new();
        for ((category, row), (ns, pieces)) in &self.by {
            let r = rows.entry(*category).or_insert(LedgerRow {
                category: *category,
                wall_ns: 0,
                count: None,
                top: None,
            });
            r.wall_ns += ns;
            if is_countable(*category) && *row != NONE {
                // A fault cut in two by a hand-over is one fault: rows are counted, not pieces.
                *r.count.get_or_insert(0) += 1;
            } else if *category == LedgerCategory::WaitingForCpu {
                *r.count.get_or_insert(0) += pieces;
            }
            if let Some(who) = self.contributor(*category, *row) {
                *tops.entry((*category, who)).or_insert(0) += ns;
            }
        }
        for (category, r) in &mut rows {
            let of_category = tops.iter().filter(|((c, _), _)| c == category);
            // Of equals the first one: the order is fixed.
            let best = of_category.max_by_key(|((_, who), ns)| (**ns, std::cmp::Reverse(*who)));
            r.top = best.and_then(|((_, who), _)| self.describe(*who));
        }
        let mut rows: Vec<LedgerRow> = rows.into_values().collect();
        rows.sort_by_key(|r| (std::cmp::Reverse(r.wall_ns), r.category));
        rows
    }

    fn contributor(&self, category: LedgerCategory, row: u32) -> Option<Contributor> {
        let s = self.sources;
        let row = row as usize;
        match category {
            LedgerCategory::Faults => s.faults.get(row).map(|f| Contributor::Code(s.symbols.location_id(f.stack))),
            LedgerCategory::MemoryCalls => s.calls.get(row).map(|c| {
                Contributor::Call(c.call, c.stack_id.map_or(NONE, |stack| s.symbols.location_id(stack)))
            }),
            LedgerCategory::FileIo | LedgerCategory::Network => {
                s.io.get(row).map(|c| Contributor::Io(c.call, c.fd))
            }
            _ => None,
        }
    }

    fn describe(&self, who: Contributor) -> Option<String> {
        let place = |id: u32| {
            self.sources.symbols.location(id).map(|l| match (&l.file, l.line) {
                (Some(file), Some(line)) => {
                    format!("{} ({}:{line})", l.function, file.rsplit('/').next().unwrap_or(file))
                }
                _ => l.function.clone(),
            })
        };
        match who {
            Contributor::Code(id) => place(id),
            Contributor::Call(call, id) => {
                Some(place(id).map_or_else(|| call.to_string(), |place| format!("{call} by {place}")))
            }
            Contributor::Io(call, Some(fd)) => Some(format!("{call} on descriptor {fd}")),
            Contributor::Io(call, None) => Some(call.to_string()),
        }
    }

    fn refaults(&self) -> BTreeMap<(u32, u32), i64> {
        let mut out = BTreeMap::new();
        let s = self.sources;
        for ((_, row), (ns, _)) in self.by.range((LedgerCategory::Faults, 0)..=(LedgerCategory::Faults, NONE)) {
            let Some(f) = s.faults.get(*row as usize) else { continue };
            if let Some(releaser) = s.releasers.get(f.release as usize) {
                *out.entry((*releaser, s.symbols.location_id(f.stack))).or_insert(0) += ns;
            }
        }
        out
    }

    fn shares(&self, placed: &Placed) -> Vec<LedgerShare> {
        type Key = (LedgerCategory, u32, u32, Option<TouchKind>);
        let mut sums: BTreeMap<Key, (i64, u64)> = BTreeMap::new();
        let s = self.sources;
        let location = |stack: u32| s.symbols.location_id(stack);
        for ((category, row), (ns, _)) in &self.by {
            let row = *row as usize;
            let key = match category {
                LedgerCategory::Faults => {
                    let Some(f) = s.faults.get(row) else { continue };
                    (*category, location(f.stack), location(f.map_stack), Some(f.touch))
                }
                LedgerCategory::MemoryCalls => {
                    let Some(c) = s.calls.get(row) else { continue };
                    (*category, location(c.stack_id.unwrap_or(NONE)), NONE, None)
                }
                _ => (*category, NONE, NONE, None),
            };
            let sum = sums.entry(key).or_insert((0, 0));
            *sum = (sum.0 + ns, sum.1 + 1);
        }
        sums.into_iter()
            .map(|((category, who, mapper, kind), (wall_ns, count))| LedgerShare {
                pid: placed.pid,
                window: placed.window.name.clone(),
                category,
                kind,
                who: s.symbols.location(who).cloned(),
                mapper: s.symbols.location(mapper).cloned(),
                wall_ns,
                count,
            })
            .collect()
    }
}

fn is_countable(category: LedgerCategory) -> bool {
    use LedgerCategory as C;
    matches!(category, C::GcStw | C::Faults | C::MemoryCalls | C::FileIo | C::Network)
}

/// How soon after a wake-up the call is through that the process was woken for, whichever thread makes it.
const WOKEN_BY_NS: i64 = 5_000_000;
/// Calls looked at around a wait.
const NEIGHBOURS: usize = 512;

/// What a wait of the whole process was for, from what the sockets did at its end.
fn wait_category(wait: &Stretch, network: &[&IoCall]) -> LedgerCategory {
    // Sorted by entry: a call that spans the wait began before it.
    let at = network.partition_point(|c| c.ts < wait.end);
    let first = at.saturating_sub(NEIGHBOURS);
    let mut ended_by: Vec<(usize, &IoCall)> = network[first..]
        .iter()
        .take(2 * NEIGHBOURS)
        .enumerate()
        .map(|(i, c)| (first + i, *c))
        .filter(|(_, c)| c.result.is_some() && (wait.end..=wait.end + WOKEN_BY_NS).contains(&(c.ts + c.dur)))
        .collect();
    ended_by.sort_by_key(|(_, c)| c.ts + c.dur);
    for (i, c) in ended_by {
        let spans = c.ts <= wait.start;
        match c.call {
            IoCallKind::Accept => return LedgerCategory::WaitingForClient,
            IoCallKind::Connect if spans => return LedgerCategory::Network,
            IoCallKind::Read | IoCallKind::Write if spans || was_not_ready(&network[..i], c) => {
                return LedgerCategory::Network;
            }
            _ => {}
        }
    }
    LedgerCategory::Unexplained
}

/// True if the call before it on the same descriptor said "not yet" (EAGAIN, EINPROGRESS), or was the accept.
fn was_not_ready(before: &[&IoCall], call: &IoCall) -> bool {
    let previous = before.iter().rev().take(10_000).find(|c| {
        c.fd == call.fd || c.call == IoCallKind::Accept && c.result.is_some() && c.result == fd_number(call.fd)
    });
    previous.is_some_and(|c| matches!(c.errno, Some(11 | 115)) || c.call == IoCallKind::Accept)
}

fn fd_number(fd: Option<i32>) -> Option<u64> {
    fd.and_then(|fd| u64::try_from(fd).ok())
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
