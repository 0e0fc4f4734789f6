//! The fault tables, from the group-bys.

use std::collections::BTreeMap;

use crate::aggregate::{FaultAggregates, GroupRow, KindRow};
use crate::load::{FaultRow, Shape};
use crate::model::{FaultGroup, FaultKindTotals, FaultTables, LatencyHistogram, Ledger, TouchKind};
use crate::symbols::SymbolTable;

/// Full stacks are shown for this many groups, and for all that took a part worth looking at.
const GROUPS_WITH_STACKS: usize = 200;

/// Beside each ledger stands the number of its window in the group-bys.
pub(crate) fn tables(
    aggregates: &FaultAggregates,
    rows: &[FaultRow],
    shapes: &[Shape],
    ledgers: &[(&Ledger, usize)],
    names: &[String],
    symbols: &SymbolTable,
) -> FaultTables {
    let mut histograms = histograms(rows, shapes);
    let mut counts = |k: &KindRow| histograms.remove(&(k.pid, k.kind)).unwrap_or_default();
    let kinds = aggregates.kinds.iter().map(|k| totals(k, counts(k))).collect();
    let groups = aggregates
        .groups
        .iter()
        .enumerate()
        .map(|(i, g)| group(g, ledgers, names, symbols, i < GROUPS_WITH_STACKS))
        .collect();
    FaultTables { kinds, groups }
}

fn totals(k: &KindRow, counts: Vec<u64>) -> FaultKindTotals {
    FaultKindTotals {
        pid: k.pid,
        kind: k.kind,
        faults: k.faults,
        pages: k.pages,
        latency: LatencyHistogram {
            counts,
            p50_ns: k.p50_ns,
            p99_ns: k.p99_ns,
            max_ns: k.max_ns,
            sum_ns: k.sum_ns,
            measured: k.measured,
        },
    }
}

fn histograms(rows: &[FaultRow], shapes: &[Shape]) -> BTreeMap<(u32, TouchKind), Vec<u64>> {
    let mut out: BTreeMap<(u32, TouchKind), Vec<u64>> = BTreeMap::new();
    for run in rows.chunk_by(|a, b| (a.pid, a.touch) == (b.pid, b.touch)) {
        let counts = out.entry((run[0].pid, run[0].touch)).or_default();
        let mut add = |dur: i64, n: u64| {
            let bucket = dur.max(1).ilog2() as usize;
            if counts.len() <= bucket {
                counts.resize(bucket + 1, 0);
            }
            counts[bucket] += n;
        };
        for f in run {
            match (f.measured(), shapes.get(f.shape as usize)) {
                (None, _) => {}
                // The buckets of a run are those of this histogram, but for the first and the last.
                (Some(sum), Some(shape)) => shape.values(sum).for_each(|(dur, n)| add(dur, n)),
                (Some(dur), None) => add(dur, 1),
            }
        }
    }
    out
}

fn group(
    g: &GroupRow,
    ledgers: &[(&Ledger, usize)],
    names: &[String],
    symbols: &SymbolTable,
    stacks: bool,
) -> FaultGroup {
    let stack = |id| if stacks { symbols.stack(id) } else { Vec::new() };
    let in_window = |(l, number): &(&Ledger, usize)| {
        let (n, ns) = g.windows.get(*number).copied().unwrap_or((0, 0));
        (l.window.name.clone(), n, ns)
    };
    FaultGroup {
        pid: g.key.pid,
        kind: g.key.kind,
        toucher: symbols.location_of(g.touch_stack),
        mapper: symbols.location_of(g.map_stack),
        mapping: names.get(g.key.mapping as usize).cloned().unwrap_or_else(|| "unknown".to_owned()),
        faults: g.faults,
        pages: g.pages,
        sum_ns: g.sum_ns,
        in_windows: ledgers.iter().filter(|(l, _)| l.pid == g.key.pid).map(in_window).collect(),
        first_ns: g.first_ns,
        last_ns: g.last_ns,
        touch_stack: stack(g.touch_stack),
        map_stack: stack(g.map_stack),
    }
}
