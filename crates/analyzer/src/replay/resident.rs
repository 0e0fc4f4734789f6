//! Who mapped what a reading of `/proc/PID/smaps` shows.

use std::collections::HashMap;

use mtrace_formats::tables::SmapsRow;

use super::vma::AddressMap;
use crate::load::NONE;

/// The readings in `rows`, which are sorted by (ts, pid): when each ended, and its first row.
pub(super) fn readings(rows: &[SmapsRow]) -> impl Iterator<Item = (i64, usize)> + '_ {
    let mut next = 0;
    rows.chunk_by(|a, b| (a.ts, a.pid) == (b.ts, b.pid)).map(move |reading| {
        let first = next;
        next += reading.len();
        (reading[0].ts_end, first)
    })
}

/// What was found.
pub(super) struct Owners {
    /// Stack of the call that mapped it, for each row of the reading up to where the work ended.
    pub(super) stacks: Vec<u32>,
    /// Mappings visited.
    pub(super) work: u64,
}

/// Looks up the reading that begins at `first`. The kernel shows neighbours of different calls as one mapping: then it is
/// the call that mapped most of it.
pub(super) fn owners(map: &AddressMap, rows: &[SmapsRow], first: usize, max_work: u64) -> Owners {
    let mut out = Owners { stacks: Vec::new(), work: 0 };
    let Some(head) = rows.get(first) else { return out };
    for row in rows[first..].iter().take_while(|r| (r.ts, r.pid) == (head.ts, head.pid)) {
        let mut bytes: HashMap<u32, u64> = HashMap::new();
        for part in map.overlapping(row.start_addr, row.end_addr) {
            out.work += 1;
            *bytes.entry(part.owner).or_default() += part.bytes();
        }
        out.work += 1;
        if out.work > max_work {
            break;
        }
        let most = bytes.into_iter().max_by_key(|(stack, bytes)| (*bytes, std::cmp::Reverse(*stack)));
        out.stacks.push(most.map_or(NONE, |(stack, _)| stack));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::vma::{Backing, Perms, unowned};
    use super::*;
    use crate::test_rows::{PAGE, smaps};

    #[test]
    fn each_reading_is_found_with_its_own_rows() {
        let rows =
            [smaps(10, 7, (0, PAGE)), smaps(10, 7, (PAGE, 2 * PAGE)), smaps(10, 8, (0, PAGE)), smaps(20, 7, (0, PAGE))];
        assert_eq!(readings(&rows).collect::<Vec<_>>(), [(11, 0), (11, 2), (21, 3)]);
        assert_eq!(readings(&[]).count(), 0);
    }

    #[test]
    fn a_mapping_of_several_calls_is_of_the_one_that_mapped_most() {
        let mut map = AddressMap::default();
        for (from, to, owner) in [(1, 3, 5), (3, 4, 6), (4, 5, 5), (9, 10, 7)] {
            let vma = unowned(from * PAGE, to * PAGE, Perms::from_letters("rw-p"), Backing::Anonymous, 0, 0);
            map.insert(super::super::vma::Vma { owner, ..vma });
        }
        let rows = [
            smaps(10, 7, (PAGE, 5 * PAGE)),
            smaps(10, 7, (6 * PAGE, 8 * PAGE)),
            smaps(10, 7, (0, u64::MAX)),
            smaps(10, 8, (PAGE, 5 * PAGE)),
        ];
        let found = owners(&map, &rows, 0, 1000);
        assert_eq!((found.stacks, found.work), (vec![5, NONE, 5], 3 + 4 + 3));
        assert_eq!(owners(&map, &rows, 0, 4).stacks, [5]);
    }
}
