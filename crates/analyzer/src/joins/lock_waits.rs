//! Waits for the lock of an address space, by who waited and who held it.

use std::collections::{BTreeMap, BTreeSet};

use mtrace_formats::tables::{LockMode, LockWait, MemoryCall};

use super::ledger::Split;
use crate::load::NONE;
use crate::model::{LockHolder, LockWaitGroup};
use crate::symbols::SymbolTable;

/// Who waited and for whom: pid, mode and function; the holder, its mode and function.
type Key<'a> = (u32, LockMode, u32, Option<Who<'a>>, Option<LockMode>, u32);

/// A holder. Foreign processes with the same name are one: an agent may start a program for each reading.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Who<'a> {
    Own,
    Foreign(&'a str),
}

/// Groups them; most time first.
pub(crate) fn groups(
    rows: &[LockWait],
    calls: &[MemoryCall],
    splits: &[Split],
    symbols: &SymbolTable,
) -> Vec<LockWaitGroup> {
    let holders = Holders::new(rows, calls);
    let mut groups: BTreeMap<Key<'_>, (LockWaitGroup, Vec<u32>)> = BTreeMap::new();
    for (i, r) in (0_u32..).zip(rows) {
        let stack = r.stack_id.unwrap_or(NONE);
        let call = holders.call(r);
        let held_from = call.and_then(|c| c.stack_id).unwrap_or(NONE);
        let key = (r.pid, r.mode, symbols.function_id(stack), who(r), r.holder_mode, symbols.function_id(held_from));
        let (g, members) = groups.entry(key).or_insert_with(|| {
            let holder = r.holder_pid.zip(r.holder_mode).map(|(pid, mode)| LockHolder {
                pid,
                comm: r.holder_comm.clone().unwrap_or_default(),
                processes: 0,
                foreign: pid != r.pid,
                recorder: r.holder_is_recorder == Some(true),
                mode: mode.name().to_owned(),
                call: call.map(|c| c.call.name().to_owned()),
                place: symbols.location_of(held_from),
                stack: symbols.stack(held_from),
            });
            let empty = LockWaitGroup {
                pid: r.pid,
                mode: r.mode.name().to_owned(),
                who: symbols.location_of(stack),
                holder,
                count: 0,
                sum_ns: 0,
                max_ns: 0,
                in_windows: Vec::new(),
                stack: symbols.stack(stack),
            };
            (empty, Vec::new())
        });
        g.count += 1;
        g.sum_ns = g.sum_ns.saturating_add(r.dur);
        g.max_ns = g.max_ns.max(r.dur);
        members.push(i);
    }
    for (g, members) in groups.values_mut() {
        let pids = members.iter().filter_map(|i| rows.get(*i as usize)?.holder_pid);
        if let Some(holder) = &mut g.holder {
            holder.processes = pids.collect::<BTreeSet<u32>>().len() as u64;
        }
    }
    let mut out: Vec<LockWaitGroup> = groups
        .into_values()
        .map(|(mut g, members)| {
            let of_process = splits.iter().filter(|s| s.ledger.pid == g.pid);
            g.in_windows =
                of_process.map(|s| (s.ledger.window.name.clone(), s.overlay_ns("lock_waits", &members))).collect();
            g
        })
        .collect();
    out.sort_by(|a, b| b.sum_ns.cmp(&a.sum_ns).then_with(|| a.pid.cmp(&b.pid)));
    out
}

fn who(r: &LockWait) -> Option<Who<'_>> {
    let pid = r.holder_pid?;
    Some(if pid == r.pid { Who::Own } else { Who::Foreign(r.holder_comm.as_deref().unwrap_or_default()) })
}

/// The memory calls of the threads that held a lock, in order of time.
struct Holders<'a>(BTreeMap<u32, Vec<&'a MemoryCall>>);

impl<'a> Holders<'a> {
    fn new(rows: &[LockWait], calls: &'a [MemoryCall]) -> Self {
        let tids: BTreeSet<u32> = rows.iter().filter_map(|r| r.holder_tid).collect();
        let mut by_tid: BTreeMap<u32, Vec<&MemoryCall>> = BTreeMap::new();
        for c in calls.iter().filter(|c| tids.contains(&c.tid)) {
            by_tid.entry(c.tid).or_default().push(c);
        }
        Self(by_tid)
    }

    /// The call that the holder was in when the wait began.
    fn call(&self, wait: &LockWait) -> Option<&'a MemoryCall> {
        let calls = self.0.get(&wait.holder_tid?)?;
        let last = calls.partition_point(|c| c.ts <= wait.ts).checked_sub(1)?;
        calls.get(last).copied().filter(|c| wait.ts < c.ts + c.dur)
    }
}
