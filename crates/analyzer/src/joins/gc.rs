//! Garbage collections of Go and of JVMs, and what memory did before, during and after them.
//!
//! For Go, a heap that grows reserves first (mmap PROT_NONE) and makes a part usable later (mmap MAP_FIXED
//! read-write): only bytes that become usable count, so that nothing counts twice.

use std::collections::{BTreeMap, BTreeSet};

use mtrace_formats::tables::{GcEvent, GcEventKind, MemoryCall, MemoryCallKind};

use super::activity::Interval;
use crate::aggregate::{self, CallKey, CallRow};
use crate::load::{FaultRow, NONE};
use crate::model::{GcCycle, GcPhase, GcPhaseRow, GcTable, StackBytes};
use crate::replay::{CallEffect, is_release};
use crate::symbols::SymbolTable;

const PHASES: [GcPhase; 5] = [GcPhase::StartUp, GcPhase::Before, GcPhase::During, GcPhase::After, GcPhase::Outside];
const TOP_STACKS: usize = 3;

/// A stop of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) reason: Option<u32>,
}

/// Cycles and stops of one process.
#[derive(Debug, Default)]
pub(crate) struct Timing {
    pub(crate) cycles: Vec<GcCycle>,
    pub(crate) stops: Vec<Stop>,
    /// A JVM stops the world for much else: only what belongs to a collection is the collector's.
    pub(crate) stops_for_more: bool,
}

impl Timing {
    /// The collector's stops as intervals, sorted and without overlaps.
    pub(crate) fn of_collector(&self) -> Vec<Interval> {
        let of_cycles: BTreeSet<i64> = self.cycles.iter().flat_map(|c| c.stw.iter().map(|s| s.0)).collect();
        let mut out = intervals(&self.stops);
        out.retain(|i| !self.stops_for_more || of_cycles.contains(&self.stops[i.row as usize].start));
        out
    }
}

/// Pairs the events of one process; `end` is where the capture ends.
pub(crate) fn timing(pid: u32, events: &[&GcEvent], end: i64) -> Timing {
    let stops = stops(events, end);
    let mut cycles: Vec<GcCycle> = Vec::new();
    for e in events {
        match e.event {
            GcEventKind::CycleStart => {
                cycles.push(GcCycle { pid, start_ns: e.ts, ..GcCycle::default() });
            }
            GcEventKind::MarkTermination => {
                if let Some(c) = cycles.last_mut().filter(|c| c.mark_end_ns.is_none()) {
                    c.mark_end_ns = Some(e.ts);
                }
            }
            _ => {}
        }
    }
    give_stops(&mut cycles, &stops, end);
    Timing { cycles, stops, stops_for_more: false }
}

/// Notes with each cycle the stops that touch it.
pub(crate) fn give_stops(cycles: &mut [GcCycle], stops: &[Stop], end: i64) {
    for c in cycles {
        let until = c.mark_end_ns.unwrap_or(end);
        // The cycle starts inside its first stop and marks its end inside its second.
        let first = stops.partition_point(|s| s.end < c.start_ns);
        let of_cycle = stops[first..].iter().take_while(|s| s.start <= until);
        c.stw = of_cycle.map(|s| (s.start, s.end, s.reason)).collect();
    }
}

fn stops(events: &[&GcEvent], end: i64) -> Vec<Stop> {
    let mut out = Vec::new();
    let mut open: Option<Stop> = None;
    for e in events {
        match e.event {
            // The world cannot be stopped twice: a second stop without a start means that a start was not seen.
            GcEventKind::StopTheWorld => {
                open = Some(Stop { start: e.ts, end: e.ts, reason: e.reason });
            }
            GcEventKind::StartTheWorld => {
                if let Some(s) = open.take() {
                    out.push(Stop { end: e.ts, ..s });
                }
            }
            _ => {}
        }
    }
    if let Some(s) = open {
        out.push(Stop { end: end.max(s.start), ..s });
    }
    out
}

