//! Where a replay starts: the snapshots of a process, ordered by the program image that they show.

use std::collections::HashMap;
use std::ops::Range;

use mtrace_formats::tables::{MapRow, MemoryCall, MemoryCallKind, SnapshotReason};

/// One reading of /proc/PID/maps.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotRef {
    pub(crate) pid: u32,
    pub(crate) ts: i64,
    pub(crate) ts_end: i64,
    pub(crate) reason: SnapshotReason,
    /// Rows of the maps table.
    pub(crate) rows: Range<usize>,
}

impl SnapshotRef {
    /// The process was stopped at the exec while it was read.
    pub(crate) fn is_exact(&self) -> bool {
        self.reason == SnapshotReason::Exec && self.ts == self.ts_end
    }
}

/// Snapshots by process; `maps` is sorted by (ts, pid, start).
pub(crate) fn snapshots(maps: &[MapRow]) -> HashMap<u32, Vec<SnapshotRef>> {
    let mut by_pid: HashMap<u32, Vec<SnapshotRef>> = HashMap::new();
    let mut first = 0;
    for chunk in maps.chunk_by(|a, b| (a.ts, a.pid) == (b.ts, b.pid)) {
        let rows = first..first + chunk.len();
        first = rows.end;
        let r = &chunk[0];
        by_pid.entry(r.pid).or_default().push(SnapshotRef {
            pid: r.pid,
            ts: r.ts,
            ts_end: r.ts_end,
            reason: r.reason,
            rows,
        });
    }
    by_pid
}

/// The best start among the snapshots of one image: an exact one, else the first of attach or exec, else the last
/// resort, one from the end.
pub(crate) fn choose(snapshots: &[SnapshotRef]) -> Option<usize> {
    snapshots
        .iter()
        .position(SnapshotRef::is_exact)
        .or_else(|| snapshots.iter().position(|s| s.reason != SnapshotReason::End))
        .or(if snapshots.is_empty() { None } else { Some(0) })
}

/// Ranges that the calls themselves mapped, page-aligned, sorted: a snapshot taken after them shows them too, and
/// the replay will make them itself.
pub(crate) fn made_by_calls<'a>(calls: impl Iterator<Item = &'a MemoryCall>, page: u64) -> Vec<(u64, u64)> {
    let ceil = |n: u64| n.checked_add(page - 1).map(|n| n / page * page);
    let mut ranges = Vec::new();
    let mut brk: Option<u64> = None;
    for c in calls.filter(|c| c.errno.is_none()) {
        let Some(at) = c.result else { continue };
        let len = match c.call {
            MemoryCallKind::Mmap => c.len_bytes,
            MemoryCallKind::Mremap => c.new_len_bytes.unwrap_or(0),
            MemoryCallKind::Brk => {
                if let (Some(old), true) = (brk.and_then(ceil), at == c.addr)
                    && let Some(new) = ceil(at).filter(|new| *new > old)
                {
                    ranges.push((old, new));
                }
                brk = Some(at);
                continue;
            }
            _ => continue,
        };
        if let Some(end) = at.checked_add(len).and_then(ceil)
            && at < end
        {
            ranges.push((at, end));
        }
    }
    ranges.sort_unstable();
    ranges
}

/// `[start, end)` without the (sorted) `holes`.
pub(crate) fn without(start: u64, end: u64, holes: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut at = start;
    for (s, e) in holes {
        if *s >= end {
            break;
        }
        if *s > at {
            out.push((at, *s));
        }
        at = at.max(*e);
    }
    if at < end {
        out.push((at, end));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_cut_out() {
        assert_eq!(without(10, 100, &[(0, 20), (30, 40), (35, 50), (90, 200)]), [(20, 30), (50, 90)]);
        assert_eq!(without(10, 20, &[(0, 100)]), []);
        assert_eq!(without(10, 20, &[]), [(10, 20)]);
    }

    fn snapshot(reason: SnapshotReason, ts: i64, ts_end: i64) -> SnapshotRef {
        SnapshotRef { pid: 1, ts, ts_end, reason, rows: 0..0 }
    }

    #[test]
    fn an_exact_snapshot_is_preferred_and_the_end_is_the_last_resort() {
        use SnapshotReason::{Attach, End, Exec};
        assert_eq!(choose(&[snapshot(Attach, 1, 2), snapshot(Exec, 3, 3), snapshot(End, 9, 9)]), Some(1));
        assert_eq!(choose(&[snapshot(End, 1, 1), snapshot(Exec, 3, 4)]), Some(1));
        assert_eq!(choose(&[snapshot(End, 9, 9)]), Some(0));
        assert_eq!(choose(&[]), None);
    }
}
