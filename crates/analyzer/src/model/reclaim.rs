use serde::Serialize;

use super::finding::{CodeLocation, StackFrame};

/// Reclaim or compaction of one kind by threads in one function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReclaimGroup {
    /// Process.
    pub pid: u32,
    /// "direct", "memcg" or "compaction".
    pub kind: String,
    /// Whose page fault or call it was.
    pub who: Option<CodeLocation>,
    /// Times.
    pub count: u64,
    /// Time in all, all threads.
    pub sum_ns: i64,
    /// The longest.
    pub max_ns: i64,
    /// Pages freed.
    pub reclaimed_pages: u64,
    /// Wall time on the critical path of each ledger of the process, by window name.
    pub in_windows: Vec<(String, i64)>,
    /// Stack of the first one, innermost first.
    pub stack: Vec<StackFrame>,
}