/// The stops as intervals for the ledger.
pub(crate) fn intervals(stops: &[Stop]) -> Vec<Interval> {
    let mut out: Vec<Interval> = Vec::with_capacity(stops.len());
    for (i, s) in stops.iter().enumerate() {
        let start = out.last().map_or(s.start, |l| s.start.max(l.end));
        if start < s.end {
            out.push(Interval { start, end: s.end, row: i as u32 });
        }
    }
    out
}

/// The phases of a process as consecutive stretches.
#[derive(Debug)]
pub(crate) struct Phases {
    /// (begin, phase), in order; the last one is open.
    edges: Vec<(i64, GcPhase)>,
}

impl Phases {
    pub(crate) fn new(cycles: &[GcCycle], end: i64) -> Self {
        let mut edges = vec![(i64::MIN, GcPhase::StartUp)];
        let mut previous_end = i64::MIN;
        for (i, c) in cycles.iter().enumerate() {
            let mark_end = c.mark_end_ns.unwrap_or(end).max(c.start_ns);
            let length = mark_end - c.start_ns;
            let before = c.start_ns.saturating_sub(length).max(previous_end);
            let next = cycles.get(i + 1).map_or(i64::MAX, |n| n.start_ns);
            let after_end = mark_end.saturating_add(length).min(next);
            // "After" one cycle and "before" the next may meet: then the earlier one keeps what it has.
            let last_edge = edges.last().map_or(i64::MIN, |e| e.0);
            edges.push((before.max(last_edge), GcPhase::Before));
            edges.push((c.start_ns, GcPhase::During));
            edges.push((mark_end, GcPhase::After));
            edges.push((after_end, GcPhase::Outside));
            previous_end = mark_end;
        }
        Self { edges }
    }

    pub(crate) fn at(&self, ts: i64) -> GcPhase {
        let n = self.edges.partition_point(|e| e.0 <= ts);
        n.checked_sub(1).map_or(GcPhase::StartUp, |n| self.edges[n].1)
    }

    /// Time in each phase within a span.
    fn wall(&self, (start, end): (i64, i64)) -> BTreeMap<GcPhase, i64> {
        let mut wall = BTreeMap::new();
        for (i, (from, phase)) in self.edges.iter().enumerate() {
            let until = self.edges.get(i + 1).map_or(i64::MAX, |e| e.0);
            let (a, b) = ((*from).max(start), until.min(end));
            *wall.entry(*phase).or_insert(0) += (b.saturating_sub(a)).max(0);
        }
        wall
    }
}

/// Rows that the table is made from.
pub(crate) struct Sources<'a> {
    pub(crate) faults: &'a [FaultRow],
    pub(crate) calls: &'a [MemoryCall],
    pub(crate) effects: &'a [CallEffect],
    pub(crate) symbols: &'a SymbolTable,
    pub(crate) span: (i64, i64),
    /// A Go target was there and its probes ran.
    pub(crate) measured: bool,
}

/// The GC table over all processes that collected.
pub(crate) fn table(timings: &BTreeMap<u32, Timing>, s: &Sources<'_>) -> aggregate::Result<GcTable> {
    let stops = || timings.values().flat_map(|t| &t.stops).map(|s| s.end - s.start);
    let phases: BTreeMap<u32, Phases> =
        timings.iter().map(|(pid, t)| (*pid, Phases::new(&t.cycles, s.span.1))).collect();
    let mut rows = empty_rows(timings, &phases, s.span);
    let calls = aggregate::calls_by_phase(&keyed_calls(&phases, s))?;
    for c in &calls {
        if let Some(row) = rows.get_mut(&(c.key.pid, PHASES[c.key.phase as usize])) {
            add_calls(row, c, s.symbols);
        }
    }
    for f in s.faults {
        if let Some(p) = phases.get(&f.pid)
            && let Some(row) = rows.get_mut(&(f.pid, p.at(f.ts)))
        {
            row.faults += u64::from(f.count);
            row.fault_ns += f.wall_ns();
        }
    }
    for row in rows.values_mut() {
        row.mmap_mean_bytes = row.mmap_bytes.checked_div(row.mmap_calls);
    }
    let mut cycles: Vec<GcCycle> = timings.values().flat_map(|t| t.cycles.iter().cloned()).collect();
    cycles.sort_by_key(|c| (c.start_ns, c.pid));
    Ok(GcTable {
        cycles,
        stw_total_ns: stops().sum(),
        stw_max_ns: stops().max().unwrap_or(0),
        phases: rows.into_values().collect(),
        measured: s.measured,
    })
}

