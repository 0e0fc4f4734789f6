//! What can be observed beside the probes: processes, the kernel's names, cgroups, pressure.

use super::{Check, CheckStatus};
use crate::host::{Capability, HostFacts};

pub(super) fn ptrace(f: &HostFacts) -> Check {
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

pub(super) fn tracefs(f: &HostFacts) -> Check {
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

pub(super) fn kernel_symbols(f: &HostFacts) -> Check {
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

pub(super) fn cgroup(f: &HostFacts) -> Check {
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

pub(super) fn pressure(f: &HostFacts) -> Check {
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

pub(super) fn smaps_rollup(f: &HostFacts) -> Check {
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
