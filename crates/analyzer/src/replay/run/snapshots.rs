//! What the recorder read of a process's mappings beside the replay: held against it, and explained by it.

use mtrace_formats::tables::MemoryCallKind;

use super::{Driver, MAX_WORK};
use crate::replay::base::SnapshotRef;
use crate::replay::certificate::{self, Snapshot};
use crate::replay::mm::Mm;
use crate::replay::resident;

impl Driver<'_> {
    /// Compares the replay with the kernel's own map.
    pub(super) fn check(&mut self, i: usize) {
        let s = self.checks[i].clone();
        if self.bases.contains(&(s.pid, s.ts)) || !self.processes.contains_key(&s.pid) {
            return;
        }
        let p = &self.processes[&s.pid];
        if !p.replay.has_base {
            return;
        }
        let mm = p.mm;
        let in_flight = self.in_flight(&s);
        let Some(mm) = self.mms.get(mm).and_then(Option::as_ref) else { return };
        let snapshot = Snapshot { rows: &self.maps[s.rows.clone()], in_flight };
        self.out.certificates.extend(certificate::compare(&mm.map, &snapshot, &mut self.files));
    }

    /// Who mapped what is in the reading of smaps that begins with this row.
    pub(super) fn resident(&mut self, first: usize) {
        let Some(p) = self.processes.get(&self.smaps[first].pid) else { return };
        let Some(mm) = self.mms.get(p.mm).and_then(Option::as_ref) else { return };
        let owners = resident::owners(&mm.map, self.smaps, first, MAX_WORK.saturating_sub(self.work));
        self.work += owners.work;
        for (i, owner) in (first..).zip(owners.stacks) {
            self.out.smaps_owners[i] = owner;
        }
    }

    /// Ranges of the calls that overlap a snapshot in time.
    fn in_flight(&self, s: &SnapshotRef) -> Vec<(u64, u64)> {
        let mm = Mm::new(self.space);
        let calls = self.calls_by_pid.get(&s.pid).map_or(&[][..], Vec::as_slice);
        let overlapping =
            calls.iter().map(|i| &self.calls[*i as usize]).filter(|c| c.ts <= s.ts_end && c.ts + c.dur >= s.ts);
        let mut ranges = Vec::new();
        for c in overlapping.filter(|c| c.errno.is_none()) {
            let result = c.result.unwrap_or(0);
            let touched = match c.call {
                MemoryCallKind::Mmap => [mm.range(result, c.len_bytes), None],
                MemoryCallKind::Mremap => {
                    [mm.range(c.addr, c.len_bytes), mm.range(result, c.new_len_bytes.unwrap_or(0))]
                }
                MemoryCallKind::Brk => {
                    let (low, high) = (result.min(c.addr), result.max(c.addr));
                    [mm.range(low, high - low), None]
                }
                MemoryCallKind::Madvise | MemoryCallKind::Fork => [None, None],
                MemoryCallKind::Munmap | MemoryCallKind::Mprotect => [mm.range(c.addr, c.len_bytes), None],
            };
            ranges.extend(touched.into_iter().flatten());
        }
        ranges
    }
}