type Rows = BTreeMap<(u32, GcPhase), GcPhaseRow>;

fn empty_rows(timings: &BTreeMap<u32, Timing>, phases: &BTreeMap<u32, Phases>, span: (i64, i64)) -> Rows {
    let mut rows = Rows::new();
    for (pid, _) in timings.iter().filter(|(_, t)| !t.cycles.is_empty()) {
        let wall = phases.get(pid).map(|p| p.wall(span)).unwrap_or_default();
        for phase in PHASES {
            let row = GcPhaseRow {
                pid: *pid,
                phase,
                wall_ns: wall.get(&phase).copied().unwrap_or(0),
                mmap_calls: 0,
                mmap_bytes: 0,
                mmap_mean_bytes: None,
                munmap_calls: 0,
                madvise_calls: 0,
                madvise_bytes: 0,
                faults: 0,
                fault_ns: 0,
                top_stacks: Vec::new(),
            };
            rows.insert((*pid, phase), row);
        }
    }
    rows
}

/// What the table counts a call as.
const GROWTH: u32 = 0;
const UNMAP: u32 = 1;
const ADVICE: u32 = 2;
const GIVE_BACK: u32 = 3;

fn keyed_calls(phases: &BTreeMap<u32, Phases>, s: &Sources<'_>) -> Vec<(CallKey, u64, u32)> {
    let of_interest = s.calls.iter().zip(s.effects).filter(|(c, _)| c.errno.is_none());
    of_interest
        .filter_map(|(c, effect)| {
            let phase = phases.get(&c.pid)?.at(c.ts);
            let (kind, bytes) = match c.call {
                MemoryCallKind::Mmap | MemoryCallKind::Mprotect | MemoryCallKind::Mremap | MemoryCallKind::Brk
                    if effect.usable_bytes > 0 =>
                {
                    (GROWTH, effect.usable_bytes)
                }
                MemoryCallKind::Munmap => (UNMAP, c.len_bytes),
                MemoryCallKind::Madvise if c.prot_or_advice.is_some_and(is_release) => (GIVE_BACK, c.len_bytes),
                MemoryCallKind::Madvise => (ADVICE, 0),
                _ => return None,
            };
            let stack = c.stack_id.unwrap_or(NONE);
            let phase = PHASES.iter().position(|p| *p == phase).unwrap_or(PHASES.len() - 1) as u32;
            Some((CallKey { pid: c.pid, phase, kind, function: s.symbols.function_id(stack) }, bytes, stack))
        })
        .collect()
}

