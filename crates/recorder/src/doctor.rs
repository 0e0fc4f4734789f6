//! Judges the facts of [`crate::host`] for people: what this host can record, what that means, how to get the rest.
//!
//! Data only; the command line prints it. A check is one function and one line in [`CHECKS`].

use std::fmt;
use std::path::Path;

use mtrace_formats::capture::{ProbeReport, ProbeStatus};

use crate::host::{Capability, HostFacts, SyscallTrial};

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Recording works, and something will be absent or less exact.
    Degraded,
    /// Nothing can be recorded before this is fixed.
    Missing,
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        })
    }
}

/// One judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How good it is.
    pub status: CheckStatus,
    /// What was found, as the kernel tells it.
    pub found: String,
    /// What that means for a recording.
    pub means: String,
    /// What to do about it; `None` if nothing is to be done or can be done.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>, means: impl Into<String>) -> Self {
        Self { name: name.into(), status: CheckStatus::Ok, found: found.into(), means: means.into(), fix: None }
    }

    fn bad(
        name: &str,
        status: CheckStatus,
        found: impl Into<String>,
        means: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), status, found: found.into(), means: means.into(), fix: Some(fix.into()) }
    }

    /// The result of really loading a probe, which outweighs every inference from facts.
    pub fn of_probe(report: &ProbeReport) -> Self {
        let variant = report.variant.as_deref().unwrap_or("not loaded");
        let status = match report.status {
            ProbeStatus::Ran => CheckStatus::Ok,
            ProbeStatus::Partial | ProbeStatus::Absent => CheckStatus::Degraded,
        };
        Self {
            name: format!("probe {}", report.name),
            status,
            found: variant.to_owned(),
            means: match (&report.hides, status) {
                (_, CheckStatus::Ok) => "loads and attaches".to_owned(),
                (Some(hides), _) => format!("stays invisible: {hides}"),
                (None, _) => "its table will be empty or incomplete".to_owned(),
            },
            fix: report.reason.clone().filter(|_| status != CheckStatus::Ok),
        }
    }
}

/// The worst status; [`CheckStatus::Ok`] for none.
pub fn worst(checks: &[Check]) -> CheckStatus {
    checks.iter().map(|c| c.status).max().unwrap_or(CheckStatus::Ok)
}

/// A check of the facts.
type Rule = fn(&HostFacts) -> Check;

/// Every check, in the order of the list that people read: what stops everything first.
const CHECKS: &[Rule] = &[
    kernel,
    architecture,
    privileges,
    bpf,
    btf,
    ring_buffer,
    lockdown,
    pid_namespace,
    perf_events,
    memlock,
    ptrace,
    tracefs,
    kernel_symbols,
    cgroup,
    pressure,
    smaps_rollup,
];

/// Judges the facts. Results of [`check_output`] and [`Check::of_probe`] can be appended.
pub fn diagnose(facts: &HostFacts) -> Vec<Check> {
    CHECKS.iter().map(|check| check(facts)).collect()
}

/// Kernel versions between which the recorder was tried.
const OLDEST: (u32, u32) = (5, 15);
/// First kernel with BPF ring buffers, CAP_BPF and CAP_PERFMON.
const RING_BUFFER_SINCE: (u32, u32) = (5, 8);
/// First kernel that charges BPF maps to the memory cgroup and not to RLIMIT_MEMLOCK.
const NO_MEMLOCK_SINCE: (u32, u32) = (5, 11);
/// Below this a typical ring buffer and its maps do not fit in RLIMIT_MEMLOCK.
const MEMLOCK_ENOUGH_BYTES: u64 = 64 << 20;
/// Below this a recording of minutes may not fit.
const DISK_ENOUGH_BYTES: u64 = 1 << 30;
/// Below this nothing fits.
const DISK_LEAST_BYTES: u64 = 1 << 20;

