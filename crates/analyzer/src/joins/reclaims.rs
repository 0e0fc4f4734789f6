//! Reclaim and compaction that threads of the targets had to do, by cause and code.

use mtrace_formats::tables::Reclaim;

use super::ledger::Split;
use super::stalls;
use crate::model::ReclaimGroup;
use crate::symbols::SymbolTable;

/// Groups them; most time first.
pub(crate) fn groups(rows: &[Reclaim], splits: &[Split], symbols: &SymbolTable) -> Vec<ReclaimGroup> {
    let of = |r: &Reclaim| stalls::Row { pid: r.pid, dur: r.dur, stack_id: r.stack_id, cause: r.kind };
    let group = |(stalls, members): (_, Vec<u32>)| {
        let of_group = || members.iter().filter_map(|i| rows.get(*i as usize));
        let pages = of_group().filter_map(|r| r.reclaimed_pages);
        ReclaimGroup {
            kind: of_group().next().map(|r| r.kind.name().to_owned()).unwrap_or_default(),
            reclaimed_pages: pages.fold(0, u64::saturating_add),
            stalls,
        }
    };
    stalls::groups("reclaims", rows, of, splits, symbols).into_iter().map(group).collect()
}
