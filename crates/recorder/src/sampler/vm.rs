//! The memory management's own counters: `/proc/vmstat` and `/proc/buddyinfo`.

use std::fs;

use mtrace_formats::tables::{Sample, SampleSource};

use super::Rows;
use super::parse::flat_keyed;
use crate::host::monotonic_ns;

/// Counters of `/proc/vmstat` that tell who reclaims, swaps, compacts or makes huge pages; those of a kernel without the
/// feature are absent.
const VMSTAT: &[&str] = &[
    "pgfault",
    "pgmajfault",
    "pswpin",
    "pswpout",
    "pgscan_kswapd",
    "pgscan_direct",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "allocstall_normal",
    "allocstall_movable",
    "oom_kill",
    "workingset_refault_anon",
    "workingset_refault_file",
    "compact_stall",
    "compact_fail",
    "compact_success",
    "thp_fault_alloc",
    "thp_fault_fallback",
    "thp_collapse_alloc",
    "thp_collapse_alloc_failed",
    "thp_split_page",
];

/// Reads both.
pub(super) fn counters(out: &mut Vec<Sample>) {
    let ts = monotonic_ns();
    if let Ok(text) = fs::read_to_string("/proc/vmstat") {
        let mut rows = Rows { ts, source: SampleSource::Vmstat, pid: None, out };
        for (key, value) in flat_keyed(&text).filter(|(key, _)| VMSTAT.contains(key)) {
            rows.push(key, Some(value));
        }
    }
    let ts = monotonic_ns();
    if let Ok(text) = fs::read_to_string("/proc/buddyinfo") {
        let mut rows = Rows { ts, source: SampleSource::Buddyinfo, pid: None, out };
        for (order, blocks) in (0_u32..).zip(free_blocks(&text)) {
            rows.push(format!("order_{order}"), Some(blocks));
        }
    }
}

/// Free blocks by order, of all zones: `Node 0, zone   Normal   4   3 …`.
fn free_blocks(text: &str) -> Vec<u64> {
    let mut sums: Vec<u64> = Vec::new();
    for line in text.lines() {
        let Some((_, zone)) = line.split_once("zone") else { continue };
        for (order, word) in zone.split_whitespace().skip(1).enumerate() {
            let Ok(blocks) = word.parse::<u64>() else { break };
            if order == sums.len() {
                sums.push(0);
            }
            sums[order] = sums[order].saturating_add(blocks);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_added_up_and_nonsense_is_left_out() {
        let text = "Node 0, zone      DMA      1      0      2\nNode 0, zone   Normal     10      5      1      7\n";
        assert_eq!(free_blocks(text), [11, 5, 3, 7]);
        assert_eq!(free_blocks("Node 0, zone\nfoo\nNode 0, zone DMA x 4\n"), Vec::<u64>::new());
    }

    #[test]
    fn this_host_has_its_counters() {
        let mut out = Vec::new();
        counters(&mut out);
        let faults = out.iter().find(|s| s.key == "pgfault" && s.source == SampleSource::Vmstat);
        assert!(faults.is_some_and(|s| s.value > Some(0)), "{out:?}");
        assert!(out.iter().any(|s| s.key == "order_0" && s.source == SampleSource::Buddyinfo), "{out:?}");
    }
}
