//! What recording costs: the recorder's own CPU and memory, and the time inside its BPF programs.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use libbpf_rs::libbpf_sys;
use mtrace_formats::capture::{BpfCost, FaultCost, RecorderCost};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::host::monotonic_ns;

/// Keeps account of what this process used since it was made.
///
/// CPU time is that of all threads of this process. Children (the recorded command) are not in it.
#[derive(Debug)]
pub struct CostMeter {
    user_ns: Option<u64>,
    system_ns: Option<u64>,
    recording_peak: Option<u64>,
    recording_end_ns: Option<i64>,
    recording_cpu: (Option<u64>, Option<u64>),
    /// What a fault costs on this host, if it was measured.
    pub(crate) fault: Option<FaultCost>,
}

impl CostMeter {
    /// Starts the account. Make it when the recorder starts, before probes are loaded.
    pub fn start() -> Self {
        let (user_ns, system_ns) = own_cpu().unzip();
        Self {
            user_ns,
            system_ns,
            recording_peak: None,
            recording_end_ns: None,
            recording_cpu: (None, None),
            fault: None,
        }
    }

    /// Notes that the targets run and everything is attached.
    pub fn recording_began(&mut self) {
        self.recording_cpu.0 = own_cpu().map(|(user, system)| user + system);
    }

    /// Notes the end of recording: what follows (symbols, closing files) is accounted apart.
    pub fn recording_ended(&mut self) {
        self.recording_peak = rss_peak_bytes();
        self.recording_cpu.1 = own_cpu().map(|(user, system)| user + system);
        self.recording_end_ns = Some(monotonic_ns());
    }

    /// The account so far; `ring_bytes` and the programs' times are the caller's to know.
    pub fn report(&self, ring_bytes: Option<u64>, bpf: BpfMeasured) -> RecorderCost {
        let (user, system) = own_cpu().unzip();
        let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        RecorderCost {
            cpu_user_ns: since(user, self.user_ns),
            cpu_system_ns: since(system, self.system_ns),
            cpu_recording_ns: since(self.recording_cpu.1, self.recording_cpu.0),
            rss_peak_bytes: rss_peak_bytes(),
            rss_peak_recording_bytes: self.recording_peak,
            ring_bytes,
            finish_ns: self.recording_end_ns.map(|end| monotonic_ns().saturating_sub(end).unsigned_abs()),
            fault: self.fault,
            bpf: bpf.programs,
            bpf_sampled_ns: bpf.sampled_ns,
            bpf_estimated_ns: bpf.estimated_ns,
        }
    }
}

/// The time in the BPF programs, as far as it was measured.
#[derive(Debug, Default)]
pub struct BpfMeasured {
    /// By program.
    pub programs: Vec<BpfCost>,
    /// How long it was measured; `None` if it was not.
    pub sampled_ns: Option<u64>,
    /// All programs, over the whole recording.
    pub estimated_ns: Option<u64>,
}

/// User and system CPU time of this process, ns.
pub fn own_cpu() -> Option<(u64, u64)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let ns = |t: TimeVal| t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_usec().unsigned_abs() * 1_000;
    Some((ns(usage.user_time()), ns(usage.system_time())))
}

/// Peak RSS of this process (VmHWM), the mapped ring buffer included.
///
/// From /proc and not from ru_maxrss: that one survives an exec and so can be the peak of the shell that started us.
pub fn rss_peak_bytes() -> Option<u64> {
    let status = std::fs::read("/proc/self/status").ok()?;
    crate::sampler::parse_kb_lines(&String::from_utf8_lossy(&status)).get("VmHWM").copied()
}

/// Turns BPF run-time statistics on while it lives (5.8+, CAP_SYS_ADMIN); the kernel counts users, so a
/// `kernel.bpf_stats_enabled` set by somebody else stays as it is.
///
/// Two clock readings are added to every run of every BPF program on the host: tens of nanoseconds each.
#[derive(Debug)]
pub struct BpfStats {
    _fd: OwnedFd,
}

impl BpfStats {
    /// Turns them on.
    ///
    /// # Errors
    /// If the kernel refuses (EPERM, EINVAL before 5.8).
    pub fn enable() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { _fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }
}

/// Time inside each program, by its descriptor, under the given name (the kernel keeps 15 bytes of it only).
///
/// Programs that never ran while statistics were on are left out: not measured is not zero. Read it before the
/// programs are unloaded.
pub fn bpf_costs<'a>(programs: impl IntoIterator<Item = (String, BorrowedFd<'a>)>) -> Vec<BpfCost> {
    let cost = |(program, fd): (String, BorrowedFd<'a>)| {
        let s = run_stats(fd).ok().filter(|s| s.runs > 0)?;
        Some(BpfCost { program, runs: s.runs, run_ns: s.run_ns })
    };
    programs.into_iter().filter_map(cost).collect()
}

/// What the kernel counts of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunStats {
    /// Runs while statistics were on.
    pub runs: u64,
    /// Time in them, ns.
    pub run_ns: u64,
    /// Times that it was not run because it was running on that CPU already; of its whole life (5.12 and later, else 0).
    pub misses: u64,
}

/// What the kernel counted of a program.
///
/// # Errors
/// What BPF_OBJ_GET_INFO_BY_FD said.
pub fn run_stats(program: BorrowedFd<'_>) -> io::Result<RunStats> {
    // Not by libbpf_rs::query: it fetches the program's instructions, line tables and BTF besides.
    // SAFETY: all zeroes is a valid bpf_prog_info: "fill in no arrays".
    let mut info: libbpf_sys::bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as u32;
    // SAFETY: pointer and length describe `info`.
    let r = unsafe { libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &mut len) };
    if r != 0 {
        return Err(io::Error::from_raw_os_error(r.abs()));
    }
    Ok(RunStats { runs: info.run_cnt, run_ns: info.run_time_ns, misses: info.recursion_misses })
}

/// CPU time as a share of elapsed time, for a person: 0.02 is 2 % of one CPU.
pub fn cpu_share(cost: &RecorderCost, elapsed: Duration) -> Option<f64> {
    let elapsed = elapsed.as_nanos() as f64;
    (elapsed > 0.0).then_some((cost.cpu_user_ns? + cost.cpu_system_ns?) as f64 / elapsed)
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;
