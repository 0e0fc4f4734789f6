//! The fault tables, from the group-bys.

use crate::aggregate::{FaultAggregates, GroupRow, KindRow};
use crate::load::FaultRow;
use crate::model::{FaultGroup, FaultKindTotals, FaultTables, LatencyHistogram, Ledger, TouchKind};
use crate::symbols::SymbolTable;

/// Full stacks are shown for this many groups, and for all that took a part worth looking at.
const GROUPS_WITH_STACKS: usize = 200;

pub(crate) fn tables(
    aggregates: FaultAggregates,
    rows: &[FaultRow],
    ledgers: &[Ledger],
    names: &[String],
    symbols: &SymbolTable,
) -> FaultTables {
    let kinds = aggregates.kinds.iter().map(|k| totals(k, histogram(rows, k.pid, k.kind))).collect();
    let groups = aggregates
        .groups
        .into_iter()
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

fn histogram(rows: &[FaultRow], pid: u32, kind: TouchKind) -> Vec<u64> {
    let mut counts: Vec<u64> = Vec::new();
    for dur in rows.iter().filter(|f| f.pid == pid && f.touch == kind).filter_map(FaultRow::measured) {
        let bucket = dur.max(1).ilog2() as usize;
        if counts.len() <= bucket {
            counts.resize(bucket + 1, 0);
        }
        counts[bucket] += 1;
    }
    counts
}

fn group(g: GroupRow, ledgers: &[Ledger], names: &[String], symbols: &SymbolTable, stacks: bool) -> FaultGroup {
    let stack = |id| if stacks { symbols.stack(id) } else { Vec::new() };
    let windows = ledgers.iter().zip(&g.windows).filter(|(l, _)| l.pid == g.key.pid);
    FaultGroup {
        pid: g.key.pid,
        kind: g.key.kind,
        toucher: symbols.location(g.key.toucher).cloned(),
        mapper: symbols.location(g.key.mapper).cloned(),
        mapping: names.get(g.key.mapping as usize).cloned().unwrap_or_else(|| "unknown".to_owned()),
        faults: g.faults,
        pages: g.pages,
        sum_ns: g.sum_ns,
        in_windows: windows.map(|(l, (n, ns))| (l.window.name.clone(), *n, *ns)).collect(),
        first_ns: g.first_ns,
        last_ns: g.last_ns,
        touch_stack: stack(g.touch_stack),
        map_stack: stack(g.map_stack),
    }
}
