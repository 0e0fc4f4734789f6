//! Sleeps that the kernel imposed on threads of the targets, by cause and code.

use mtrace_formats::tables::Throttle;

use super::ledger::Split;
use super::stalls;
use crate::model::ThrottleGroup;
use crate::symbols::SymbolTable;

/// Groups them; most time first.
pub(crate) fn groups(rows: &[Throttle], splits: &[Split], symbols: &SymbolTable) -> Vec<ThrottleGroup> {
    let of = |r: &Throttle| stalls::Row { pid: r.pid, dur: r.dur, stack_id: r.stack_id, cause: r.kind };
    let group = |(stalls, members): (_, Vec<u32>)| {
        let first = members.first().and_then(|i| rows.get(*i as usize));
        ThrottleGroup { kind: first.map(|r| r.kind.name().to_owned()).unwrap_or_default(), stalls }
    };
    stalls::groups("throttles", rows, of, splits, symbols).into_iter().map(group).collect()
}
