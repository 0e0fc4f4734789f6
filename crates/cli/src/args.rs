//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
#[cfg(all(feature = "record", target_os = "linux"))]
use std::time::Duration;

#[cfg(all(feature = "record", target_os = "linux"))]
use clap::ValueEnum;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueHint};
#[cfg(all(feature = "record", target_os = "linux"))]
use mtrace_recorder::SmapsMode;
#[cfg(all(feature = "record", target_os = "linux"))]
use mtrace_recorder::triggers::{Trigger, duration};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  a file could not be read or written (absent, damaged, not writable, disk full)
  2  wrong command line
  3  the target does not exist or cannot be executed
  4  this host or user cannot record (no root, no BTF, BPF refused): see `mtrace doctor`
  5  done, but something is missing (rows lost, segments skipped); what there is was written";

const EXAMPLES: &str = "Examples:
  sudo mtrace record -o cold.mtrace -- ./service       record a start, until the service ends or Ctrl-C
  sudo mtrace record -o run.mtrace --pid 4711 --duration 30s
  sudo mtrace record -o pod.mtrace --container 3f4e9a0c --duration 1m
  mtrace analyze cold.mtrace -o report/                report/report.html, .md, .json and *.svg
  mtrace pack cold.mtrace -o cold.mtrace.tar           one file, for copying; analyze takes it, too";

