//! Reclaim and compaction that threads of the targets had to do, by cause and code.

use std::collections::BTreeMap;

use mtrace_formats::tables::{Reclaim, ReclaimKind};

use super::ledger::Split;
use crate::load::NONE;
use crate::model::ReclaimGroup;
use crate::symbols::SymbolTable;

/// Groups them; most time first.
pub(crate) fn groups(rows: &[Reclaim], splits: &[Split], symbols: &SymbolTable) -> Vec<ReclaimGroup> {
    let mut groups: BTreeMap<(u32, ReclaimKind, u32), (ReclaimGroup, Vec<u32>)> = BTreeMap::new();
    for (i, r) in (0_u32..).zip(rows) {
        let stack = r.stack_id.unwrap_or(NONE);
        let (g, members) = groups.entry((r.pid, r.kind, symbols.function_id(stack))).or_insert_with(|| {
            let empty = ReclaimGroup {
                pid: r.pid,
                kind: r.kind.name().to_owned(),
                who: symbols.location_of(stack),
                count: 0,
                sum_ns: 0,
                max_ns: 0,
                reclaimed_pages: 0,
                in_windows: Vec::new(),
                stack: symbols.stack(stack),
            };
            (empty, Vec::new())
        });
        g.count += 1;
        g.sum_ns = g.sum_ns.saturating_add(r.dur);
        g.max_ns = g.max_ns.max(r.dur);
        g.reclaimed_pages = g.reclaimed_pages.saturating_add(r.reclaimed_pages.unwrap_or(0));
        members.push(i);
    }
    let mut out: Vec<ReclaimGroup> = groups
        .into_values()
        .map(|(mut g, members)| {
            let of_process = splits.iter().filter(|s| s.ledger.pid == g.pid);
            g.in_windows =
                of_process.map(|s| (s.ledger.window.name.clone(), s.overlay_ns("reclaims", &members))).collect();
            g
        })
        .collect();
    out.sort_by(|a, b| b.sum_ns.cmp(&a.sum_ns).then_with(|| (a.pid, &a.kind).cmp(&(b.pid, &b.kind))));
    out
}
