//! Victims of the OOM killer.

use std::collections::BTreeSet;

use mtrace_formats::tables::OomKill;

use crate::load::NONE;
use crate::model::OomVictim;
use crate::symbols::SymbolTable;

/// In order of time; `targets` are the processes of the capture.
pub(crate) fn victims(rows: &[OomKill], targets: &BTreeSet<u32>, symbols: &SymbolTable) -> Vec<OomVictim> {
    let victim = |r: &OomKill| {
        let stack = r.stack_id.unwrap_or(NONE);
        OomVictim {
            ts_ns: r.ts,
            pid: r.pid,
            comm: r.comm.clone(),
            target: targets.contains(&r.pid),
            scope: r.scope.map(|s| s.name().to_owned()),
            by_pid: r.by_pid,
            by_comm: r.by_comm.clone(),
            by_place: symbols.location_of(stack),
            by_stack: symbols.stack(stack),
            cgroup: r.cgroup.clone(),
            limit_bytes: r.limit_bytes,
            usage_bytes: r.usage_bytes,
            anon_bytes: r.anon_bytes,
            file_bytes: r.file_bytes,
            shmem_bytes: r.shmem_bytes,
            swap_bytes: r.swap_bytes,
            page_table_bytes: r.page_table_bytes,
        }
    };
    rows.iter().map(victim).collect()
}