/// Explains latency and OOM incidents that memory causes in Go, JVM and native services on Linux.
#[derive(Debug, Parser)]
#[command(name = "mtrace", version, about, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Record memory calls, page faults, GC and pressure of a process into a capture (Linux, root)
    #[cfg(all(feature = "record", target_os = "linux"))]
    Record(Box<RecordArgs>),
    /// Turn a capture into a report (no privilege, no target binaries, any OS)
    #[cfg(feature = "analyze")]
    Analyze(AnalyzeArgs),
    /// Make one file of a capture directory
    Pack(PackArgs),
    /// Say what this host can record, and how to enable what it cannot
    #[cfg(all(feature = "record", target_os = "linux"))]
    Doctor,
    /// Print the schema of the capture tables (SCHEMA.md)
    Schema,
    /// Print the reference of the rules (docs/rules.md)
    #[cfg(feature = "analyze")]
    Rules,
    /// Print a shell completion script
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory
    Man {
        /// Directory; created if absent
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[cfg(all(feature = "record", target_os = "linux"))]
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  sudo mtrace record -o cold.mtrace -- ./service --port 8443
  sudo mtrace record -o run.mtrace --pid 4711 --duration 30s
  sudo mtrace record -o two.mtrace --pid 4711,4712 --duration 30s
  sudo mtrace record -o prom.mtrace --comm prometheus --duration 1m
  sudo mtrace record -o exe.mtrace --exe /usr/bin/etcd --max-size 200M
  sudo mtrace record -o unit.mtrace --cgroup /sys/fs/cgroup/system.slice/etcd.service --duration 1m
  sudo mtrace record -o pod.mtrace --container 3f4e9a0c --duration 1m
  sudo mtrace record -o host.mtrace --all --duration 10s --max-size 500M
  sudo mtrace record -o /var/lib/mtrace/api --pid 4711 --ring 60s --trigger 'psi:memory.some>80%/30s' --trigger oom

One kind of target: a command, or one of --pid, --comm, --exe, --cgroup, --container and --all. Children are followed.
Processes that fit a name, file, group or container later are picked up when they begin to.

Recording ends when the targets end (by name, file and on a whole host others are waited for; with a group until it is
removed), after --duration, at --max-size or --max-events, or on Ctrl-C or SIGTERM
(the capture is closed within 5 s). A launched command is then sent SIGTERM, and SIGKILL if it does not end in time, unless --leave-running is given.

With --ring the last minutes are kept and the rest is dropped. When a trigger fires, or on SIGUSR1, the window becomes a
capture of its own, NAME-TIME-TRIGGER.mtrace, and recording goes on. Triggers (repeatable):
  psi:memory.some>80%/30s   tasks stalled for so much of that time (memory, io, cpu; some, full; @CGROUP for a cgroup)
  oom, oom:cgroup           the kernel killed for want of memory, anywhere, or in a cgroup of the targets
  memory.high, memory.max   a cgroup of the targets came to its limit (also :/sys/fs/cgroup/PATH)
  slow-fault>50ms           a page fault took at least so long
  slow-call>100ms           an mmap, munmap, mremap, mprotect, madvise or brk took at least so long
  exit!=0, exit             a target ended, by a signal or with a status other than 0
  cmd:COMMAND/10s           a shell command, run every 10 s, began to fail")]
pub(crate) struct RecordArgs {
    /// Capture directory to create; must not exist. With --ring: folder and beginning of the names of the dumps
    #[arg(short, long, value_name = "NAME.mtrace", value_hint = ValueHint::DirPath)]
    pub(crate) output: PathBuf,
    /// Record these processes (a list, or repeated) and the children that they start
    #[arg(short, long, value_name = "PID", value_delimiter = ',', group = "target")]
    pub(crate) pid: Vec<u32>,
    /// Record all processes of this name (comm, 15 bytes), those that start later too
    #[arg(long, value_name = "NAME", group = "target")]
    pub(crate) comm: Option<String>,
    /// Record all processes that run this executable, those that start later too: this file under any path, or what is
    /// executed by exactly this path, as within a container
    #[arg(long, value_name = "PATH", group = "target", value_hint = ValueHint::FilePath)]
    pub(crate) exe: Option<PathBuf>,
    /// Record all processes in this cgroup (v1 or v2) and below it, those that come later too (repeatable): its folder,
    /// or its name in /proc/PID/cgroup
    #[arg(long, value_name = "PATH", group = "target", value_hint = ValueHint::DirPath)]
    pub(crate) cgroup: Vec<PathBuf>,
    /// Record this container (repeatable): an id of Docker, containerd, CRI-O or podman, or an unambiguous begin of one
    #[arg(long, value_name = "ID", group = "target")]
    pub(crate) container: Vec<String>,
    /// Record the whole host, but this recorder
    #[arg(short, long, group = "target")]
    pub(crate) all: bool,
    /// Stop after this time: 30s, 5m, 500ms; a number alone is seconds
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Stop before the capture takes more than this on disk: 200M, 2G; at least 1M
    #[arg(long, value_name = "SIZE", value_parser = max_size)]
    pub(crate) max_size: Option<u64>,
    /// Stop when so many events are written
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_events: Option<u64>,
    /// Flight recorder: keep so much of the past, and write it out when a trigger fires
    #[arg(long, value_name = "TIME", value_parser = window)]
    pub(crate) ring: Option<Duration>,
    /// What the flight recorder may keep on disk, dumps not counted; may cut the time
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = ring_bytes, requires = "ring")]
    pub(crate) ring_size: u64,
    /// When the flight recorder writes a dump (repeatable), see below
    #[arg(long, value_name = "TRIGGER", requires = "ring")]
    pub(crate) trigger: Vec<Trigger>,
    /// Time that is recorded after a trigger before its dump is written
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration, requires = "ring")]
    pub(crate) post: Duration,
    /// Dumps written at most; later triggers are only counted
    #[arg(long, value_name = "N", default_value_t = 10, requires = "ring")]
    pub(crate) max_dumps: u32,
    /// Time from one dump to the next at least; triggers in between are only counted [default: --ring, at least 60s]
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "ring")]
    pub(crate) dump_interval: Option<Duration>,
    /// Write the last window at the end of the recording, too
    #[arg(long, requires = "ring")]
    pub(crate) dump_on_exit: bool,
    /// Size of the buffer between the kernel and the recorder, a power of two of pages: 16M, 64M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = buffer_size)]
    pub(crate) buffer: usize,
    /// Interval of the samples from /proc and the cgroup
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) sample_interval: Duration,
    /// When the mappings of the targets are read with what of each is resident, which holds up their mmap calls for a moment:
    /// `ends` (at the begin, the end, and before each dump), `off`, or a time, then again as often, but for no more than 1 %
    /// of the time
    #[arg(long, value_name = "ends|off|TIME", default_value = "ends", value_parser = smaps)]
    pub(crate) smaps: SmapsMode,
    /// Interval in which segments are closed (the first ones earlier): what a kill of the recorder can cost at most
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) segment_interval: Duration,
    /// How page faults are recorded: runs of neighbours added up in the kernel (all counts, sums and histograms exact),
    /// a row for every one, or not at all
    #[arg(long, value_name = "MODE", value_enum, default_value = "runs")]
    pub(crate) faults: FaultsArg,
    /// Page faults that take at least so long have a row of their own in any mode; at most 4s
    #[arg(long, value_name = "TIME", default_value = "100us", value_parser = slow_fault)]
    pub(crate) slow_fault: Duration,
    /// Record one page fault of N, chosen by a throw of the dice for each; a power of two up to 32768. Estimates stay
    /// unbiased, and the kernel's own exact counts are kept beside them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = power_of_two, conflicts_with = "budget")]
    pub(crate) sample_faults: u32,
    /// The CPU time that recording may add, as a share of what the targets use (of one CPU where they use less): page
    /// faults are sampled (1 of 4, 16, 64) or only counted while it would be more; the report says when
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) budget: Option<f64>,
    /// Off-CPU intervals shorter than this are counted, not written
    #[arg(long, value_name = "TIME", default_value = "20us", value_parser = duration)]
    pub(crate) off_cpu_min: Duration,
    /// File and network calls written per process; the rest is counted [default: 200000; without a limit with --ring]
    #[arg(long, value_name = "N")]
    pub(crate) io_calls: Option<u64>,
    #[arg(long, value_name = "PROBE", help = format!("Switch a probe off (repeatable): {}", mtrace_recorder::probe_names()))]
    pub(crate) without: Vec<String>,
    /// Leave a launched command running when the recording ends first
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Store the host name in the capture
    #[arg(long)]
    pub(crate) with_hostname: bool,
    /// Command to launch and record from its exec on
    #[arg(last = true, value_name = "COMMAND", group = "target", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

