//! HotSpot's events as collections and stops of the world.

use std::collections::{BTreeMap, BTreeSet};

use mtrace_formats::tables::{JvmEvent, JvmEventKind};

use super::gc::{Stop, Timing, give_stops};
use crate::model::GcCycle;

/// Pools that are not the heap.
const NOT_HEAP: [&str; 4] = ["CodeHeap", "CodeCache", "Metaspace", "Compressed Class Space"];

/// One collection by one memory manager, with the pools that it reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collection {
    /// "G1 Young Generation".
    pub(crate) collector: String,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Used in all pools of the heap, before and after; null if a begin was not seen.
    pub(crate) heap_bytes: Option<(u64, u64)>,
    /// Limits of these pools; null if none has one.
    pub(crate) heap_max_bytes: Option<u64>,
}

/// The collections of one process, in order.
///
/// A manager reports every pool once per collection: one that comes again belongs to the next.
pub(crate) fn collections(events: &[&JvmEvent]) -> Vec<Collection> {
    let mut out: Vec<Collection> = Vec::new();
    let mut open: BTreeMap<(u32, &str), (usize, BTreeSet<&str>)> = BTreeMap::new();
    for e in events.iter().filter(|e| e.event == JvmEventKind::Pool) {
        let (manager, pool) = (e.name.as_deref().unwrap_or("?"), e.pool.as_deref().unwrap_or("?"));
        let end = e.ts.saturating_add(e.dur.unwrap_or(0));
        let (at, pools) = open.entry((e.tid, manager)).or_insert((usize::MAX, BTreeSet::new()));
        if *at == usize::MAX || !pools.insert(pool) {
            (*at, *pools) = (out.len(), BTreeSet::from([pool]));
            out.push(Collection {
                collector: manager.to_owned(),
                start: e.ts,
                end,
                heap_bytes: Some((0, 0)),
                heap_max_bytes: None,
            });
        }
        let c = &mut out[*at];
        c.end = c.end.max(end);
        if !NOT_HEAP.iter().any(|p| pool.starts_with(p)) {
            c.heap_bytes = match (c.heap_bytes, e.used_before_bytes, e.used_after_bytes) {
                (Some((a, b)), Some(before), Some(after)) => Some((a.saturating_add(before), b.saturating_add(after))),
                _ => None,
            };
            c.heap_max_bytes = match (c.heap_max_bytes, e.max_bytes) {
                (Some(sum), Some(max)) => Some(sum.saturating_add(max)),
                (sum, max) => sum.or(max),
            };
        }
    }
    out.sort_by_key(|c| c.start);
    out
}

/// Collections and stops of one process.
pub(crate) fn timing(pid: u32, events: &[&JvmEvent]) -> Timing {
    let cycle = |c: Collection| GcCycle {
        pid,
        start_ns: c.start,
        mark_end_ns: Some(c.end),
        stw: Vec::new(),
        collector: Some(c.collector),
        heap_bytes: c.heap_bytes,
        heap_max_bytes: c.heap_max_bytes,
    };
    let mut cycles: Vec<GcCycle> = collections(events).into_iter().map(cycle).collect();
    let safepoints = events.iter().filter(|e| e.event == JvmEventKind::Safepoint);
    let stops: Vec<Stop> =
        safepoints.filter_map(|e| Some(Stop { start: e.ts, end: e.ts.saturating_add(e.dur?), reason: None })).collect();
    give_stops(&mut cycles, &stops, i64::MAX);
    Timing { cycles, stops, stops_for_more: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ts: i64, dur: Option<i64>, event: JvmEventKind, texts: (&str, &str), used: (u64, u64)) -> JvmEvent {
        let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        JvmEvent {
            ts,
            dur,
            pid: 10,
            tid: 11,
            event,
            name: text(texts.0),
            pool: text(texts.1),
            full: None,
            used_before_bytes: dur.map(|_| used.0),
            used_after_bytes: Some(used.1),
            committed_before_bytes: None,
            committed_after_bytes: None,
            max_bytes: None,
        }
    }

    fn pool(ts: i64, manager: &str, pool: &str, used: (u64, u64)) -> JvmEvent {
        event(ts, Some(10), JvmEventKind::Pool, (manager, pool), used)
    }

    #[test]
    fn pools_become_collections_and_safepoints_their_stops() {
        let rows = [
            event(95, Some(30), JvmEventKind::Safepoint, ("", ""), (0, 0)),
            pool(100, "Copy", "Eden Space", (50, 0)),
            pool(101, "Copy", "Metaspace", (7, 7)),
            pool(102, "Copy", "Tenured Gen", (10, 20)),
            pool(112, "MarkSweepCompact", "Eden Space", (0, 0)),
            pool(113, "MarkSweepCompact", "Tenured Gen", (20, 5)),
            pool(200, "Copy", "Eden Space", (60, 0)),
        ];
        let rows: Vec<&JvmEvent> = rows.iter().collect();
        let t = timing(10, &rows);
        let found: Vec<_> = t
            .cycles
            .iter()
            .map(|c| (c.collector.as_deref().unwrap_or("?"), c.start_ns, c.mark_end_ns, c.heap_bytes, c.stw.len()))
            .collect();
        let expected = [
            ("Copy", 100, Some(112), Some((60, 20)), 1),
            ("MarkSweepCompact", 112, Some(123), Some((20, 5)), 1),
            ("Copy", 200, Some(210), Some((60, 0)), 0),
        ];
        assert_eq!(found, expected);
        assert_eq!(t.stops, [Stop { start: 95, end: 125, reason: None }]);
    }

    #[test]
    fn what_has_no_begin_is_not_made_up() {
        let half = event(100, None, JvmEventKind::Pool, ("Copy", "Eden Space"), (0, 3));
        let safepoint = event(90, None, JvmEventKind::Safepoint, ("", ""), (0, 0));
        let t = timing(10, &[&safepoint, &half]);
        assert_eq!((t.cycles[0].heap_bytes, t.stops.len()), (None, 0));
    }
}
