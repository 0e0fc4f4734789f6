//! Does the replayed address space equal what the kernel said? Compared byte by byte.
//!
//! Boundaries between mappings may differ (names, madvise flags and the history of merges decide them), bytes may not:
//! each must have the same permissions, the same file and the same offset on both sides.

use mtrace_formats::tables::MapRow;

use super::files::FileTable;
use super::gaps::MAX_STACK;
use super::vma::{AddressMap, Backing, Perms};
use crate::model::ReplayCertificate;

/// Differences shown.
const MAX_DIFFERENCES: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    start: u64,
    end: u64,
    perms: Perms,
    backing: Backing,
    offset: u64,
}

impl Span {
    /// True if `other` shows the same bytes at `addr`.
    fn agrees(&self, other: &Self, addr: u64) -> bool {
        let plain = |b| matches!(b, Backing::Anonymous | Backing::Heap);
        let same = self.backing == other.backing && self.backing != Backing::UnknownFile
            || plain(self.backing) && plain(other.backing);
        let offset = |s: &Self| s.offset.wrapping_add(addr - s.start);
        same && self.perms == other.perms
            && (!matches!(self.backing, Backing::File(_) | Backing::SharedAnonymous) || offset(self) == offset(other))
    }
}

/// A snapshot, as the rows of one reading.
pub(crate) struct Snapshot<'a> {
    pub(crate) rows: &'a [MapRow],
    /// Ranges that calls were changing while the file was read.
    pub(crate) in_flight: Vec<(u64, u64)>,
}

/// The vsyscall page is shown in every process and belongs to none (`gate_vma`, arch/x86/entry/vsyscall): it is not
/// counted against `vm.max_map_count` and cannot be mapped or unmapped.
pub(crate) fn is_not_of_the_process(row: &MapRow) -> bool {
    row.path.as_deref() == Some("[vsyscall]")
}

/// Compares; `None` for a snapshot without rows.
pub(crate) fn compare(map: &AddressMap, snapshot: &Snapshot<'_>, files: &mut FileTable) -> Option<ReplayCertificate> {
    let first = snapshot.rows.first()?;
    let theirs: Vec<Span> = snapshot
        .rows
        .iter()
        .filter(|r| r.start_addr < r.end_addr && !is_not_of_the_process(r))
        .map(|r| Span {
            start: r.start_addr,
            end: r.end_addr,
            perms: Perms::from_letters(&r.perms),
            backing: files.of_map(r),
            offset: r.offset_bytes,
        })
        .collect();
    let ours: Vec<Span> = map
        .iter()
        .map(|v| Span { start: v.start, end: v.end, perms: v.perms, backing: v.backing, offset: v.offset })
        .collect();
    let mut c = ReplayCertificate {
        pid: first.pid,
        ts: first.ts,
        snapshot: first.reason.name().to_owned(),
        snapshot_bytes: theirs.iter().map(|s| s.end - s.start).sum(),
        agreeing_bytes: 0,
        equal: true,
        differences: Vec::new(),
    };
    let mut diff = Differences { shown: Vec::new(), more: 0, open: None, tolerated: 0 };
    sweep(&ours, &theirs, |start, end, mine, kernel| {
        if let (Some(a), Some(b)) = (mine, kernel)
            && a.agrees(b, start)
        {
            c.agreeing_bytes += end - start;
        } else if explained(start, end, mine, kernel, &ours, snapshot, files) {
            diff.tolerated += end - start;
        } else {
            c.equal = false;
            diff.add(start, end, mine.copied(), kernel.copied(), files);
        }
    });
    c.differences = diff.finish(files, snapshot.in_flight.len());
    Some(c)
}

/// What the kernel does without a call, and what calls were doing while the file was read.
fn explained(
    start: u64,
    end: u64,
    mine: Option<&Span>,
    kernel: Option<&Span>,
    ours: &[Span],
    snapshot: &Snapshot<'_>,
    files: &FileTable,
) -> bool {
    if snapshot.in_flight.iter().any(|(s, e)| *s <= start && end <= *e) {
        return true;
    }
    let Some(kernel) = kernel.filter(|_| mine.is_none()) else { return false };
    // A page for the out-of-line instructions of uprobes, which are the recorder's own.
    if files.name(kernel.backing) == "[uprobes]" {
        return true;
    }
    // Growth of the stack by a fault that was not recorded, such as one of the kernel itself.
    kernel.backing == Backing::Stack
        && ours.iter().any(|s| s.backing == Backing::Stack && s.start >= end && s.end - start <= MAX_STACK)
}

/// Visits every stretch in which both sides are constant and at least one maps something.
fn sweep<'a>(a: &'a [Span], b: &'a [Span], mut visit: impl FnMut(u64, u64, Option<&'a Span>, Option<&'a Span>)) {
    let (mut i, mut j, mut at) = (0, 0, 0_u64);
    loop {
        while a.get(i).is_some_and(|s| s.end <= at) {
            i += 1;
        }
        while b.get(j).is_some_and(|s| s.end <= at) {
            j += 1;
        }
        let (x, y) = (a.get(i), b.get(j));
        let next_start = [x, y].into_iter().flatten().map(|s| s.start.max(at)).min();
        let Some(start) = next_start else { return };
        let inside = |s: Option<&'a Span>| s.filter(|s| s.start <= start);
        let edge = |s: Option<&Span>| s.map(|s| if s.start > start { s.start } else { s.end });
        let Some(end) = [edge(x), edge(y)].into_iter().flatten().min() else { return };
        visit(start, end, inside(x), inside(y));
        at = end;
    }
}

