//! Sleeps that the kernel imposed on threads of the targets, by cause and code.

use std::collections::BTreeMap;

use mtrace_formats::tables::{Throttle, ThrottleKind};

use super::ledger::Split;
use crate::load::NONE;
use crate::model::ThrottleGroup;
use crate::symbols::SymbolTable;

/// Groups them; most time first.
pub(crate) fn groups(rows: &[Throttle], splits: &[Split], symbols: &SymbolTable) -> Vec<ThrottleGroup> {
    let mut groups: BTreeMap<(u32, ThrottleKind, u32), (ThrottleGroup, Vec<u32>)> = BTreeMap::new();
    for (i, r) in (0_u32..).zip(rows) {
        let stack = r.stack_id.unwrap_or(NONE);
        let (g, members) = groups.entry((r.pid, r.kind, symbols.function_id(stack))).or_insert_with(|| {
            let empty = ThrottleGroup {
                pid: r.pid,
                kind: r.kind.name().to_owned(),
                who: symbols.location_of(stack),
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
    let mut out: Vec<ThrottleGroup> = groups
        .into_values()
        .map(|(mut g, members)| {
            let of_process = splits.iter().filter(|s| s.ledger.pid == g.pid);
            g.in_windows =
                of_process.map(|s| (s.ledger.window.name.clone(), s.overlay_ns("throttles", &members))).collect();
            g
        })
        .collect();
    out.sort_by(|a, b| b.sum_ns.cmp(&a.sum_ns).then_with(|| (a.pid, &a.kind).cmp(&(b.pid, &b.kind))));
    out
}
