//! Waits for the lock of an address space, by who waited and who held it.

use std::collections::{BTreeMap, BTreeSet};

use mtrace_formats::tables::{LockMode, LockWait, MemoryCall};

use super::ledger::Split;
use super::stalls;
use crate::load::NONE;
use crate::model::{LockHolder, LockWaitGroup};
use crate::symbols::SymbolTable;

/// For whom: mode of the wait; the holder, its mode and function.
type Cause<'a> = (LockMode, Option<Who<'a>>, Option<LockMode>, u32);

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
    let held_from = |r: &LockWait| holders.call(r).and_then(|c| c.stack_id).unwrap_or(NONE);
    let of = |r| {
        let r: &LockWait = r;
        let cause: Cause<'_> = (r.mode, who(r), r.holder_mode, symbols.function_id(held_from(r)));
        stalls::Row { pid: r.pid, dur: r.dur, stack_id: r.stack_id, cause }
    };
    let group = |(stalls, members): (_, Vec<u32>)| {
        let of_group: Vec<&LockWait> = members.iter().filter_map(|i| rows.get(*i as usize)).collect();
        let first = *of_group.first()?;
        let pids: BTreeSet<u32> = of_group.iter().filter_map(|r| r.holder_pid).collect();
        let holder = first.holder_pid.zip(first.holder_mode).map(|(pid, mode)| LockHolder {
            pid,
            comm: first.holder_comm.clone().unwrap_or_default(),
            processes: pids.len() as u64,
            foreign: pid != first.pid,
            recorder: first.holder_is_recorder == Some(true),
            mode: mode.name().to_owned(),
            call: holders.call(first).map(|c| c.call.name().to_owned()),
            place: symbols.location_of(held_from(first)),
            stack: symbols.stack(held_from(first)),
        });
        Some(LockWaitGroup { mode: first.mode.name().to_owned(), holder, stalls })
    };
    stalls::groups("lock_waits", rows, of, splits, symbols).into_iter().filter_map(group).collect()
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
