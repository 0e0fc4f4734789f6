use serde::Serialize;

use super::address_space::AddressSpace;
use super::faults::{Churn, EnomemGroup, FaultTables};
use super::finding::{Finding, RuledOut, Verdict};
use super::gc::GcTable;
use super::ledger::Ledger;
use super::requests::RequestTable;
use super::resident::{CollapseTable, ResidentMemory};
use super::runtimes::Runtimes;
use super::stalls::{ForkGroup, LockWaitGroup, OomVictim, ReclaimGroup, ThrottleGroup};
use super::timeline::Timeline;
use super::trigger::TriggerFact;

/// Version of report.json; raised when a reader of an older one would be misled.
pub const REPORT_VERSION: u32 = 1;

/// Everything that a report shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// [`REPORT_VERSION`].
    pub report_version: u32,
    /// Version of mtrace that analysed.
    pub mtrace_version: String,
    /// The answer.
    pub verdict: Verdict,
    /// Causes that the capture supports, most important first.
    pub findings: Vec<Finding>,
    /// Causes that were looked for.
    pub ruled_out: Vec<RuledOut>,
    /// What the answer rests on; in JSON beside the above.
    #[serde(flatten)]
    pub facts: Facts,
}

/// What the joins made of a capture: rules judge it, the report shows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Facts {
    /// What was recorded.
    pub capture: CaptureFacts,
    /// Wall time, one ledger per window, the most important window first.
    pub ledgers: Vec<Ledger>,
    /// Requests of the processes that have ledgers.
    pub requests: Vec<RequestTable>,
    /// What happened when.
    pub timeline: Timeline,
    /// Faults.
    pub faults: FaultTables,
    /// Pages given back and touched again.
    pub churn: Churn,
    /// Reclaim and compaction by the targets' threads.
    pub reclaims: Vec<ReclaimGroup>,
    /// Sleeps that the kernel imposed on the targets' threads because memory is short.
    pub throttles: Vec<ThrottleGroup>,
    /// Waits of the targets' threads for the lock of their own address space.
    pub lock_waits: Vec<LockWaitGroup>,
    /// Forks and the copies on write that followed.
    pub forks: Vec<ForkGroup>,
    /// Victims of the OOM killer, in order of time.
    pub oom_victims: Vec<OomVictim>,
    /// Failed memory calls.
    pub failed_calls: Vec<EnomemGroup>,
    /// GC.
    pub gc: GcTable,
    /// Language runtimes.
    pub runtimes: Runtimes,
    /// Address spaces, one per process, the main one first.
    pub address_spaces: Vec<AddressSpace>,
    /// Resident memory by mapping, one per process that was read, the main one first.
    pub resident: Vec<ResidentMemory>,
    /// Small pages that were replaced by huge ones, one per process that has some.
    pub collapses: Vec<CollapseTable>,
    /// Flame graphs.
    pub flame_graphs: Vec<FlameGraph>,
    /// How far to trust all this.
    pub trust: Trust,
}

/// What was recorded, on what.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CaptureFacts {
    /// Last component of the capture's path.
    pub name: String,
    /// Events are complete from here.
    pub start_ns: i64,
    /// To here.
    pub end_ns: i64,
    /// Wall-clock time of `start_ns`, ns since 1970; null if no clock pair was recorded.
    pub start_realtime_ns: Option<i64>,
    /// False if the recorder was killed.
    pub complete: bool,
    /// Why a flight recorder wrote it; null for a recording from beginning to end.
    pub trigger: Option<TriggerFact>,
    /// Kernel release.
    pub kernel_release: String,
    /// Machine.
    pub arch: String,
    /// CPUs.
    pub cpus: Option<u32>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// THP setting.
    pub thp_enabled: Option<String>,
    /// Processes.
    pub processes: Vec<ProcessFact>,
    /// Events by table: (table, rows).
    pub rows: Vec<(String, u64)>,
}

