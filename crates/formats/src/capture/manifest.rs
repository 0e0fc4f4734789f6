//! `manifest.json`: what was recorded, how, on what, and what is missing.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::flight::FlightRecorder;
use crate::{Error, Result};

/// File name of the manifest inside a capture.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Version of the tables and of the manifest that this crate writes.
///
/// 2.0: `fault_runs`. A reader that does not know it would take the single faults for all there are.
/// 2.1: `off_cpu`: who woke a thread, its wait for a CPU, where it slept; `process_events`: pids inside
/// of containers and cgroups; tables of lock waits, throttles, OOM kills, Go's memory management, the JVM, runtimes.
/// 3.0: `weight` of faults. A reader that does not know it would take the sampled ones for all there are.
/// 3.1: `collapses`, `smaps`.
pub const SCHEMA: SchemaVersion = SchemaVersion { major: 3, minor: 1 };

/// `major` changes when an old reader would misread a capture; `minor` when something was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaVersion {
    /// A reader refuses a capture with a newer major version.
    pub major: u32,
    /// A reader ignores what a newer minor version added.
    pub minor: u32,
}

impl std::fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether the recorder came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Still recording, or killed: symbols and final accounting are absent.
    #[default]
    Recording,
    /// Closed in order.
    Complete,
}

/// The manifest. Every field that was not measured is null or empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Schema version of the capture.
    pub schema: SchemaVersion,
    /// Version of the recorder.
    #[serde(default)]
    pub mtrace_version: String,
    /// Whether the recorder came to its end.
    #[serde(default)]
    pub state: State,
    /// The machine.
    #[serde(default)]
    pub host: Host,
    /// Pairs of CLOCK_MONOTONIC and CLOCK_REALTIME: the first, the last, and those around each setting of the latter.
    #[serde(default)]
    pub clocks: Vec<ClockPair>,
    /// When what happened.
    #[serde(default)]
    pub window: Window,
    /// The processes asked for, and what they turned out to be.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Every probe, whether it ran or not.
    #[serde(default)]
    pub probes: Vec<ProbeReport>,
    /// Settings by name.
    #[serde(default)]
    pub knobs: BTreeMap<String, serde_json::Value>,
    /// Per probe: seen in the kernel = written + lost.
    #[serde(default)]
    pub accounts: Vec<Account>,
    /// What recording cost.
    #[serde(default)]
    pub cost: RecorderCost,
    /// Closed segments. A segment on disk that is not listed here was closed after the last manifest update and is good.
    #[serde(default)]
    pub segments: Vec<SegmentInfo>,
    /// Of a flight recorder: what it kept, and why it was written out; null for a recording from beginning to end.
    #[serde(default)]
    pub flight: Option<FlightRecorder>,
    /// Anything else that went wrong, in plain words.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

impl Manifest {
    /// The text of `manifest.json`.
    ///
    /// # Errors
    /// None in practice: no map in it has a key that JSON cannot express.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let failed = |e| Error::io("encode", Path::new(MANIFEST_FILE), std::io::Error::other::<serde_json::Error>(e));
        serde_json::to_vec_pretty(self).map_err(failed)
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            mtrace_version: String::new(),
            state: State::Recording,
            host: Host::default(),
            clocks: Vec::new(),
            window: Window::default(),
            targets: Vec::new(),
            probes: Vec::new(),
            knobs: BTreeMap::new(),
            accounts: Vec::new(),
            cost: RecorderCost::default(),
            segments: Vec::new(),
            flight: None,
            problems: Vec::new(),
        }
    }
}

