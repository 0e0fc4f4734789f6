use serde::Serialize;

use super::finding::{CodeLocation, StackFrame};

/// What a fault did, from the error code, the mapping and the page's history in the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TouchKind {
    /// First touch of an anonymous page in this capture.
    AnonFirstTouch,
    /// An anonymous page that was touched before and given back by madvise(MADV_DONTNEED) since.
    AnonRefault,
    /// A write to a present page: copy on write (or a write to a read-only page).
    CopyOnWrite,
    /// A page of a file, found in the page cache.
    FileMinor,
    /// A page of a file that had to be read, or a retried fault.
    FileMajor,
    /// An anonymous page that had to be read back (swap), or a retried fault.
    AnonMajor,
    /// In no mapping that the replay knows.
    Unknown,
}

/// Service times of a set of faults, log2 buckets.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct LatencyHistogram {
    /// `counts[i]`: service time in `[2^i, 2^(i+1))` ns; `counts[0]` also holds 0.
    pub counts: Vec<u64>,
    /// Median, ns. Exact for faults with a row of their own; of runs from their histograms, whose buckets double, scaled
    /// to their exact sums.
    pub p50_ns: Option<i64>,
    /// 99th percentile, ns; likewise.
    pub p99_ns: Option<i64>,
    /// Longest, ns; exact.
    pub max_ns: Option<i64>,
    /// Sum, ns.
    pub sum_ns: i64,
    /// Faults with a service time.
    pub measured: u64,
}

/// All faults of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultKindTotals {
    /// Process.
    pub pid: u32,
    /// Kind.
    pub kind: TouchKind,
    /// Number.
    pub faults: u64,
    /// Distinct pages.
    pub pages: u64,
    /// Service times.
    pub latency: LatencyHistogram,
}

/// Faults with the same kind, owner of the mapping and toucher.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultGroup {
    /// Process.
    pub pid: u32,
    /// Kind.
    pub kind: TouchKind,
    /// Who touched: the first frame outside the runtime and libc.
    pub toucher: Option<CodeLocation>,
    /// Who mapped: the first frame outside the runtime and libc; null for maps older than the capture.
    pub mapper: Option<CodeLocation>,
    /// What was mapped: "anonymous", a path, "[heap]", "[stack]".
    pub mapping: String,
    /// Number of faults.
    pub faults: u64,
    /// Distinct pages.
    pub pages: u64,
    /// Sum of service times.
    pub sum_ns: i64,
    /// Number inside each ledger window, by window name, in the order of the ledgers.
    pub in_windows: Vec<(String, u64, i64)>,
    /// First fault.
    pub first_ns: i64,
    /// Last fault.
    pub last_ns: i64,
    /// The heaviest full stack of the toucher, innermost first.
    pub touch_stack: Vec<StackFrame>,
    /// The heaviest full stack of the mapper, innermost first.
    pub map_stack: Vec<StackFrame>,
}

/// Everything about faults.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct FaultTables {
    /// By kind.
    pub kinds: Vec<FaultKindTotals>,
    /// By kind, mapper and toucher, heaviest first (all of them; the report shows the top).
    pub groups: Vec<FaultGroup>,
}

/// Pages given back and touched again.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Churn {
    /// By releaser and toucher, heaviest first.
    pub groups: Vec<ChurnGroup>,
}

/// Pages that one stack gave back and another touched again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChurnGroup {
    /// Process.
    pub pid: u32,
    /// Who gave back (madvise).
    pub releaser: Option<CodeLocation>,
    /// Who touched again.
    pub toucher: Option<CodeLocation>,
    /// madvise calls of this releaser in all.
    pub calls: u64,
    /// Pages that had been touched before and that this releaser gave back in all.
    pub released_pages: u64,
    /// Faults on pages that this releaser had given back.
    pub refaults: u64,
    /// Sum of their service times.
    pub refault_ns: i64,
    /// Time in the madvise calls.
    pub madvise_ns: i64,
    /// Median time between the release and the touch.
    pub median_gap_ns: Option<i64>,
    /// Times that the same page went round, mean over pages.
    pub rounds_per_page: f64,
    /// Wall time inside each ledger window (refaults of critical threads), by window name.
    pub in_windows: Vec<(String, i64)>,
    /// Stack of the releaser, innermost first.
    pub release_stack: Vec<StackFrame>,
    /// Stack of the toucher, innermost first.
    pub touch_stack: Vec<StackFrame>,
}

/// The kernel's own counts and limits when it refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RefusalFacts {
    /// VMAs.
    pub vmas: u64,
    /// Mapped bytes, reserved ones included.
    pub mapped_bytes: u64,
    /// Private writable bytes.
    pub data_bytes: u64,
    /// Locked bytes.
    pub locked_bytes: u64,
    /// RLIMIT_AS; null if unlimited.
    pub limit_as_bytes: Option<u64>,
    /// RLIMIT_DATA; null if unlimited.
    pub limit_data_bytes: Option<u64>,
    /// RLIMIT_MEMLOCK; null if unlimited.
    pub limit_memlock_bytes: Option<u64>,
}

/// Failed calls with the same stack, call and errno.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnomemGroup {
    /// Process.
    pub pid: u32,
    /// Call: "mmap", "mprotect", "mremap", "brk", "munmap", "madvise".
    pub call: String,
    /// errno (12 ENOMEM, 11 EAGAIN).
    pub errno: i32,
    /// Number of failed calls.
    pub count: u64,
    /// First one.
    pub first_ns: i64,
    /// Largest length asked for.
    pub max_len_bytes: u64,
    /// True if the largest one was private, writable and accountable (not MAP_NORESERVE).
    pub accountable: bool,
    /// True if the largest one asked for PROT_NONE.
    pub prot_none: bool,
    /// VMAs of the process at the first failure, from the replay.
    pub vmas: u64,
    /// Mapped bytes of the process at the first failure, from the replay.
    pub mapped_bytes: u64,
    /// Private writable bytes at the first failure, from the replay (what RLIMIT_DATA counts).
    pub data_bytes: u64,
    /// What the kernel itself counted at the first failure; null if it was not recorded (then the four numbers above
    /// are the replay's).
    pub kernel: Option<RefusalFacts>,
    /// Largest free gap at the first failure.
    pub largest_gap_bytes: u64,
    /// Who called.
    pub caller: Option<CodeLocation>,
    /// Stack, innermost first.
    pub stack: Vec<StackFrame>,
}