struct Differences {
    shown: Vec<String>,
    more: u64,
    open: Option<(u64, u64, Option<Span>, Option<Span>)>,
    tolerated: u64,
}

impl Differences {
    fn add(&mut self, start: u64, end: u64, mine: Option<Span>, kernel: Option<Span>, files: &FileTable) {
        if let Some((_, e, m, k)) = &mut self.open
            && *e == start
            && (*m, *k) == (mine, kernel)
        {
            *e = end;
            return;
        }
        self.close(files);
        self.open = Some((start, end, mine, kernel));
    }

    fn close(&mut self, files: &FileTable) {
        let Some((start, end, mine, kernel)) = self.open.take() else { return };
        if self.shown.len() >= MAX_DIFFERENCES {
            self.more += 1;
            return;
        }
        let side = |s: Option<Span>| match s {
            None => "nothing".to_owned(),
            Some(s) => {
                let offset = s.offset.wrapping_add(start.saturating_sub(s.start));
                let offset = if s.backing.has_offset() { format!(" at offset {offset:#x}") } else { String::new() };
                format!("{} {}{offset}", s.perms, files.name(s.backing))
            }
        };
        self.shown.push(format!(
            "{start:#x}-{end:#x} ({} KiB): the kernel shows {}, the replay has {}",
            (end - start) >> 10,
            side(kernel),
            side(mine)
        ));
    }

    fn finish(mut self, files: &FileTable, in_flight: usize) -> Vec<String> {
        self.close(files);
        if self.more > 0 {
            self.shown.pop();
            self.shown.push(format!("and {} more", self.more + 1));
        }
        if self.tolerated > 0 && self.shown.len() < MAX_DIFFERENCES {
            self.shown.push(format!(
                "not counted as a difference: {} KiB that the kernel maps by itself (stack growth, uprobes) or that {in_flight} calls were changing while the snapshot was read",
                self.tolerated >> 10
            ));
        }
        self.shown
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mtrace_formats::tables::SnapshotReason;

    use super::super::vma::unowned;
    use super::*;

    fn row(start: u64, end: u64, perms: &str, path: Option<&str>) -> MapRow {
        MapRow {
            ts: 5,
            ts_end: 6,
            reason: SnapshotReason::End,
            pid: 1,
            start_addr: start,
            end_addr: end,
            perms: perms.to_owned(),
            offset_bytes: 0,
            dev: 0,
            inode: u64::from(path.is_some_and(|p| p.starts_with('/'))),
            path: path.map(str::to_owned),
        }
    }

    fn run(map: &AddressMap, rows: &[MapRow], in_flight: Vec<(u64, u64)>) -> ReplayCertificate {
        compare(map, &Snapshot { rows, in_flight }, &mut FileTable::new(&[])).unwrap()
    }

    fn anon(start: u64, end: u64) -> AddressMap {
        let mut map = AddressMap::default();
        map.insert(unowned(start, end, Perms::from_prot(3, false), Backing::Anonymous, 0, 0));
        map
    }

    #[test]
    fn boundaries_and_names_may_differ_and_bytes_may_not() {
        let map = anon(0x10000, 0x20000);
        let split = [row(0x10000, 0x12000, "rw-p", None), row(0x12000, 0x20000, "rw-p", Some("[anon:x]"))];
        let c = run(&map, &split, vec![]);
        assert!(c.equal && c.differences.is_empty(), "{c:?}");
        assert_eq!((c.agreeing_bytes, c.snapshot_bytes), (0x10000, 0x10000));

        let c = run(&map, &[row(0x10000, 0x1f000, "rw-p", None), row(0x1f000, 0x20000, "r--p", None)], vec![]);
        assert!(!c.equal);
        assert_eq!(c.agreeing_bytes, 0xf000);
        assert_eq!(
            c.differences,
            ["0x1f000-0x20000 (4 KiB): the kernel shows r--p anonymous, the replay has rw-p anonymous"]
        );
    }

    #[test]
    fn what_is_missing_on_either_side_is_named() {
        let c = run(&anon(0x10000, 0x20000), &[row(0x18000, 0x30000, "rw-p", None)], vec![]);
        assert_eq!(c.differences.len(), 2);
        assert!(c.differences[0].ends_with("the kernel shows nothing, the replay has rw-p anonymous"));
        assert!(c.differences[1].ends_with("the kernel shows rw-p anonymous, the replay has nothing"));
    }

    #[test]
    fn a_call_in_flight_and_the_growth_of_the_stack_are_said_and_tolerated() {
        let mut map = anon(0x10000, 0x20000);
        let mut stack = unowned(0x70_0000, 0x72_0000, Perms::from_prot(3, false), Backing::Stack, 0, 0);
        stack.backing = Backing::Stack;
        map.insert(stack);
        let rows = [row(0x6f_0000, 0x72_0000, "rw-p", Some("[stack]"))];
        let c = run(&map, &rows, vec![(0x10000, 0x20000)]);
        assert!(c.equal, "{c:?}");
        assert_eq!((c.agreeing_bytes, c.differences.len()), (0x2_0000, 1));
        assert!(!run(&map, &rows, vec![]).equal);
    }

    #[test]
    fn ten_differences_are_shown_and_the_rest_counted() {
        let rows: Vec<_> = (0..20).map(|i| row(0x10000 + i * 0x2000, 0x11000 + i * 0x2000, "rw-p", None)).collect();
        let c = run(&AddressMap::default(), &rows, vec![]);
        assert_eq!(c.differences.len(), 10);
        assert_eq!(c.differences[9], "and 11 more");
    }
}