fn version(f: &HostFacts) -> Option<(u32, u32)> {
    let mut numbers = f.host.kernel_release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(f: &HostFacts) -> Check {
    let name = "kernel";
    let found = f.host.kernel_release.clone();
    match version(f) {
        Some(v) if v >= OLDEST => Check::ok(name, found, "new enough"),
        Some(v) if v >= RING_BUFFER_SINCE => Check::bad(
            name,
            CheckStatus::Degraded,
            found,
            "never tried below 5.15: single probes may fail to load",
            "record, and read in the report which probes ran; or use Linux 5.15 or newer",
        ),
        Some(_) => {
            Check::bad(name, CheckStatus::Missing, found, "too old: no BPF ring buffer", "use Linux 5.15 or newer")
        }
        None => Check::bad(
            name,
            CheckStatus::Degraded,
            found,
            "the version cannot be understood; what follows was tried and counts",
            "go by the checks below",
        ),
    }
}

fn architecture(f: &HostFacts) -> Check {
    let name = "architecture";
    if f.host.arch == "x86_64" {
        return Check::ok(name, f.host.arch.clone(), "page faults have their start, so a service time");
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        f.host.arch.clone(),
        "the kernel has no tracepoint at the start of a page fault here: faults without service time and error code",
        "none on this machine; record on x86_64 where service times matter",
    )
}

fn privileges(f: &HostFacts) -> Check {
    let name = "privileges";
    let has = |c| f.has(c) == Some(true);
    let Some(bits) = f.capabilities else {
        return Check::bad(
            name,
            CheckStatus::Degraded,
            "capabilities cannot be read (is /proc mounted?)",
            "judged by what bpf(2) and perf_event_open(2) say below",
            "mount /proc",
        );
    };
    let found = format!("uid {}, effective capabilities {bits:#x}", f.uid);
    if has(Capability::SysAdmin) {
        return Check::ok(name, found, "may load probes and read every process");
    }
    if !(has(Capability::Bpf) && has(Capability::Perfmon)) {
        return Check::bad(
            name,
            CheckStatus::Missing,
            found,
            "may not load probes: needs root, or CAP_BPF and CAP_PERFMON",
            "run with sudo; in a container add the capabilities BPF, PERFMON and SYS_PTRACE (or --privileged)",
        );
    }
    if has(Capability::SysPtrace) && has(Capability::DacReadSearch) {
        return Check::ok(name, found, "may load probes and read every process");
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        found,
        "may load probes, but not read the maps and binaries of other users' processes: frames without names there",
        "add CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or run with sudo",
    )
}

fn bpf(f: &HostFacts) -> Check {
    let name = "bpf(2)";
    match f.bpf_map {
        SyscallTrial::Works => Check::ok(name, "a map can be made", "BPF may be used"),
        SyscallTrial::Fails(errno) => {
            let fix = match errno {
                libc::ENOSYS => "use a kernel with CONFIG_BPF_SYSCALL=y, or a sandbox that implements bpf(2)",
                _ if f.has(Capability::SysAdmin) == Some(true) || f.has(Capability::Bpf) == Some(true) => {
                    "privileges suffice, so a seccomp filter, a security module or the lockdown mode refuses it: in a \
                     container try --security-opt seccomp=unconfined"
                }
                _ => "run with sudo",
            };
            Check::bad(name, CheckStatus::Missing, errno_text(errno), "no probe can be loaded", fix)
        }
    }
}

fn btf(f: &HostFacts) -> Check {
    let name = "BTF";
    if f.host.btf == Some(true) {
        return Check::ok(name, "/sys/kernel/btf/vmlinux", "probes adapt to this kernel");
    }
    Check::bad(
        name,
        CheckStatus::Missing,
        "/sys/kernel/btf/vmlinux cannot be read",
        "probes cannot adapt to this kernel",
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y (most distributions since 2021); in a container mount /sys",
    )
}

fn ring_buffer(f: &HostFacts) -> Check {
    let name = "BPF ring buffer";
    match (f.bpf_ringbuf, f.bpf_map) {
        (SyscallTrial::Works, _) => Check::ok(name, "can be made", "events reach the recorder"),
        (SyscallTrial::Fails(errno), SyscallTrial::Works) => Check::bad(
            name,
            CheckStatus::Missing,
            errno_text(errno),
            "events cannot reach the recorder",
            "use Linux 5.8 or newer; if it is newer, raise the locked-memory limit (ulimit -l unlimited)",
        ),
        (SyscallTrial::Fails(errno), SyscallTrial::Fails(_)) => Check::bad(
            name,
            CheckStatus::Missing,
            errno_text(errno),
            "not known: bpf(2) itself is refused",
            "fix bpf(2) first",
        ),
    }
}

fn lockdown(f: &HostFacts) -> Check {
    let name = "lockdown";
    match f.host.lockdown.as_deref() {
        None => Check::ok(name, "not in this kernel, or not visible", "nothing is restricted by it"),
        Some(mode @ ("none" | "integrity")) => Check::ok(name, mode, "BPF may read the kernel"),
        Some(mode) => Check::bad(
            name,
            CheckStatus::Missing,
            mode,
            "the kernel forbids BPF to read its memory",
            "boot with lockdown=integrity or without Secure Boot's confidentiality mode",
        ),
    }
}

fn pid_namespace(f: &HostFacts) -> Check {
    let name = "pid namespace";
    match f.initial_pid_namespace {
        Some(true) => Check::ok(name, "the host's", "pids mean the same to the kernel and to the recorder"),
        Some(false) => Check::bad(
            name,
            CheckStatus::Missing,
            "a container's own",
            "the kernel tells probes the host's pids: the targets' events would not be recognised",
            "run the recorder in the host's pid namespace (--pid=host, hostPID: true) and name the host's pid",
        ),
        None => Check::bad(
            name,
            CheckStatus::Degraded,
            "/proc/self/ns/pid cannot be read",
            "not known whether pids mean the same to the kernel and to the recorder",
            "mount /proc",
        ),
    }
}

fn perf_events(f: &HostFacts) -> Check {
    let name = "perf events";
    let paranoid = f.perf_event_paranoid.map_or("absent".to_owned(), |p| p.to_string());
    match f.perf_event {
        SyscallTrial::Works => Check::ok(
            name,
            format!("software events open; perf_event_paranoid {paranoid}"),
            "page faults have their end and kind, Go's runtime can be probed",
        ),
        SyscallTrial::Fails(errno) => Check::bad(
            name,
            CheckStatus::Degraded,
            format!("{}; perf_event_paranoid {paranoid}", errno_text(errno)),
            "no page faults (minor and major end in perf events) and no Go GC events (uprobes)",
            format!("{}; in a container allow perf_event_open in the seccomp profile", crate::plan::perf_advice(f)),
        ),
    }
}

fn memlock(f: &HostFacts) -> Check {
    let name = "locked memory";
    let found = match f.memlock_limit_bytes {
        Some(None) => "unlimited".to_owned(),
        Some(Some(bytes)) => format!("{} KiB", bytes / 1024),
        None => "not known".to_owned(),
    };
    if version(f).is_some_and(|v| v >= NO_MEMLOCK_SINCE) {
        return Check::ok(name, found, "does not limit BPF since Linux 5.11");
    }
    let enough = match f.memlock_limit_bytes {
        Some(Some(bytes)) => bytes >= MEMLOCK_ENOUGH_BYTES || f.has(Capability::SysResource) == Some(true),
        Some(None) => true,
        None => false,
    };
    if enough {
        return Check::ok(name, found, "enough for the ring buffer, or can be raised");
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        found,
        "before Linux 5.11 the ring buffer counts against it: probes may fail to load",
        "ulimit -l unlimited, or run with sudo",
    )
}

fn ptrace(f: &HostFacts) -> Check {
    let name = "ptrace";
    let capable = f.has(Capability::SysPtrace) == Some(true);
    let (found, allowed) = match f.ptrace_scope {
        None => ("not restricted (no Yama)".to_owned(), true),
        Some(scope) => (format!("yama.ptrace_scope {scope}"), scope < 2 || (scope == 2 && capable)),
    };
    if allowed {
        return Check::ok(name, found, "a launched command is recorded from its first instruction");
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        found,
        "a launched command cannot be stopped at its exec: its first mappings may change before they are read",
        "sysctl kernel.yama.ptrace_scope=1 (3 stays until reboot), or add CAP_SYS_PTRACE",
    )
}

fn tracefs(f: &HostFacts) -> Check {
    let name = "tracefs";
    match (&f.tracefs, f.host.btf) {
        (Some(at), _) => Check::ok(name, at.display().to_string(), "tracepoints can be attached to"),
        // Not an omission: nothing is lost.
        (None, Some(true)) => Check::ok(name, "not mounted", "not needed: the probes attach through BTF"),
        (None, _) => Check::bad(
            name,
            CheckStatus::Degraded,
            if f.tracefs_known == Some(false) { "not in this kernel" } else { "not mounted" },
            "tracepoints cannot be attached to, and there is no BTF to do without them",
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    }
}

fn kernel_symbols(f: &HostFacts) -> Check {
    let name = "kernel symbols";
    let capable = f.has(Capability::Syslog) == Some(true);
    let found = f.kptr_restrict.map_or("kptr_restrict not known".to_owned(), |k| format!("kptr_restrict {k}"));
    match f.kptr_restrict {
        Some(0) => Check::ok(name, found, "kernel frames have names"),
        Some(1) if capable => Check::ok(name, found, "kernel frames have names"),
        _ => Check::bad(
            name,
            CheckStatus::Degraded,
            found,
            "/proc/kallsyms shows no addresses: kernel frames without names",
            "sysctl kernel.kptr_restrict=1 and run with sudo (or CAP_SYSLOG)",
        ),
    }
}

fn cgroup(f: &HostFacts) -> Check {
    let name = "memory cgroup";
    match f.host.cgroup_version {
        Some(version) => Check::ok(name, format!("v{version}"), "limits, usage and OOM counters are sampled"),
        None => Check::bad(
            name,
            CheckStatus::Degraded,
            "the memory controller's files are not visible for this process",
            "no limits and no OOM counters, unless the target's own group is visible",
            "mount the host's /sys/fs/cgroup (in a container: read-only is enough)",
        ),
    }
}

fn pressure(f: &HostFacts) -> Check {
    let name = "PSI";
    if f.psi {
        return Check::ok(name, "/proc/pressure", "pressure is sampled");
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        "/proc/pressure cannot be read",
        "no pressure samples",
        "boot with psi=1 (CONFIG_PSI=y, Linux 4.20 or newer)",
    )
}

fn smaps_rollup(f: &HostFacts) -> Check {
    let name = "smaps_rollup";
    if f.smaps_rollup {
        return Check::ok(name, "/proc/PID/smaps_rollup", "PSS, anonymous and lazily freed memory are sampled");
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        "absent",
        "no PSS and no LazyFree: a MADV_FREE gap looks like a leak",
        "use Linux 4.14 or newer with CONFIG_PROC_PAGE_MONITOR=y",
    )
}

/// Judges where a capture would be written: the nearest existing folder of `output`, its space and whether it can be
/// written to.
pub fn check_output(output: &Path) -> Check {
    let name = "output";
    // A relative name without a folder has the empty path as its parent.
    let here = |p: &Path| if p.as_os_str().is_empty() { Path::new(".").to_path_buf() } else { p.to_path_buf() };
    let Some(dir) = output.ancestors().map(here).find(|p| p.is_dir()) else {
        return Check::bad(
            name,
            CheckStatus::Missing,
            format!("no folder above `{}`", output.display()),
            "there is nowhere to write to",
            "name another path with -o",
        );
    };
    if let Err(e) = nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK) {
        return Check::bad(
            name,
            CheckStatus::Missing,
            format!("`{}`: {}", dir.display(), e.desc()),
            "a capture cannot be written there",
            "name another path with -o",
        );
    }
    let Some(free) = free_bytes(&dir) else {
        return Check::ok(name, dir.display().to_string(), "can be written to; its free space is not known");
    };
    let found = format!("`{}`: {} MiB free", dir.display(), free >> 20);
    if free >= DISK_ENOUGH_BYTES {
        return Check::ok(name, found, "enough for a recording of minutes");
    }
    if free < DISK_LEAST_BYTES {
        return Check::bad(
            name,
            CheckStatus::Missing,
            found,
            "full: not even a short recording fits",
            "write elsewhere with -o, or free some space",
        );
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        found,
        "a long recording may fill it; what was closed before stays readable",
        "write elsewhere with -o, or free some space",
    )
}

/// Space that this user may use on the filesystem of `path`.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn errno_text(errno: i32) -> String {
    let e = nix::errno::Errno::from_raw(errno);
    format!("{e:?}: {}", e.desc())
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
