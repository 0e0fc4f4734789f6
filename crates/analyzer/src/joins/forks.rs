//! Forks, and the copies on write that the parent paid for afterwards.

use std::collections::BTreeMap;

use mtrace_formats::tables::{MemoryCallKind, ProcessEventKind};

use crate::load::{NONE, Tables};
use crate::model::{ForkGroup, TouchKind};
use crate::symbols::SymbolTable;

/// A time in which parent and child shared their pages.
struct Shared {
    start: i64,
    end: i64,
    forker: u32,
}

/// Copies on write after the forks of one function, by the function that wrote.
#[derive(Default)]
struct Copies {
    faults: u64,
    ns: i64,
    by_writer: BTreeMap<u32, (u64, u32)>,
}

/// By parent and forking function; most time first. `end` is the end of the capture.
pub(crate) fn groups(t: &Tables, end: i64) -> Vec<ForkGroup> {
    let symbols = &t.symbols;
    let ends = ends_of_sharing(t);
    let mut groups: BTreeMap<(u32, u32), ForkGroup> = BTreeMap::new();
    let mut shared: BTreeMap<u32, Vec<Shared>> = BTreeMap::new();
    for c in t.calls.iter().filter(|c| c.call == MemoryCallKind::Fork && c.errno.is_none()) {
        let stack = c.stack_id.unwrap_or(NONE);
        let forker = symbols.function_id(stack);
        let g = groups.entry((c.pid, forker)).or_insert_with(|| empty(c.pid, stack, symbols));
        g.forks += 1;
        g.sum_ns = g.sum_ns.saturating_add(c.dur);
        g.max_ns = g.max_ns.max(c.dur);
        let child = c.result.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let until = ends.get(&child).and_then(|all| all.iter().find(|ts| **ts >= c.ts)).copied().unwrap_or(end);
        let start = c.ts + c.dur;
        if until > start {
            g.shared_ns = g.shared_ns.saturating_add(until - start);
            shared.entry(c.pid).or_default().push(Shared { start, end: until, forker });
        }
    }
    for ((pid, forker), copies) in copies(t, &shared) {
        if let Some(g) = groups.get_mut(&(pid, forker)) {
            g.copies = copies.faults;
            g.copies_ns = copies.ns;
            let writer = copies.by_writer.into_values().max_by_key(|(n, stack)| (*n, std::cmp::Reverse(*stack)));
            let stack = writer.map_or(NONE, |(_, stack)| stack);
            g.writer = symbols.location_of(stack);
            g.write_stack = symbols.stack(stack);
        }
    }
    let mut out: Vec<ForkGroup> = groups.into_values().collect();
    out.sort_by_key(|g| std::cmp::Reverse(g.sum_ns.saturating_add(g.copies_ns)));
    out
}

fn empty(pid: u32, stack: u32, symbols: &SymbolTable) -> ForkGroup {
    ForkGroup {
        pid,
        who: symbols.location_of(stack),
        forks: 0,
        sum_ns: 0,
        max_ns: 0,
        copies: 0,
        copies_ns: 0,
        writer: None,
        shared_ns: 0,
        stack: symbols.stack(stack),
        write_stack: Vec::new(),
    }
}

/// When each process executed another program or ended, in order.
fn ends_of_sharing(t: &Tables) -> BTreeMap<u32, Vec<i64>> {
    let mut ends: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
    for e in t.process_events.iter().filter(|e| matches!(e.event, ProcessEventKind::Exec | ProcessEventKind::Exit)) {
        ends.entry(e.pid).or_default().push(e.ts);
    }
    ends
}

/// The parent's copies, each charged to the last fork before it whose child still shared the page tables.
fn copies(t: &Tables, shared: &BTreeMap<u32, Vec<Shared>>) -> BTreeMap<(u32, u32), Copies> {
    let mut out: BTreeMap<(u32, u32), Copies> = BTreeMap::new();
    for f in t.faults.iter().filter(|f| f.touch == TouchKind::CopyOnWrite) {
        let Some(list) = shared.get(&f.pid) else { continue };
        let before = &list[..list.partition_point(|s| s.start <= f.ts)];
        // A bound for a process that forks all the time; older children than that are an exception.
        let Some(s) = before.iter().rev().take(64).find(|s| f.ts < s.end) else { continue };
        let copies = out.entry((f.pid, s.forker)).or_default();
        copies.faults += u64::from(f.count);
        copies.ns = copies.ns.saturating_add(f.wall_ns());
        let writer = copies.by_writer.entry(t.symbols.function_id(f.stack)).or_insert((0, f.stack));
        writer.0 += u64::from(f.count);
    }
    out
}
