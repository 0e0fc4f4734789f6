//! The recorder of mtrace: eBPF probes, samples and snapshots into a capture. Linux only; needs root or
//! CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE.
//!
//! The way of the data: a probe's BPF program ([`probes`](self)) → ring buffer → decoded row → capture tables. The kernel
//! side counts what it saw and what it had to drop; the manifest's accounts say that nothing is missing silently.

mod accounts;
mod arch;
mod calibrate;
pub mod cost;
pub mod doctor;
pub mod error;
mod flight;
pub mod host;
mod leaf;
mod plan;
mod probes;
mod ring;
pub mod sampler;
mod session;
pub mod smaps;
pub mod snapshots;
pub mod sockets;
pub mod symbols;
pub mod target;
pub mod triggers;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtrace_formats::capture::{Account, ProbeReport, Problem, RecorderCost};

pub use error::{Error, ErrorKind};
pub use flight::{Dumped, FlightOptions};

/// What is recorded. Children that a target forks from then on are targets, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetSpec {
    /// A command that the recorder starts; from its exec on, children followed.
    Launch {
        /// Command and arguments.
        argv: Vec<OsString>,
    },
    /// Running processes.
    Pids(Vec<u32>),
    /// All processes with this name, and those that take it later.
    Comm(String),
    /// All processes that run this executable, and those that execute it later: the same file (by inode and name, so
    /// under any path), or whatever was executed by exactly this path, as within a container.
    Exe(PathBuf),
    /// All processes in these control groups and below, and those that come into them later: folders below a mount of
    /// cgroups (v1 and v2), or names as in /proc/PID/cgroup. Who leaves is a target still.
    Cgroups(Vec<PathBuf>),
    /// Those in these containers: ids of Docker, containerd, CRI-O and podman, or unambiguous begins of ids.
    Containers(Vec<String>),
    /// All processes of the host but this recorder.
    All,
}

/// How page faults are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FaultMode {
    /// Neighbours added up in the kernel, the rest and slow ones one by one; all counts, sums and histograms exact.
    #[default]
    Runs,
    /// A row each.
    Every,
    /// Not at all.
    Off,
}

impl FaultMode {
    /// Name on the command line and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Every => "every",
            Self::Off => "off",
        }
    }
}

/// When the mappings of the targets are read with what of each is resident (`smaps`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SmapsMode {
    /// Never.
    Off,
    /// At the begin, at the end, and before each dump of a flight recorder.
    #[default]
    Ends,
    /// At these moments and again after so much time, as far as the share of the time allows that all expensive readings
    /// may take together.
    Every(Duration),
}

impl SmapsMode {
    /// As on the command line, for the manifest: a time in nanoseconds.
    fn to_json(self) -> serde_json::Value {
        match self {
            Self::Off => "off".into(),
            Self::Ends => "ends".into(),
            Self::Every(interval) => u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).into(),
        }
    }
}

/// Settings of a recording.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is recorded.
    pub target: TargetSpec,
    /// Directory to create; must not exist. Of a flight recorder: folder and beginning of the names of its dumps.
    pub output: PathBuf,
    /// Keep a window of the past only, and write it out when a trigger fires; `None`: record from beginning to end.
    pub flight: Option<FlightOptions>,
    /// How long; `None` until the targets ended or the stop flag is set.
    pub duration: Option<Duration>,
    /// Bytes that the capture may take on disk: the recording ends in time to stay below. At least 1 MiB.
    pub max_bytes: Option<u64>,
    /// The recording ends when so many events were written; those of the same moment come on top.
    pub max_events: Option<u64>,
    /// Size of the ring buffer; rounded up to a power of two.
    pub ring_bytes: usize,
    /// Time between samples.
    pub sample_interval: Duration,
    /// When the mappings are read with what of each is resident.
    pub smaps: SmapsMode,
    /// Time between segments: what is lost at most if the recorder is killed. The first ones come earlier: after
    /// 250 ms, then at intervals that double up to this one.
    pub segment_interval: Duration,
    /// How page faults are recorded.
    pub faults: FaultMode,
    /// Faults that take at least so long have a row of their own in any mode; at most 4 s.
    pub slow_fault: Duration,
    /// Of so many page faults one is recorded, chosen by a throw of the dice for each: a power of two up to 32,768; 1: all.
    /// With a budget 1.
    pub fault_weight: u32,
    /// The CPU time that recording may add, as a share (0.03: 3 %) of what the targets use, or of one CPU where they use
    /// less; page faults are sampled or only counted where it would be more. `None`: no bound.
    pub budget: Option<f64>,
    /// Shorter off-CPU intervals are only counted.
    pub off_cpu_min: Duration,
    /// File and network calls recorded per process. A flight recorder has a bound already: give it `u64::MAX`.
    pub io_calls_per_process: u64,
    /// Probes switched off, by name; see [`probe_names`].
    pub without: Vec<String>,
    /// At the end of the recording a launched command is left alone instead of being ended.
    pub leave_running: bool,
    /// The host's name goes into the capture.
    pub with_hostname: bool,
}

