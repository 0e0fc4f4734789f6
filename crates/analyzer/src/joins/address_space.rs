//! Address spaces over time, and who mapped what.

use std::collections::BTreeMap;

use mtrace_formats::tables::MemoryCall;

use crate::load::NONE;
use crate::model::{AddressSpace, GrowthByOwner};
use crate::replay::{ProcessReplay, Replay};
use crate::symbols::SymbolTable;

pub(crate) fn address_spaces(
    pids: &[u32],
    calls: &[MemoryCall],
    replay: &Replay,
    symbols: &SymbolTable,
    max_map_count: Option<u64>,
) -> Vec<AddressSpace> {
    let growth = growth(calls, replay, symbols);
    let empty = BTreeMap::new();
    pids.iter()
        .filter_map(|pid| Some((*pid, replay.processes.get(pid)?)))
        .map(|(pid, p)| AddressSpace {
            pid,
            points: p.points.clone(),
            histogram: p.histogram.clone(),
            max_vmas: p.max_vmas,
            max_map_count,
            owners: owners(growth.get(&pid).unwrap_or(&empty), p, symbols),
        })
        .collect()
}

/// Calls and bytes that became usable, by process and location.
type Growth = BTreeMap<u32, BTreeMap<u32, (u64, u64)>>;

fn growth(calls: &[MemoryCall], replay: &Replay, symbols: &SymbolTable) -> Growth {
    let mut out = Growth::new();
    for (c, effect) in calls.iter().zip(&replay.effects).filter(|(_, e)| e.usable_bytes > 0) {
        let location = symbols.location_id(c.stack_id.unwrap_or(NONE));
        let sum = out.entry(c.pid).or_default().entry(location).or_insert((0, 0));
        *sum = (sum.0 + 1, sum.1 + effect.usable_bytes);
    }
    out
}

fn owners(growth: &BTreeMap<u32, (u64, u64)>, p: &ProcessReplay, symbols: &SymbolTable) -> Vec<GrowthByOwner> {
    let mut live: BTreeMap<u32, u64> = BTreeMap::new();
    for (stack, bytes) in &p.live {
        *live.entry(symbols.location_id(*stack)).or_insert(0) += bytes;
    }
    let mut locations: Vec<u32> = growth.keys().chain(live.keys()).copied().collect();
    locations.sort_unstable();
    locations.dedup();
    let mut out: Vec<GrowthByOwner> = locations
        .into_iter()
        .map(|location| {
            let (calls, mapped_bytes) = growth.get(&location).copied().unwrap_or((0, 0));
            GrowthByOwner {
                owner: symbols.location(location).cloned(),
                calls,
                mapped_bytes,
                live_bytes: live.get(&location).copied().unwrap_or(0),
            }
        })
        .collect();
    out.sort_by(|a, b| b.mapped_bytes.cmp(&a.mapped_bytes).then_with(|| b.live_bytes.cmp(&a.live_bytes)));
    out
}
