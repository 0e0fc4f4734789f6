//! Stalls that lie *within* what a thread did: inside a fault, a call, or a time off the CPU.
//!
//! Laid over the critical path of a ledger they say how much of it they were. From its categories they take nothing but
//! time off the CPU that no other one explains, and that only where they are a category. A table of such stalls is one
//! line in [`ALL`]; the joins that want its part of a window ask for it by the table's name.

use std::collections::BTreeMap;

use mtrace_formats::tables::{GoMemory, GoMemoryKind};

use super::activity::Interval;
use crate::load::Tables;
use crate::model::LedgerCategory;

/// One stall of a thread.
pub(crate) struct Stall {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// Row: its number in the table.
    pub(crate) interval: Interval,
}

/// A table of stalls.
pub(crate) struct Overlay {
    /// Name of the table.
    pub(crate) table: &'static str,
    /// Where its time goes when it lies in no fault and no call.
    pub(crate) category: Option<LedgerCategory>,
    /// Its rows, in order of time.
    stalls: fn(&Tables) -> Vec<Stall>,
}

/// The registry.
pub(crate) const ALL: &[Overlay] = &[
    Overlay {
        table: "reclaims",
        category: None,
        stalls: |t| stalls(&t.reclaims, |r| Some((r.pid, r.tid, r.ts, r.dur))),
    },
    Overlay {
        table: "throttles",
        category: Some(LedgerCategory::Throttled),
        stalls: |t| stalls(&t.throttles, |r| Some((r.pid, r.tid, r.ts, r.dur))),
    },
    Overlay {
        table: "lock_waits",
        category: None,
        stalls: |t| stalls(&t.lock_waits, |r| Some((r.pid, r.tid, r.ts, r.dur))),
    },
    Overlay { table: "go_memory", category: None, stalls: |t| stalls(&t.go_memory, mark_assist) },
];

/// The only one of Go's that is time of a thread: one that parks or scavenges may go on on another.
fn mark_assist(e: &GoMemory) -> Option<(u32, u32, i64, i64)> {
    (e.event == GoMemoryKind::MarkAssist).then_some((e.pid, e.tid, e.ts, e.dur?))
}

/// Something for each overlay that has rows, by the name of its table.
pub(crate) type ByOverlay<T> = BTreeMap<&'static str, T>;

/// The stalls of every process.
pub(crate) fn by_process(t: &Tables) -> BTreeMap<u32, ByOverlay<Vec<Stall>>> {
    let mut out: BTreeMap<u32, ByOverlay<Vec<Stall>>> = BTreeMap::new();
    for overlay in ALL {
        for stall in (overlay.stalls)(t) {
            out.entry(stall.pid).or_default().entry(overlay.table).or_default().push(stall);
        }
    }
    out
}

fn stalls<R>(rows: &[R], of: impl Fn(&R) -> Option<(u32, u32, i64, i64)>) -> Vec<Stall> {
    let numbered = (0_u32..).zip(rows);
    numbered
        .filter_map(|(row, r)| {
            let (pid, tid, ts, dur) = of(r)?;
            Some(Stall { pid, tid, interval: Interval { start: ts, end: ts + dur, row } })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_overlay_is_a_table_and_there_once() {
        for (i, o) in ALL.iter().enumerate() {
            assert!(mtrace_formats::tables::ALL.iter().any(|t| t.name == o.table), "{}", o.table);
            assert!(ALL[i + 1..].iter().all(|p| p.table != o.table), "{}", o.table);
        }
    }
}
