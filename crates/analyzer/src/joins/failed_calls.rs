//! Memory calls that failed, with the state of the address space at that moment.

use std::collections::BTreeMap;

use mtrace_formats::tables::{MemoryCall, MemoryCallKind};

use crate::load::NONE;
use crate::model::EnomemGroup;
use crate::replay::{FailedCall, Replay};
use crate::symbols::SymbolTable;

const ENOMEM: i32 = 12;
const PROT_WRITE: u32 = 2;
const MAP_SHARED_BIT: u32 = 1;
const MAP_NORESERVE: u32 = 0x4000;

pub(crate) fn groups(calls: &[MemoryCall], replay: &Replay, symbols: &SymbolTable) -> Vec<EnomemGroup> {
    let mut groups: BTreeMap<(u32, MemoryCallKind, i32, u32), EnomemGroup> = BTreeMap::new();
    let mut failed: Vec<(&FailedCall, &MemoryCall)> =
        replay.failed.iter().filter_map(|f| Some((f, calls.get(f.call as usize)?))).collect();
    failed.sort_by_key(|(_, c)| c.ts);
    for (f, c) in failed {
        // brk says ENOMEM by returning the old break.
        let errno = c.errno.unwrap_or(ENOMEM);
        let len = asked(f, c);
        let stack = c.stack_id.unwrap_or(NONE);
        let g = groups.entry((c.pid, c.call, errno, stack)).or_insert_with(|| EnomemGroup {
            pid: c.pid,
            call: c.call.name().to_owned(),
            errno,
            count: 0,
            first_ns: c.ts,
            max_len_bytes: 0,
            accountable: false,
            prot_none: false,
            vmas: f.vmas,
            mapped_bytes: f.mapped_bytes,
            data_bytes: f.data_bytes,
            largest_gap_bytes: f.largest_gap_bytes,
            caller: symbols.location_of(stack),
            stack: symbols.stack(stack),
        });
        g.count += 1;
        if len >= g.max_len_bytes {
            g.max_len_bytes = len;
            g.accountable = is_accountable(c);
            g.prot_none = is_protection(c.call) && c.prot_or_advice == Some(0);
        }
    }
    let mut out: Vec<EnomemGroup> = groups.into_values().collect();
    out.sort_by_key(|g| (std::cmp::Reverse(g.count), g.first_ns));
    out
}

fn asked(f: &FailedCall, c: &MemoryCall) -> u64 {
    match c.call {
        MemoryCallKind::Brk => f.brk_growth_bytes.unwrap_or(0),
        MemoryCallKind::Mremap => c.new_len_bytes.unwrap_or(c.len_bytes),
        _ => c.len_bytes,
    }
}

fn is_protection(call: MemoryCallKind) -> bool {
    matches!(call, MemoryCallKind::Mmap | MemoryCallKind::Mprotect)
}

/// Counted against the commit limit: private, writable and not MAP_NORESERVE (`accountable_mapping`, mm/mmap.c).
fn is_accountable(c: &MemoryCall) -> bool {
    let flags = c.flags.unwrap_or(0);
    match c.call {
        MemoryCallKind::Mmap => {
            c.prot_or_advice.is_some_and(|p| p & PROT_WRITE != 0) && flags & (MAP_SHARED_BIT | MAP_NORESERVE) == 0
        }
        MemoryCallKind::Mprotect => c.prot_or_advice.is_some_and(|p| p & PROT_WRITE != 0),
        MemoryCallKind::Brk | MemoryCallKind::Mremap => true,
        MemoryCallKind::Munmap | MemoryCallKind::Madvise => false,
    }
}
