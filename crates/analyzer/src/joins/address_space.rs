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

/// What one function mapped.
#[derive(Debug, Clone, Copy)]
struct Mapped {
    calls: u64,
    bytes: u64,
    live: u64,
    /// The largest single contribution and its stack, whose line stands for the function.
    largest: (u64, u32),
}

impl Default for Mapped {
    fn default() -> Self {
        Self { calls: 0, bytes: 0, live: 0, largest: (0, NONE) }
    }
}

impl Mapped {
    fn see(&mut self, bytes: u64, stack: u32) {
        if bytes > self.largest.0 || self.largest.1 == NONE || bytes == self.largest.0 && stack < self.largest.1 {
            self.largest = (bytes, stack);
        }
    }
}

/// By process and function.
type Growth = BTreeMap<u32, BTreeMap<u32, Mapped>>;

fn growth(calls: &[MemoryCall], replay: &Replay, symbols: &SymbolTable) -> Growth {
    let mut out = Growth::new();
    for (c, effect) in calls.iter().zip(&replay.effects).filter(|(_, e)| e.usable_bytes > 0) {
        let stack = c.stack_id.unwrap_or(NONE);
        let m = out.entry(c.pid).or_default().entry(symbols.function_id(stack)).or_default();
        m.calls += 1;
        m.bytes += effect.usable_bytes;
        m.see(effect.usable_bytes, stack);
    }
    out
}

fn owners(growth: &BTreeMap<u32, Mapped>, p: &ProcessReplay, symbols: &SymbolTable) -> Vec<GrowthByOwner> {
    let mut mapped = growth.clone();
    for (stack, bytes) in &p.live {
        let m = mapped.entry(symbols.function_id(*stack)).or_default();
        m.live += bytes;
        if m.calls == 0 {
            m.see(*bytes, *stack);
        }
    }
    let mut mapped: Vec<Mapped> = mapped.into_values().collect();
    mapped.sort_by_key(|m| (std::cmp::Reverse((m.bytes, m.live)), m.largest.1));
    mapped
        .into_iter()
        .map(|m| GrowthByOwner {
            owner: symbols.location_of(m.largest.1),
            calls: m.calls,
            mapped_bytes: m.bytes,
            live_bytes: m.live,
        })
        .collect()
}
