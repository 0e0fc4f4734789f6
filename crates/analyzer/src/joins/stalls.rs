//! What the tables of stalls (see [`super::overlays`]) have in common: rows of a thread, a time and a stack, by cause and
//! code.

use std::collections::BTreeMap;

use super::ledger::Split;
use crate::load::NONE;
use crate::model::Stalls;
use crate::symbols::SymbolTable;

/// What a group is made from.
pub(crate) struct Row<K> {
    pub(crate) pid: u32,
    pub(crate) dur: i64,
    pub(crate) stack_id: Option<u32>,
    /// What makes a group besides process and function.
    pub(crate) cause: K,
}

/// Groups the rows of an overlay's table by process, cause and function; most time first. With each group the numbers of
/// its rows, of which there is at least one.
pub(crate) fn groups<'r, R, K: Ord>(
    overlay: &str,
    rows: &'r [R],
    of: impl Fn(&'r R) -> Row<K>,
    splits: &[Split],
    symbols: &SymbolTable,
) -> Vec<(Stalls, Vec<u32>)> {
    let mut groups: BTreeMap<(u32, K, u32), (Stalls, Vec<u32>)> = BTreeMap::new();
    for (i, r) in (0_u32..).zip(rows) {
        let r = of(r);
        let stack = r.stack_id.unwrap_or(NONE);
        let (s, members) = groups.entry((r.pid, r.cause, symbols.function_id(stack))).or_insert_with(|| {
            let empty = Stalls {
                pid: r.pid,
                who: symbols.location_of(stack),
                count: 0,
                sum_ns: 0,
                max_ns: 0,
                in_windows: Vec::new(),
                stack: symbols.stack(stack),
            };
            (empty, Vec::new())
        });
        s.count += 1;
        s.sum_ns = s.sum_ns.saturating_add(r.dur);
        s.max_ns = s.max_ns.max(r.dur);
        members.push(i);
    }
    let mut out: Vec<(Stalls, Vec<u32>)> = groups.into_values().collect();
    for (s, members) in &mut out {
        let of_process = splits.iter().filter(|split| split.ledger.pid == s.pid);
        s.in_windows = of_process.map(|o| (o.ledger.window.name.clone(), o.overlay_ns(overlay, members))).collect();
    }
    // Stable: of equals in the order of the causes.
    out.sort_by_key(|(s, _)| std::cmp::Reverse(s.sum_ns));
    out
}
