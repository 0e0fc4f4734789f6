//! Whether probes can be loaded and attached: the kernel, its permissions, its limits.

use super::{Check, CheckStatus};
use crate::host::{Capability, HostFacts, SyscallTrial};

/// Kernel versions between which the recorder was tried.
const OLDEST: (u32, u32) = (5, 15);
/// First kernel with BPF ring buffers, CAP_BPF and CAP_PERFMON.
const RING_BUFFER_SINCE: (u32, u32) = (5, 8);
/// First arm64 kernel in which BPF trampolines (fentry) can be attached (2aa6ac03516d).
const ARM64_TRAMPOLINES_SINCE: (u32, u32) = (6, 4);
/// First kernel that charges BPF maps to the memory cgroup and not to RLIMIT_MEMLOCK.
const NO_MEMLOCK_SINCE: (u32, u32) = (5, 11);
/// Below this a typical ring buffer and its maps do not fit in RLIMIT_MEMLOCK.
const MEMLOCK_ENOUGH_BYTES: u64 = 64 << 20;
fn version(f: &HostFacts) -> Option<(u32, u32)> {
    let mut numbers = f.host.kernel_release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub(super) fn kernel(f: &HostFacts) -> Check {
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

pub(super) fn architecture(f: &HostFacts) -> Check {
    let name = "architecture";
    let arch = f.host.arch.clone();
    match arch.as_str() {
        "x86_64" => Check::ok(name, arch, "page faults have their start, so a service time"),
        "aarch64" if version(f).is_some_and(|v| v >= ARM64_TRAMPOLINES_SINCE) => {
            Check::ok(name, arch, "page faults have their start by fentry, so a service time")
        }
        "aarch64" => Check::bad(
            name,
            CheckStatus::Degraded,
            arch,
            "the start of a page fault is seen by a kprobe at best: less exact service times and kinds of faults",
            "use Linux 6.4 or newer, which lets fentry attach on this architecture",
        ),
        _ => Check::bad(
            name,
            CheckStatus::Missing,
            arch,
            "the probes know the registers of x86_64 and aarch64 only",
            "record on one of these",
        ),
    }
}

pub(super) fn privileges(f: &HostFacts) -> Check {
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

pub(super) fn bpf(f: &HostFacts) -> Check {
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

pub(super) fn btf(f: &HostFacts) -> Check {
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

pub(super) fn ring_buffer(f: &HostFacts) -> Check {
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

pub(super) fn lockdown(f: &HostFacts) -> Check {
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

pub(super) fn pid_namespace(f: &HostFacts) -> Check {
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

pub(super) fn perf_events(f: &HostFacts) -> Check {
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

pub(super) fn memlock(f: &HostFacts) -> Check {
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

fn errno_text(errno: i32) -> String {
    let e = nix::errno::Errno::from_raw(errno);
    format!("{e:?}: {}", e.desc())
}