/// Facts about the machine that the analysis needs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -m`.
    pub arch: String,
    /// Host name; shown only when asked for.
    pub hostname: Option<String>,
    /// CPUs online.
    pub cpus: Option<u32>,
    /// MemTotal.
    pub memory_bytes: Option<u64>,
    /// SwapTotal.
    pub swap_bytes: Option<u64>,
    /// Page size.
    pub page_size_bytes: Option<u64>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`, the chosen word.
    pub thp_enabled: Option<String>,
    /// `/sys/kernel/mm/transparent_hugepage/defrag`, the chosen word.
    pub thp_defrag: Option<String>,
    /// `vm.overcommit_memory`.
    pub overcommit_memory: Option<u32>,
    /// CommitLimit of /proc/meminfo.
    pub commit_limit_bytes: Option<u64>,
    /// `vm.max_map_count`.
    pub max_map_count: Option<u64>,
    /// 1 or 2: where the memory controller of the target's cgroup lives.
    pub cgroup_version: Option<u32>,
    /// Lockdown mode, if the kernel tells it.
    pub lockdown: Option<String>,
    /// True if `/sys/kernel/btf/vmlinux` is there.
    pub btf: Option<bool>,
}

/// The two clocks read together: to place the capture beside wall-clock logs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClockPair {
    /// CLOCK_MONOTONIC, ns; the middle of two readings around the realtime one.
    pub monotonic_ns: i64,
    /// CLOCK_REALTIME, ns since 1970.
    pub realtime_ns: i64,
    /// Half the distance of the two monotonic readings, ns.
    pub error_ns: i64,
}

/// When what happened, CLOCK_MONOTONIC ns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Loading of the probes began.
    pub attach_begin_ns: Option<i64>,
    /// All probes were attached: events are complete from here.
    pub start_ns: Option<i64>,
    /// The segments were closed last: rows of what was seen up to here are in closed segments.
    pub closed_ns: Option<i64>,
    /// When they were to be closed again: a recorder that is killed leaves nothing of the time between.
    pub next_closing_ns: Option<i64>,
    /// Recording stopped; null if the recorder was killed.
    pub end_ns: Option<i64>,
    /// Why it stopped: "target exited", "duration", "max size", "max events", "signal", …
    pub end_reason: Option<String>,
}

/// A target process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// Process (thread group) in the recorder's pid namespace.
    pub pid: u32,
    /// The same in the innermost pid namespace that it is in; equal outside of containers, null if unknown.
    pub ns_pid: Option<u32>,
    /// How it became a target: "launched", "pid", "comm", "exe", "cgroup", "container", "all", "child of N".
    pub how: String,
    /// Its cgroup as /proc/PID/cgroup names it (the memory controller's, v1 or v2), the last one known.
    pub cgroup: Option<String>,
    /// comm of the main thread.
    pub comm: Option<String>,
    /// Path of the executable.
    pub exe: Option<String>,
    /// GNU build id or Go build id of the executable, hex or Go's own form.
    pub build_id: Option<String>,
    /// Go version for a Go binary ("go1.25.4").
    pub go_version: Option<String>,
    /// `status` as wait(2) encodes it, if it ended during the recording.
    pub exit_status: Option<i32>,
    /// ru_minflt of a launched target as wait4(2) reported it.
    pub rusage_minor_faults: Option<u64>,
    /// ru_majflt, likewise.
    pub rusage_major_faults: Option<u64>,
    /// RLIMIT_AS, RLIMIT_DATA and RLIMIT_MEMLOCK (soft) in bytes; absent if unlimited or unknown.
    pub limits_bytes: BTreeMap<String, u64>,
}

/// Whether a probe ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeStatus {
    /// Loaded and attached.
    Ran,
    /// Some of it could not be attached; `reason` says what.
    Partial,
    /// Could not be loaded or attached, or was switched off.
    Absent,
    /// Loaded, and no target has what it observes: it hides nothing.
    NotApplicable,
}

impl ProbeStatus {
    /// True if it observed the targets, at least in part.
    pub fn observed(self) -> bool {
        matches!(self, Self::Ran | Self::Partial)
    }
}

/// What became of one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Name of the probe, which is the name of its folder in the recorder.
    pub name: String,
    /// Whether it ran.
    pub status: ProbeStatus,
    /// Which variant: "tp_btf", "tracepoint", "uprobe", …
    #[serde(default)]
    pub variant: Option<String>,
    /// Why it did not run, or ran only in part; what to do about it.
    #[serde(default)]
    pub reason: Option<String>,
    /// What stays invisible without it.
    #[serde(default)]
    pub hides: Option<String>,
}

/// Exact accounting of one probe: `seen = written + Σ lost`, where `lost` holds only the reasons that cost a row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// Probe.
    pub probe: String,
    /// Table that its rows go to; the first one if there are several.
    pub table: String,
    /// Events of the targets that the probe saw in the kernel.
    pub seen: u64,
    /// Events in the rows written: one a row, or what the row adds up (`fault_runs.count`).
    pub written: u64,
    /// Events whose row is lost, by reason (names of `LossReason`).
    pub lost: BTreeMap<String, u64>,
    /// Events written with a part missing, by reason.
    pub incomplete: BTreeMap<String, u64>,
    /// The probe's own counts, by name: events that by design write no row ("start_without_end", "below_minimum", …),
    /// and of faults "stacks_doubtful": how many took over the stack of the fault before, in a loop that went on, and had
    /// it refuted by the next walk. An estimate of how many have a caller that is not theirs, and no bound: where one of
    /// two callers comes rarely it may be too low.
    pub ignored: BTreeMap<String, u64>,
}

/// What recording cost.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RecorderCost {
    /// User CPU time of the recorder.
    pub cpu_user_ns: Option<u64>,
    /// System CPU time of the recorder.
    pub cpu_system_ns: Option<u64>,
    /// CPU time of the recorder, user and system, while the targets were recorded: without loading the probes before and
    /// closing the capture after.
    pub cpu_recording_ns: Option<u64>,
    /// Peak RSS of the recorder, its mapped ring buffer included.
    pub rss_peak_bytes: Option<u64>,
    /// Peak RSS up to the end of recording, before symbols were resolved.
    pub rss_peak_recording_bytes: Option<u64>,
    /// Size of the ring buffer.
    pub ring_bytes: Option<u64>,
    /// Time between the end of recording and the closing of the capture.
    pub finish_ns: Option<u64>,
    /// What one page fault costs on this host, measured before the targets ran; null if it was not measured.
    pub fault: Option<FaultCost>,
    /// Time inside each BPF program while it was measured: a small part of the recording, because measuring itself
    /// costs, unless `kernel.bpf_stats_enabled` was on. A run's time includes about one clock reading.
    pub bpf: Vec<BpfCost>,
    /// How long it was measured; null if it was not.
    pub bpf_sampled_ns: Option<u64>,
    /// CPU time inside the BPF programs over the whole recording, estimated from that part.
    pub bpf_estimated_ns: Option<u64>,
}

/// What a first-touch fault costs on this host, mean over a small loop that does nothing else.
///
/// A row's `dur` is the service time only. `untraced_ns − service_ns` is what entering and leaving the kernel costs
/// besides, `recorded_ns − untraced_ns` is what recording adds where pages are touched in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FaultCost {
    /// Wall time per fault when nothing is attached.
    pub untraced_ns: i64,
    /// Wall time per fault while it is recorded.
    pub recorded_ns: i64,
    /// Service time as it is recorded (`faults.dur`).
    pub service_ns: i64,
    /// What recording adds to a fault that continues no run and so has a row of its own; null where all have.
    #[serde(default)]
    pub single_adds_ns: Option<i64>,
    /// What the probe adds to a fault of a process that is not recorded.
    #[serde(default)]
    pub passed_by_ns: Option<i64>,
}

/// Time inside one BPF program.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BpfCost {
    /// Program.
    pub program: String,
    /// Runs.
    pub runs: u64,
    /// Time in all runs.
    pub run_ns: u64,
}

/// A closed segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Table.
    pub table: String,
    /// File name in the table's folder.
    pub file: String,
    /// Rows.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// Something that went wrong without ending the recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// When, CLOCK_MONOTONIC ns.
    #[serde(default)]
    pub ts: Option<i64>,
    /// What, in plain words.
    pub what: String,
}