/// A process in the capture.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ProcessFact {
    /// Pid.
    pub pid: u32,
    /// Pid in the innermost pid namespace that it was in; null if unknown.
    pub ns_pid: Option<u32>,
    /// Its cgroup, the last one known.
    pub cgroup: Option<String>,
    /// comm.
    pub comm: Option<String>,
    /// Executable.
    pub exe: Option<String>,
    /// Go version; null if it is no Go program or unknown.
    pub go_version: Option<String>,
    /// Threads seen.
    pub threads: u64,
    /// Faults.
    pub faults: u64,
    /// Memory calls.
    pub memory_calls: u64,
    /// How it became a target.
    pub how: String,
    /// wait(2) status if it ended.
    pub exit_status: Option<i32>,
}

/// Weighted stacks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlameGraph {
    /// Name for files and anchors: `faults-by-toucher`.
    pub id: String,
    /// Title.
    pub title: String,
    /// What a frame's width is: "faults", "bytes".
    pub unit: String,
    /// Folded stacks, outermost frame first: (`a;b;c`, weight). `;` in names is replaced.
    #[serde(skip)]
    pub folded: Vec<(String, u64)>,
    /// Sum of the weights.
    pub total: u64,
    /// The heaviest leaves for the table beside it: (function, weight).
    pub top: Vec<(String, u64)>,
}

/// How far to trust the report.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Trust {
    /// Replay against the snapshots.
    pub replay: Vec<ReplayCertificate>,
    /// Losses: (probe, reason, count, begin, end), one for each stretch of time in which events were lost.
    pub losses: Vec<(String, String, u64, i64, i64)>,
    /// Probes, ran or not, and what an absent one hides.
    pub probes: Vec<ProbeFact>,
    /// Per probe: (probe, seen, written, lost). Balanced if seen = written + lost.
    pub accounts: Vec<(String, u64, u64, u64)>,
    /// Segments that could not be read, or other damage, in plain words.
    pub damage: Vec<String>,
    /// What was not checked, in plain words.
    pub not_checked: Vec<String>,
    /// CPU time of the recorder while recording; null if unknown.
    pub recorder_cpu_ns: Option<u64>,
    /// CPU time inside the BPF programs, estimated from a part of the recording; null if it was not measured.
    pub bpf_ns: Option<u64>,
    /// How long it was measured.
    pub bpf_sampled_ns: Option<u64>,
    /// Intervals in which page faults were sampled or only counted; empty if all were recorded all the time.
    pub fidelity: Vec<FidelityFact>,
    /// Peak RSS of the recorder; null if unknown.
    pub recorder_rss_bytes: Option<u64>,
    /// Frames with a name, of all frames.
    pub frames_named: (u64, u64),
    /// Faults charged to a known mapping, of all faults.
    pub faults_charged: (u64, u64),
    /// Faults with a service time, of all faults.
    pub faults_timed: (u64, u64),
    /// Faults whose stack is beyond doubt, of all faults; see the account's `stacks_doubtful`.
    pub faults_of_sure_stack: (u64, u64),
    /// The wall clock was set while recording: (after, before, by how much), ns. Times of day follow the clock as it was at
    /// the begin of the capture.
    pub clock_settings: Vec<(i64, i64, i64)>,
    /// Error of the monotonic/realtime pairs, ns; null if there is none.
    pub clock_error_ns: Option<i64>,
}

/// An interval in which not all page faults were recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FidelityFact {
    /// Start.
    pub from: i64,
    /// End.
    pub to: i64,
    /// Faults that each recorded one stands for; null if they were only counted.
    pub weight: Option<u32>,
    /// Faults in it by the kernel's own count; null if that was not read.
    pub faults: Option<u64>,
}

/// A probe, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeFact {
    /// Name.
    pub name: String,
    /// "ran", "partial", "absent", "not applicable".
    pub status: String,
    /// Variant.
    pub variant: Option<String>,
    /// Why it did not observe everything.
    pub reason: Option<String>,
    /// What that hides.
    pub hides: Option<String>,
}

/// Whether the replayed address space equals what the kernel said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayCertificate {
    /// Process.
    pub pid: u32,
    /// When the snapshot was taken.
    pub ts: i64,
    /// "exec", "attach", "end".
    pub snapshot: String,
    /// Bytes in the snapshot.
    pub snapshot_bytes: u64,
    /// Bytes where replay and snapshot agree (same range, permissions and file).
    pub agreeing_bytes: u64,
    /// True if they are equal.
    pub equal: bool,
    /// The first differences in plain words, at most ten.
    pub differences: Vec<String>,
}