impl Options {
    /// The defaults for a target and an output.
    pub fn new(target: TargetSpec, output: PathBuf) -> Self {
        Self {
            target,
            output,
            flight: None,
            duration: None,
            max_bytes: None,
            max_events: None,
            ring_bytes: 16 << 20,
            sample_interval: Duration::from_secs(1),
            smaps: SmapsMode::default(),
            segment_interval: Duration::from_secs(5),
            faults: FaultMode::default(),
            slow_fault: Duration::from_micros(100),
            fault_weight: 1,
            budget: None,
            off_cpu_min: Duration::from_micros(20),
            io_calls_per_process: 200_000,
            without: Vec::new(),
            leave_running: false,
            with_hostname: false,
        }
    }
}

/// How a recording is getting on; given to the caller about five times a second.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Since the target ran, or was attached to.
    pub elapsed: Duration,
    /// Target processes alive.
    pub targets: usize,
    /// Rows so far, by table.
    pub rows: BTreeMap<String, u64>,
    /// Rows lost so far.
    pub lost: u64,
    /// Bytes in closed segments.
    pub bytes: u64,
    /// Dumps that were written since the last time.
    pub dumps: Vec<Dumped>,
}

/// What a recording came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The capture; of a flight recorder the ring, which is there only if it could not be written to.
    pub output: PathBuf,
    /// A flight recorder came to its end in order: there are its dumps and nothing else.
    pub is_flight: bool,
    /// Dumps that a flight recorder wrote.
    pub dumps: Vec<Dumped>,
    /// As in the manifest: "target exited", "duration", "max size", "max events", "signal", "disk full", "write
    /// failed".
    pub end_reason: String,
    /// How long was recorded, the closing of the capture included.
    pub recorded: Duration,
    /// Status of a launched command as wait(2) encodes it; `None` if it was left running.
    pub exit_status: Option<i32>,
    /// Which probes ran.
    pub probes: Vec<ProbeReport>,
    /// What was seen, written and lost.
    pub accounts: Vec<Account>,
    /// What went wrong without ending the recording.
    pub problems: Vec<Problem>,
    /// Size of the capture's tables.
    pub bytes: u64,
    /// What recording cost.
    pub cost: RecorderCost,
}

/// Records until the targets ended, `options.duration` or another limit is reached, or `stop` is set. The capture is complete when this
/// returns `Ok`, also after a full disk: then `end_reason` and `problems` say so.
///
/// Must be called on a thread that stays: a launched command is traced by it up to its exec.
///
/// # Errors
/// If recording could not begin (then no capture is left behind), or the manifest could not be written at the end.
pub fn record(options: &Options, stop: &AtomicBool, progress: &mut dyn FnMut(&Progress)) -> Result<Summary, Error> {
    session::run(options, stop, progress)
}

/// The names of all probes, separated by commas, for messages and help.
pub fn probe_names() -> String {
    plan::probe_names()
}
