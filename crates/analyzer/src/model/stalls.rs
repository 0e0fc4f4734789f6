use serde::Serialize;

use super::finding::{CodeLocation, StackFrame};
use super::ledger::Ledger;

/// Stalls of one cause of threads in one function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stalls {
    /// Process.
    pub pid: u32,
    /// Whose page fault or call it was.
    pub who: Option<CodeLocation>,
    /// Times.
    pub count: u64,
    /// Time in all, all threads.
    pub sum_ns: i64,
    /// The longest.
    pub max_ns: i64,
    /// Wall time on the critical path of each ledger of the process, by window name.
    pub in_windows: Vec<(String, i64)>,
    /// Stack of the first one, innermost first.
    pub stack: Vec<StackFrame>,
}

impl Stalls {
    /// Wall time on the critical path of a ledger; 0 for one of another process.
    pub fn in_window(&self, ledger: &Ledger) -> i64 {
        let of_ledger = |(name, _): &&(String, i64)| self.pid == ledger.pid && *name == ledger.window.name;
        self.in_windows.iter().find(of_ledger).map_or(0, |(_, ns)| *ns)
    }

    /// Number, time and the longest of all these together.
    pub fn total<'a>(all: impl Iterator<Item = &'a Self>) -> (u64, i64, i64) {
        all.fold((0, 0, 0), |(n, sum, max), s| (n + s.count, sum.saturating_add(s.sum_ns), max.max(s.max_ns)))
    }
}

/// Reclaim or compaction of one kind by threads in one function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReclaimGroup {
    /// "direct", "memcg" or "compaction".
    pub kind: String,
    /// Pages freed.
    pub reclaimed_pages: u64,
    /// How often and how long.
    #[serde(flatten)]
    pub stalls: Stalls,
}

/// Sleeps of one kind that the kernel imposed on threads in one function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThrottleGroup {
    /// "memory_high" or "vmscan".
    pub kind: String,
    /// How often and how long.
    #[serde(flatten)]
    pub stalls: Stalls,
}

/// Who held a lock that somebody waited for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LockHolder {
    /// Process; of several foreign ones with the same name the first.
    pub pid: u32,
    /// Name of its thread (comm).
    pub comm: String,
    /// How many processes these are: more than one only of foreign ones, each of which came for a moment.
    pub processes: u64,
    /// True if it is another process than the one that waited.
    pub foreign: bool,
    /// True for the recorder itself.
    pub recorder: bool,
    /// "read" or "write"; of readers it is the one that came last, and may have left before.
    pub mode: String,
    /// What its thread was doing, where that is a memory call of a target.
    pub call: Option<String>,
    /// From where.
    pub place: Option<CodeLocation>,
    /// The stack of that call, innermost first.
    pub stack: Vec<StackFrame>,
}

/// Waits of threads in one function for one holder of their address space's lock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LockWaitGroup {
    /// "read" or "write".
    pub mode: String,
    /// Who held it; null if the lock named nobody.
    pub holder: Option<LockHolder>,
    /// How often and how long.
    #[serde(flatten)]
    pub stalls: Stalls,
}

/// Forks by one function, and what they cost the parent afterwards.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ForkGroup {
    /// The parent.
    pub pid: u32,
    /// Who forked.
    pub who: Option<CodeLocation>,
    /// Forks.
    pub forks: u64,
    /// Time in them: the page tables are copied.
    pub sum_ns: i64,
    /// The longest.
    pub max_ns: i64,
    /// Writes of the parent to pages that it shared with a child which had neither ended nor executed another program.
    pub copies: u64,
    /// Service time of these faults, all threads.
    pub copies_ns: i64,
    /// Who wrote most of them.
    pub writer: Option<CodeLocation>,
    /// Time in which there was such a child.
    pub shared_ns: i64,
    /// Stack of the first fork, innermost first.
    pub stack: Vec<StackFrame>,
    /// Stack of the writer, innermost first.
    pub write_stack: Vec<StackFrame>,
}

/// A process that the OOM killer chose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OomVictim {
    /// When it was chosen.
    pub ts_ns: i64,
    /// The victim.
    pub pid: u32,
    /// Its name; null where the kernel told the number only.
    pub comm: Option<String>,
    /// True if it is a process of the capture.
    pub target: bool,
    /// "memcg" or "global"; null if unknown.
    pub scope: Option<String>,
    /// Who wanted memory: process and name of its thread.
    pub by_pid: u32,
    /// Name of that thread.
    pub by_comm: String,
    /// From where, if it is a process of the capture.
    pub by_place: Option<CodeLocation>,
    /// Stack of that thread, innermost first.
    pub by_stack: Vec<StackFrame>,
    /// The memory cgroup that was nearest to its limit.
    pub cgroup: Option<String>,
    /// Its limit.
    pub limit_bytes: Option<u64>,
    /// Its usage.
    pub usage_bytes: Option<u64>,
    /// Resident anonymous memory of the victim.
    pub anon_bytes: Option<u64>,
    /// Resident file pages.
    pub file_bytes: Option<u64>,
    /// Resident shared memory.
    pub shmem_bytes: Option<u64>,
    /// Swapped out.
    pub swap_bytes: Option<u64>,
    /// Page tables.
    pub page_table_bytes: Option<u64>,
}
