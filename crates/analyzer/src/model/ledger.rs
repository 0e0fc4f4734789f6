use serde::Serialize;

/// Where a nanosecond of wall time went. Every nanosecond of a window is in exactly one category.
///
/// The order is the order of precedence: time in which the world is stopped is not counted as a fault as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerCategory {
    /// The language runtime (Go, JVM) had stopped the world.
    GcStw,
    /// The critical thread could have run and had no CPU: preempted, or woken and not on a CPU yet. A fault or a call in
    /// which that happens did not need this time.
    WaitingForCpu,
    /// The critical thread was in a page fault.
    Faults,
    /// The critical thread was in a call of the mmap family.
    MemoryCalls,
    /// The critical thread was in a file call.
    FileIo,
    /// The critical thread was in a network call, or waited for the other side.
    Network,
    /// The kernel had put the critical thread to sleep because memory is short (memory.high, throttling in reclaim).
    Throttled,
    /// Nothing to do: before the first client came.
    WaitingForClient,
    /// The recorder's own probes held the critical thread up; measured on the host, per fault.
    Recorder,
    /// The critical thread ran its own code.
    OnCpu,
    /// The critical thread slept for a reason that was not recorded, or was not seen at all.
    Unexplained,
}

/// One stretch of the incident.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LedgerWindow {
    /// "slowest request", "unanswered request", "first request", "cold start", "whole capture".
    pub name: String,
    /// Begin.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
    /// What marks the begin, in plain words: "exec", "the request's first byte was read".
    pub begins_with: String,
    /// What marks the end.
    pub ends_with: String,
    /// What is assumed by placing it so; empty if nothing is.
    pub assumptions: Vec<String>,
    /// The request that it is about; null if it is not about one.
    pub request: Option<WindowRequest>,
}

/// What it takes to find a request in the service's own logs, and to see what is usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowRequest {
    /// Which one, in order of their begin, from 1.
    pub number: u64,
    /// Requests of the process that were seen.
    pub of: u64,
    /// Wall-clock time of its begin, ns since 1970; null if no clock pair was recorded.
    pub start_realtime_ns: Option<i64>,
    /// Requests of the process that were answered: what the durations below are of.
    pub answered: u64,
    /// Median duration.
    pub p50_ns: Option<i64>,
    /// 99 % were not longer; null if there are fewer than a hundred.
    pub p99_ns: Option<i64>,
    /// The longest.
    pub max_ns: Option<i64>,
}

/// One line of a ledger.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LedgerRow {
    /// Category.
    pub category: LedgerCategory,
    /// Wall time.
    pub wall_ns: i64,
    /// Number of faults, calls or intervals behind it; null where counting makes no sense.
    pub count: Option<u64>,
    /// The largest contributor in plain words: "cache.(*Store).Fill (store.go:88)"; null if unknown.
    pub top: Option<String>,
}

/// The wall time of a window, split without double counting along the critical thread(s).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ledger {
    /// The window.
    pub window: LedgerWindow,
    /// Process.
    pub pid: u32,
    /// All categories with a share, largest first; sums to the window exactly.
    pub rows: Vec<LedgerRow>,
    /// Wall time of the window whose place on the critical path recorded wake-ups give; the rest is inferred from who was
    /// active. Null if who woke whom was not recorded.
    pub path_measured_ns: Option<i64>,
    /// The critical path: which thread answered for which part, in order: (tid, start, end).
    pub critical_threads: Vec<(u32, i64, i64)>,
}

impl Ledger {
    /// Wall time of a category, zero if it has no row.
    pub fn wall_ns(&self, category: LedgerCategory) -> i64 {
        self.rows.iter().find(|r| r.category == category).map_or(0, |r| r.wall_ns)
    }

    /// Length of the window.
    pub fn total_ns(&self) -> i64 {
        self.window.end_ns - self.window.start_ns
    }
}