fn add_calls(row: &mut GcPhaseRow, c: &CallRow, symbols: &SymbolTable) {
    match c.key.kind {
        GROWTH => {
            row.mmap_calls += c.calls;
            row.mmap_bytes += c.bytes;
            // Rows come with most bytes first.
            if row.top_stacks.len() < TOP_STACKS {
                row.top_stacks.push(StackBytes {
                    location: symbols.location_of(c.stack),
                    calls: c.calls,
                    bytes: c.bytes,
                    stack: symbols.stack(c.stack),
                });
            }
        }
        UNMAP => row.munmap_calls += c.calls,
        GIVE_BACK => {
            row.madvise_calls += c.calls;
            row.madvise_bytes += c.bytes;
        }
        _ => row.madvise_calls += c.calls,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn event(ts: i64, event: GcEventKind, reason: Option<u32>) -> GcEvent {
        GcEvent { ts: ts * MS, pid: 1, tid: 1, event, reason }
    }

    fn cycle_events() -> Vec<GcEvent> {
        use GcEventKind::{CycleStart, MarkTermination, StartTheWorld, StopTheWorld, Sweep};
        vec![
            event(95, StopTheWorld, Some(2)),
            event(100, CycleStart, None),
            event(105, StartTheWorld, None),
            event(140, StopTheWorld, Some(1)),
            event(150, MarkTermination, None),
            event(152, Sweep, None),
            event(155, StartTheWorld, None),
            // Not of a collection.
            event(180, StopTheWorld, Some(5)),
            event(181, StartTheWorld, None),
            event(190, StopTheWorld, Some(2)),
            event(195, CycleStart, None),
        ]
    }

    #[test]
    fn stops_belong_to_the_cycle_that_they_frame() {
        let events = cycle_events();
        let t = timing(1, &events.iter().collect::<Vec<_>>(), 300 * MS);
        assert_eq!(t.cycles.len(), 2);
        let stw = |i: usize| t.cycles[i].stw.iter().map(|(s, e, r)| (s / MS, e / MS, *r)).collect::<Vec<_>>();
        assert_eq!(stw(0), [(95, 105, Some(2)), (140, 155, Some(1))]);
        assert_eq!(t.cycles[0].mark_end_ns, Some(150 * MS));
        // The capture ends before the second one does.
        assert_eq!((t.cycles[1].mark_end_ns, stw(1)), (None, vec![(190, 300, Some(2))]));
        assert_eq!(t.stops.len(), 4);
    }

    #[test]
    fn before_and_after_are_as_long_as_the_mark_phase_or_reach_to_the_neighbour() {
        let events = cycle_events();
        let t = timing(1, &events.iter().collect::<Vec<_>>(), 300 * MS);
        let p = Phases::new(&t.cycles, 300 * MS);
        let at = |ts: i64| p.at(ts * MS);
        assert_eq!([at(49), at(50), at(99), at(100), at(149)].map(|p| p as u8), [4, 0, 0, 1, 1]);
        // After the first, up to the second: its mark phase began before "after" was over.
        assert_eq!([at(150), at(194), at(195), at(299)].map(|p| p as u8), [2, 2, 1, 1]);
        let wall = p.wall((0, 300 * MS));
        assert_eq!(wall.values().sum::<i64>(), 300 * MS);
        assert_eq!(wall[&GcPhase::During], (50 + 105) * MS);
    }

    #[test]
    fn only_bytes_that_become_usable_are_counted() {
        let call = |ts: i64, call, len_bytes| MemoryCall {
            ts: ts * MS,
            dur: 1,
            pid: 1,
            tid: 1,
            call,
            addr: 0,
            len_bytes,
            prot_or_advice: Some(4),
            flags: None,
            new_len_bytes: None,
            new_addr: None,
            offset_bytes: None,
            file_id: None,
            result: Some(0),
            errno: None,
            stack_id: None,
        };
        let calls = [
            call(110, MemoryCallKind::Mmap, 64 << 20),
            call(111, MemoryCallKind::Mmap, 4 << 20),
            call(112, MemoryCallKind::Madvise, 8192),
            call(160, MemoryCallKind::Mmap, 4 << 20),
        ];
        let effects = [0, 4 << 20, 0, 4 << 20].map(|usable_bytes| CallEffect { usable_bytes, released_pages: 0 });
        let events = cycle_events();
        let timings = BTreeMap::from([(1, timing(1, &events.iter().collect::<Vec<_>>(), 300 * MS))]);
        let symbols = SymbolTable::default();
        let sources = Sources {
            faults: &[],
            calls: &calls,
            effects: &effects,
            symbols: &symbols,
            span: (0, 300 * MS),
            measured: true,
        };
        let t = table(&timings, &sources).unwrap();
        let row = |phase| t.phases.iter().find(|r| r.phase == phase).unwrap();
        let during = row(GcPhase::During);
        assert_eq!((during.mmap_calls, during.mmap_bytes, during.mmap_mean_bytes), (1, 4 << 20, Some(4 << 20)));
        assert_eq!((during.madvise_calls, during.madvise_bytes), (1, 8192));
        assert_eq!(row(GcPhase::After).mmap_calls, 1);
        assert_eq!((t.stw_total_ns, t.stw_max_ns), ((10 + 15 + 1 + 110) * MS, 110 * MS));
    }
}
