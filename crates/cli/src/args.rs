//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(all(feature = "record", target_os = "linux"))]
use clap::ValueEnum;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueHint};

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
    Record(RecordArgs),
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
  sudo mtrace record -o all.mtrace --comm prometheus --duration 1m

Recording ends when the target ends, after --duration, or on Ctrl-C. A launched command is then sent SIGTERM (and
SIGKILL after 5 s) unless --leave-running is given.")]
pub(crate) struct RecordArgs {
    /// Capture directory to create; must not exist
    #[arg(short, long, value_name = "NAME.mtrace", value_hint = ValueHint::DirPath)]
    pub(crate) output: PathBuf,
    /// Record this process and the children that it starts
    #[arg(long, value_name = "PID", group = "target")]
    pub(crate) pid: Option<u32>,
    /// Record all processes of this name (comm, 15 bytes), those that start later too
    #[arg(long, value_name = "NAME", group = "target")]
    pub(crate) comm: Option<String>,
    /// Stop after this time: 30s, 5m, 500ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Size of the ring buffer, a power of two of pages: 16M, 64M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = ring_size)]
    pub(crate) ring: usize,
    /// Interval of the samples from /proc and the cgroup
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) sample_interval: Duration,
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
    /// File and network calls written per process; the rest is counted
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub(crate) io_calls: u64,
    /// Switch a probe off (repeatable): memory_calls, refusals, faults, fault_counts, reclaims, gc_events, io_calls, off_cpu, process_events
    #[arg(long, value_name = "PROBE")]
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

/// Parses `30s`, `5m`, `500ms`, `20us`; a unit is required.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a number and a unit, such as 30s".to_owned())?;
    match unit {
        "us" | "µs" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" | "min" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
        "h" => number.checked_mul(3600).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
        _ => Err(format!("unit `{unit}`: expected us, ms, s, m or h")),
    }
}

/// Parses `16M`; the kernel wants a power of two of pages.
#[cfg(all(feature = "record", target_os = "linux"))]
fn ring_size(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: usize = number.parse().map_err(|_| "expected a size such as 16M".to_owned())?;
    let shift = match unit.trim_end_matches("iB") {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("unit `{unit}`: expected K, M or G")),
    };
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes.is_power_of_two() && (1 << 12..=1 << 31).contains(&bytes) => Ok(bytes),
        _ => Err("expected a power of two between 4K and 2G".to_owned()),
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

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("20us"), Ok(Duration::from_micros(20)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "30", "30x", "-1s", "99999999999999999999s", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration(&format!("{}h", u64::MAX)).is_err());
    }

    #[cfg(all(feature = "record", target_os = "linux"))]
    #[test]
    fn the_ring_is_a_power_of_two() {
        assert_eq!(ring_size("16M"), Ok(16 << 20));
        assert_eq!(ring_size("16MiB"), Ok(16 << 20));
        for bad in ["", "15M", "1", "4G", "16X", "99999999999999999999G"] {
            assert!(ring_size(bad).is_err(), "{bad}");
        }
    }
}