#[cfg(all(feature = "record", target_os = "linux"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultsArg {
    Runs,
    Every,
    Off,
}

#[cfg(feature = "analyze")]
#[derive(Debug, ClapArgs)]
pub(crate) struct AnalyzeArgs {
    /// Capture: a directory NAME.mtrace or a packed file
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) capture: PathBuf,
    /// Directory for report.html, report.md, report.json and the flame graphs; created if absent
    #[arg(short, long, value_name = "DIR", default_value = "report", value_hint = ValueHint::DirPath)]
    pub(crate) output: PathBuf,
    /// Process to look at first [default: the target that answered first, else the one with most events]
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Print report.json to standard output, too
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PackArgs {
    /// Capture directory
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) capture: PathBuf,
    /// File to create; must not exist [default: CAPTURE.tar]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}

#[cfg(all(feature = "record", target_os = "linux"))]
fn power_of_two(text: &str) -> Result<u32, String> {
    let n = text.parse().ok().filter(|n: &u32| n.is_power_of_two() && *n <= 1 << 15);
    n.ok_or_else(|| "expected a power of two up to 32768".to_owned())
}

/// `3%` or `0.5%`, as a share.
#[cfg(all(feature = "record", target_os = "linux"))]
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
    match number {
        Some(n) if n > 0.0 && n <= 100.0 => Ok(n / 100.0),
        _ => Err("expected a share above 0% and up to 100%, such as 3% or 0.5%".to_owned()),
    }
}

/// A service time within a batch is kept in 32 bits of ns.
#[cfg(all(feature = "record", target_os = "linux"))]
fn slow_fault(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|d| if d <= Duration::from_secs(4) { Ok(d) } else { Err("expected at most 4s".to_owned()) })
}

/// A window of less would be all edges.
#[cfg(all(feature = "record", target_os = "linux"))]
fn window(text: &str) -> Result<Duration, String> {
    let window = duration(text).map_err(|e| match text.ends_with(['K', 'M', 'G']) {
        true => format!("{e}; the size of the buffer is --buffer, that of the kept past --ring-size"),
        false => e,
    })?;
    let wanted = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    if wanted.contains(&window) { Ok(window) } else { Err("expected 1s to 24h".to_owned()) }
}

#[cfg(all(feature = "record", target_os = "linux"))]
fn smaps(text: &str) -> Result<SmapsMode, String> {
    match text {
        "off" => Ok(SmapsMode::Off),
        "ends" => Ok(SmapsMode::Ends),
        time => duration(time)
            .map(SmapsMode::Every)
            .map_err(|e| format!("expected `ends`, `off` or a time such as 10s, found `{time}`: {e}")),
    }
}

/// As [`duration`], but a number alone is seconds, as sleep(1) and timeout(1) have it: nobody records for 10 ms.
#[cfg(all(feature = "record", target_os = "linux"))]
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => duration(text),
    }
}

