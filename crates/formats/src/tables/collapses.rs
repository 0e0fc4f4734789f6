use crate::{name_enum, table};

name_enum! {
    /// Who replaced small pages by a huge one.
    pub enum CollapsedBy {
        /// The process itself: `madvise(MADV_COLLAPSE)` (6.1).
        Own = "own",
        /// The kernel's thread khugepaged.
        Khugepaged = "khugepaged",
        /// Another process, by `process_madvise`.
        Other = "other",
    }
}

name_enum! {
    /// What was collapsed.
    pub enum CollapsedMemory {
        /// Private anonymous memory.
        Anon = "anon",
        /// The page cache of a file or of shared memory (tmpfs, shared anonymous).
        File = "file",
    }
}

table! {
    /// One range of a target (2 MiB on x86-64) whose small pages were to be replaced by one huge page: each range that was
    /// really tried, and each one that a process asked for in vain. Ranges that khugepaged looked at and left alone are
    /// counted in the account.
    ///
    /// A sparse range becomes resident as a whole, without a page fault (`new_pages`), and mmap_lock is held for writing
    /// meanwhile: who waits for it is in `lock_waits`. Huge pages that a page fault maps are no collapses.
    pub struct Collapse("collapses") {
        /// When it was over.
        ts: i64 = Delta,
        /// Process (thread group) whose memory it is.
        pid: u32 = Dictionary,
        /// Thread that did it: one of the process, or khugepaged's.
        tid: u32 = Dictionary,
        /// Who did it.
        by: CollapsedBy = Dictionary,
        /// What was collapsed.
        memory: CollapsedMemory = Dictionary,
        /// `succeed`, or why not: the kernel's own name (`enum scan_result` without `SCAN_`, in lower case); the number where
        /// the kernel's BTF does not have the enum.
        result: String = Dictionary,
        /// Pages that were not there before, so that the process (of a file: the page cache) grew by them. Null if it did
        /// not succeed, or if its begin was not seen.
        new_pages: Option<u64> = Plain,
        /// From when its small pages had been taken out of the page table to the end: copying them into the huge page.
        /// mmap_lock is held for writing nearly as long; what was done before is not in it. Null if it did not come to
        /// that, if its begin was not seen, and for files.
        copy_ns: Option<i64> = Plain,
        /// First address, where the kernel tells it: of some files, from 6.2 on. It is never told of anonymous memory.
        addr: Option<u64> = Plain,
    }
}
