//! Pages given back by one place in the code and touched again by another.

use std::collections::BTreeMap;

use mtrace_formats::tables::MemoryCall;

use super::ledger::Split;
use crate::aggregate::{self, RefaultRow};
use crate::load::{FaultRow, NONE};
use crate::model::{Churn, ChurnGroup};
use crate::replay::{Replay, is_release};
use crate::symbols::SymbolTable;

/// Function of the caller of each release.
pub(crate) fn releasers(replay: &Replay, calls: &[MemoryCall], symbols: &SymbolTable) -> Vec<u32> {
    replay
        .releases
        .iter()
        .map(|r| calls.get(r.call as usize).and_then(|c| c.stack_id).map_or(NONE, |s| symbols.function_id(s)))
        .collect()
}

/// What a releaser did in all, whether or not it was touched again.
#[derive(Debug, Clone, Copy, Default)]
struct Released {
    calls: u64,
    pages: u64,
    ns: i64,
}

pub(crate) fn churn(
    faults: &[FaultRow],
    calls: &[MemoryCall],
    replay: &Replay,
    symbols: &SymbolTable,
    splits: &[Split],
    page_shift: u32,
) -> aggregate::Result<Churn> {
    let refaults = refaults(faults, calls, replay, symbols, page_shift);
    let released = released(calls, replay, symbols);
    let groups = aggregate::churn(&refaults)?
        .into_iter()
        .map(|g| {
            let total = released.get(&(g.pid, g.releaser)).copied().unwrap_or_default();
            let in_windows = splits
                .iter()
                .filter(|s| s.ledger.pid == g.pid)
                .map(|s| {
                    let wall = s.refaults.get(&(g.releaser, g.toucher)).copied().unwrap_or(0);
                    (s.ledger.window.name.clone(), wall)
                })
                .collect();
            ChurnGroup {
                pid: g.pid,
                releaser: symbols.location_of(g.release_stack),
                toucher: symbols.location_of(g.touch_stack),
                calls: total.calls,
                released_pages: total.pages,
                refaults: g.refaults,
                refault_ns: g.sum_ns,
                madvise_ns: total.ns,
                median_gap_ns: g.median_gap_ns,
                rounds_per_page: g.refaults as f64 / g.pages.max(1) as f64,
                in_windows,
                release_stack: symbols.stack(g.release_stack),
                touch_stack: symbols.stack(g.touch_stack),
            }
        })
        .collect();
    Ok(Churn { groups })
}

fn refaults(
    faults: &[FaultRow],
    calls: &[MemoryCall],
    replay: &Replay,
    symbols: &SymbolTable,
    page_shift: u32,
) -> Vec<RefaultRow> {
    faults
        .iter()
        .filter(|f| f.release != NONE)
        .filter_map(|f| {
            let call = calls.get(replay.releases.get(f.release as usize)?.call as usize)?;
            let release_stack = call.stack_id.unwrap_or(NONE);
            Some(RefaultRow {
                pid: f.pid,
                releaser: symbols.function_id(release_stack),
                toucher: symbols.function_id(f.stack),
                release_stack,
                touch_stack: f.stack,
                page: f.addr >> page_shift,
                stride: f.stride,
                count: f.count,
                gap_ns: f.ts_of(f.count / 2) - call.ts,
                dur: f.dur,
            })
        })
        .collect()
}

fn released(calls: &[MemoryCall], replay: &Replay, symbols: &SymbolTable) -> BTreeMap<(u32, u32), Released> {
    let mut out: BTreeMap<(u32, u32), Released> = BTreeMap::new();
    for (c, effect) in calls.iter().zip(&replay.effects) {
        if c.prot_or_advice.is_some_and(is_release) && c.call == mtrace_formats::tables::MemoryCallKind::Madvise {
            let r = out.entry((c.pid, symbols.function_id(c.stack_id.unwrap_or(NONE)))).or_default();
            r.calls += 1;
            r.pages += effect.released_pages;
            r.ns += c.dur;
        }
    }
    out
}
