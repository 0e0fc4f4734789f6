//! Small pages that were replaced by huge ones, by process.

use std::collections::BTreeMap;

use mtrace_formats::tables::{Collapse, CollapsedBy, CollapsedMemory};

use crate::model::CollapseTable;

/// The kernel's word for a range that became a huge page.
const SUCCEEDED: &str = "succeed";
/// Words for failures kept: the kernel knows some thirty.
const MAX_WORDS: usize = 100;

/// In order of pids.
pub(crate) fn tables(rows: &[Collapse], page_size: u64) -> Vec<CollapseTable> {
    let mut by_pid: BTreeMap<u32, (CollapseTable, BTreeMap<&str, u64>)> = BTreeMap::new();
    for row in rows {
        let (table, failed) = by_pid.entry(row.pid).or_default();
        if row.result == SUCCEEDED {
            see(table, row, page_size);
        } else if failed.len() < MAX_WORDS || failed.contains_key(row.result.as_str()) {
            *failed.entry(&row.result).or_default() += 1;
        }
    }
    let finish = |(pid, (table, failed)): (u32, (CollapseTable, BTreeMap<&str, u64>))| {
        let mut failed: Vec<(String, u64)> = failed.into_iter().map(|(word, n)| (word.to_owned(), n)).collect();
        failed.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        CollapseTable { pid, failed, ..table }
    };
    by_pid.into_iter().map(finish).collect()
}

fn see(table: &mut CollapseTable, row: &Collapse, page_size: u64) {
    table.collapsed += 1;
    table.by_khugepaged += u64::from(row.by == CollapsedBy::Khugepaged);
    let copy = row.copy_ns.unwrap_or(0).max(0);
    table.copy_ns = table.copy_ns.saturating_add(copy);
    table.copy_max_ns = table.copy_max_ns.max(copy);
    let sum = match row.memory {
        CollapsedMemory::Anon => &mut table.new_bytes,
        CollapsedMemory::File => &mut table.new_file_bytes,
    };
    match row.new_pages {
        Some(pages) => *sum = sum.saturating_add(pages.saturating_mul(page_size)),
        None => table.unknown += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: u32, by: CollapsedBy, memory: CollapsedMemory, result: &str, new_pages: Option<u64>) -> Collapse {
        let copy_ns = new_pages.map(|n| n as i64);
        Collapse { ts: 1, pid, tid: 9, by, memory, result: result.to_owned(), new_pages, copy_ns, addr: None }
    }

    #[test]
    fn memory_that_came_without_a_fault_is_added_up() {
        let (own, daemon) = (CollapsedBy::Own, CollapsedBy::Khugepaged);
        let (anon, file) = (CollapsedMemory::Anon, CollapsedMemory::File);
        let rows = [
            row(7, daemon, anon, "succeed", Some(511)),
            row(7, own, anon, "succeed", Some(1)),
            row(7, own, file, "succeed", Some(2)),
            row(7, own, anon, "succeed", None),
            row(7, own, anon, "pmd_mapped", None),
            row(7, own, anon, "page_lru", None),
            row(7, own, anon, "page_lru", None),
            row(5, daemon, anon, "alloc_huge_page_fail", None),
        ];
        let tables = tables(&rows, 4096);
        assert_eq!(tables.iter().map(|t| t.pid).collect::<Vec<_>>(), [5, 7]);
        let t = &tables[1];
        assert_eq!((t.collapsed, t.by_khugepaged, t.unknown), (4, 1, 1));
        assert_eq!((t.new_bytes, t.new_file_bytes, t.copy_ns, t.copy_max_ns), (512 << 12, 2 << 12, 514, 511));
        assert_eq!(t.failed, [("page_lru".to_owned(), 2), ("pmd_mapped".to_owned(), 1)]);
        assert_eq!((tables[0].collapsed, tables[0].failed.len()), (0, 1));
    }

    #[test]
    fn numbers_that_no_kernel_counts_do_not_overflow() {
        let rows = vec![row(7, CollapsedBy::Own, CollapsedMemory::Anon, "succeed", Some(u64::MAX)); 3];
        let t = &tables(&rows, 1 << 40)[0];
        assert_eq!((t.new_bytes, t.copy_ns), (u64::MAX, 0));
    }
}