/// Parses `200M`, `2G`, `1048576`: bytes, in powers of 1024.
#[cfg(all(feature = "record", target_os = "linux"))]
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a size such as 16M".to_owned())?;
    let shift = match unit.trim_end_matches("iB") {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("unit `{unit}`: expected K, M or G")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

#[cfg(all(feature = "record", target_os = "linux"))]
fn ring_bytes(text: &str) -> Result<u64, String> {
    size(text).and_then(|n| if n >= 4 << 20 { Ok(n) } else { Err("expected at least 4M".to_owned()) })
}

/// The kernel wants a power of two of pages.
#[cfg(all(feature = "record", target_os = "linux"))]
fn buffer_size(text: &str) -> Result<usize, String> {
    match size(text).map(usize::try_from)? {
        Ok(bytes) if bytes.is_power_of_two() && (1 << 12..=1 << 31).contains(&bytes) => Ok(bytes),
        _ => Err("expected a power of two between 4K and 2G".to_owned()),
    }
}

/// Less than this is taken by the closing of a capture.
#[cfg(all(feature = "record", target_os = "linux"))]
fn max_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes >= 1 << 20 => Ok(bytes),
        _ => Err("expected at least 1M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[cfg(all(feature = "record", target_os = "linux"))]
    #[test]
    fn the_buffer_is_a_power_of_two() {
        assert_eq!(buffer_size("16M"), Ok(16 << 20));
        assert_eq!(buffer_size("16MiB"), Ok(16 << 20));
        for bad in ["", "15M", "1", "4G", "16X", "99999999999999999999G"] {
            assert!(buffer_size(bad).is_err(), "{bad}");
        }
    }

    #[cfg(all(feature = "record", target_os = "linux"))]
    #[test]
    fn a_ring_is_a_time_and_what_belongs_to_it_needs_it() {
        let parse =
            |more: &[&str]| Args::try_parse_from(["mtrace", "record", "-o", "x", "--pid", "1"].iter().chain(more));
        assert!(
            parse(&["--ring", "60s", "--trigger", "oom", "--trigger", "slow-fault>5ms", "--ring-size", "9M"]).is_ok()
        );
        let e = parse(&["--ring", "16M"]).unwrap_err().to_string();
        assert!(e.contains("--buffer"), "{e}");
        for bad in [
            &["--trigger", "oom"][..],
            &["--dump-on-exit"],
            &["--ring", "10ms"],
            &["--ring", "5s", "--ring-size", "1M"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[cfg(all(feature = "record", target_os = "linux"))]
    #[test]
    fn a_recording_takes_seconds_and_sizes() {
        assert_eq!((seconds("10"), seconds("500ms")), (Ok(Duration::from_secs(10)), Ok(Duration::from_millis(500))));
        assert!(duration("10").unwrap_err().contains("10s"));
        assert_eq!((max_size("200M"), max_size("1048576")), (Ok(200 << 20), Ok(1 << 20)));
        for bad in ["", "M", "1000", "1.5M", "1T", "99999999999999999999G", "18446744073709551615K"] {
            assert!(max_size(bad).is_err(), "{bad}");
        }
    }

    #[cfg(all(feature = "record", target_os = "linux"))]
    #[test]
    fn smaps_are_read_at_the_ends_or_never_or_again_and_again() {
        assert_eq!((smaps("ends"), smaps("off")), (Ok(SmapsMode::Ends), Ok(SmapsMode::Off)));
        assert_eq!(smaps("10s"), Ok(SmapsMode::Every(Duration::from_secs(10))));
        let e = smaps("sometimes").unwrap_err();
        assert!(e.contains("`ends`, `off` or a time") && e.contains("`sometimes`"), "{e}");
    }

    #[cfg(all(feature = "record", target_os = "linux"))]
    #[test]
    fn targets_are_of_one_kind() {
        let parse =
            |words: &str| Args::try_parse_from(["mtrace", "record", "-o", "x"].into_iter().chain(words.split(' ')));
        for good in
            ["--pid 1,2 -p 3", "--cgroup /a --cgroup b", "--container 3f --container 4e", "-a", "--exe /x", "-- a"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in
            ["--pid 1 --comm a", "-a --pid 1", "--cgroup a --container b", "--exe a -- b", "--pid 1,x", "--all -- a"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
