use serde::Serialize;

use super::finding::CodeLocation;

/// Resident memory at one reading of `/proc/PID/smaps`. Null is not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ResidentSums {
    /// Resident.
    pub rss_bytes: u64,
    /// Of it in huge pages of anonymous memory.
    pub anon_huge_bytes: Option<u64>,
    /// Swapped out.
    pub swap_bytes: Option<u64>,
}

impl ResidentSums {
    /// Growth of what is resident since an earlier reading; a hostile capture may hold any numbers.
    pub fn growth_since(&self, before: &Self) -> i64 {
        let grown = i128::from(self.rss_bytes) - i128::from(before.rss_bytes);
        i64::try_from(grown).unwrap_or(if grown > 0 { i64::MAX } else { i64::MIN })
    }
}

/// What belongs together: the mappings of one file or name, or those without a name that one function mapped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResidentGroup {
    /// Path, `[heap]`, `[stack]`, `[anon:NAME]`, or "anonymous".
    pub name: String,
    /// Who mapped most of it; null if it is older than the capture, or mapped by the kernel.
    pub mapped_by: Option<CodeLocation>,
    /// Mappings, as the kernel counts them, at the last reading (at the first one if they are gone).
    pub mappings: u64,
    /// At the first reading; null if there was one only.
    pub begin: Option<ResidentSums>,
    /// At the last reading.
    pub end: ResidentSums,
    /// Growth of what is resident; null if there was one reading only.
    pub growth_bytes: Option<i64>,
}

/// Resident memory of a process by mapping.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResidentMemory {
    /// Process.
    pub pid: u32,
    /// The first reading of the program that it ran last, and how long reading took; null if there was one reading only.
    pub begin_ns: Option<(i64, i64)>,
    /// The last reading, likewise.
    pub end_ns: (i64, i64),
    /// Why it was read then: "begin", "end", "dump" or "periodic".
    pub end_moment: String,
    /// Sum over all mappings at the first reading.
    pub begin: Option<ResidentSums>,
    /// At the last one.
    pub end: ResidentSums,
    /// What grew most, then what is largest.
    pub groups: Vec<ResidentGroup>,
    /// How many more there are, and their sums.
    pub others: u64,
    /// Of these, at the first reading.
    pub others_begin: Option<ResidentSums>,
    /// At the last one.
    pub others_end: ResidentSums,
}

/// Small pages of a process that were replaced by huge ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CollapseTable {
    /// Process.
    pub pid: u32,
    /// Ranges that became a huge page.
    pub collapsed: u64,
    /// Of them by khugepaged.
    pub by_khugepaged: u64,
    /// Anonymous memory that was not there before and came without a page fault.
    pub new_bytes: u64,
    /// The same of files and shared memory, where it is the page cache that grew.
    pub new_file_bytes: u64,
    /// Ranges for which that is not known.
    pub unknown: u64,
    /// Time in which pages were copied and mmap_lock was held for writing.
    pub copy_ns: i64,
    /// The longest.
    pub copy_max_ns: i64,
    /// Attempts that came to nothing, by the kernel's word for why, most first.
    pub failed: Vec<(String, u64)>,
}
