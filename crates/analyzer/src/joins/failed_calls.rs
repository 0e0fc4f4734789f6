//! Memory calls that failed, with the state of the address space at that moment.

use std::collections::BTreeMap;

use mtrace_formats::tables::{MemoryCall, MemoryCallKind, Refusal};

use crate::load::{NONE, Tables};
use crate::model::{EnomemGroup, RefusalFacts};
use crate::replay::{FailedCall, Replay};

const ENOMEM: i32 = 12;
const PROT_WRITE: u32 = 2;
const MAP_SHARED_BIT: u32 = 1;
const MAP_NORESERVE: u32 = 0x4000;

/// What the kernel counted when it refused this call; `refusals` are in the order of (tid, ts).
fn kernel_facts(call: &MemoryCall, refusals: &[Refusal], page_size: u64) -> Option<RefusalFacts> {
    /// The two programs at the exit of a call read the clock one after the other.
    const SLACK_NS: i64 = 100_000;
    let i = refusals.partition_point(|r| (r.tid, r.ts) < (call.tid, call.ts));
    let r = refusals.get(i).filter(|r| r.tid == call.tid && r.ts <= call.ts + call.dur + SLACK_NS)?;
    let bytes = |pages: u64| pages.saturating_mul(page_size);
    Some(RefusalFacts {
        vmas: r.vmas,
        mapped_bytes: bytes(r.mapped_pages),
        data_bytes: bytes(r.data_pages),
        locked_bytes: bytes(r.locked_pages),
        limit_as_bytes: r.limit_as_bytes,
        limit_data_bytes: r.limit_data_bytes,
        limit_memlock_bytes: r.limit_memlock_bytes,
    })
}

pub(crate) fn groups(tables: &Tables, replay: &Replay, page_size: u64) -> Vec<EnomemGroup> {
    let (calls, symbols) = (&tables.calls, &tables.symbols);
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
            kernel: kernel_facts(c, &tables.refusals, page_size),
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
        // All that is private and writable is counted once more.
        MemoryCallKind::Brk | MemoryCallKind::Mremap | MemoryCallKind::Fork => true,
        MemoryCallKind::Munmap | MemoryCallKind::Madvise => false,
    }
}
