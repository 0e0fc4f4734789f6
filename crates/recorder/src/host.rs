//! What this host is and what it allows: facts only. [`crate::doctor`] judges them.

use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use mtrace_formats::capture::{ClockPair, Host};
use nix::time::{ClockId, clock_gettime};

use crate::sampler::{CgroupPaths, mountinfo, parse_kb_lines};

/// Everything known about the host before anything is loaded. A fact that could not be read is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    /// What goes into the manifest; `cgroup_version` is that of this process until a target is known.
    pub host: Host,
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, bit n is capability n of linux/capability.h.
    pub capabilities: Option<u64>,
    /// Where tracefs is mounted.
    pub tracefs: Option<PathBuf>,
    /// True if the kernel knows tracefs, mounted or not.
    pub tracefs_known: Option<bool>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u32>,
    /// `kernel.perf_event_paranoid`; `None` also where the kernel has no perf events.
    pub perf_event_paranoid: Option<i32>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<u32>,
    /// `kernel.yama.ptrace_scope`; `None` where Yama is absent (then nothing is restricted).
    pub ptrace_scope: Option<u32>,
    /// `kernel.bpf_stats_enabled`.
    pub bpf_stats_enabled: Option<bool>,
    /// Soft RLIMIT_MEMLOCK; `Some(None)` is unlimited.
    pub memlock_limit_bytes: Option<Option<u64>>,
    /// What bpf(2) said to a tiny array map.
    pub bpf_map: SyscallTrial,
    /// What bpf(2) said to a tiny ring buffer (5.8+).
    pub bpf_ringbuf: SyscallTrial,
    /// What perf_event_open(2) said to a software page-fault event of this thread.
    pub perf_event: SyscallTrial,
    /// True if `/proc/pressure/memory` can be read (PSI may be compiled in and switched off).
    pub psi: bool,
    /// True if `/proc/self/smaps_rollup` is there (4.14+).
    pub smaps_rollup: bool,
    /// Cgroup folders of this process.
    pub cgroup: CgroupPaths,
    /// True if this process is in the initial pid namespace, whose pids the kernel gives to BPF programs; false in most
    /// containers.
    pub initial_pid_namespace: Option<bool>,
}

/// What a system call said when it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyscallTrial {
    /// It worked; whatever it made is closed again.
    Works,
    /// It failed with this errno (1 EPERM, 22 EINVAL, 38 ENOSYS …).
    Fails(i32),
}

impl SyscallTrial {
    /// True if it worked.
    pub fn works(self) -> bool {
        self == Self::Works
    }
}

/// Capabilities that matter here, by number (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Read files of other users (binaries for symbols).
    DacReadSearch = 2,
    /// Stop, read and inspect processes of other users.
    SysPtrace = 19,
    /// Everything that the finer ones do not cover; all of BPF before 5.8.
    SysAdmin = 21,
    /// Raise resource limits.
    SysResource = 24,
    /// Read kernel symbols' addresses.
    Syslog = 34,
    /// Attach programs to tracing points and perf events (5.8+).
    Perfmon = 38,
    /// Load programs, make maps (5.8+).
    Bpf = 39,
}

/// Inode of the initial pid namespace (include/linux/proc_ns.h).
const PROC_PID_INIT_INO: u32 = 0xEFFF_FFFC;

impl HostFacts {
    /// Reads all of it; takes a few milliseconds and changes nothing.
    pub fn gather() -> Self {
        let tracefs = find_tracefs();
        Self {
            host: host(),
            uid: nix::unistd::geteuid().as_raw(),
            capabilities: capabilities(),
            tracefs,
            tracefs_known: fs::read_to_string("/proc/filesystems")
                .ok()
                .map(|t| t.lines().any(|l| l.split_whitespace().next_back() == Some("tracefs"))),
            unprivileged_bpf_disabled: sysctl("kernel/unprivileged_bpf_disabled"),
            perf_event_paranoid: sysctl("kernel/perf_event_paranoid"),
            kptr_restrict: sysctl("kernel/kptr_restrict"),
            ptrace_scope: sysctl("kernel/yama/ptrace_scope"),
            bpf_stats_enabled: sysctl::<u32>("kernel/bpf_stats_enabled").map(|v| v != 0),
            memlock_limit_bytes: memlock(),
            bpf_map: try_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1),
            bpf_ringbuf: try_map(BPF_MAP_TYPE_RINGBUF, 0, 0, page_bytes() as u32),
            perf_event: try_perf_event(),
            // Opening works even where reading says "not supported" (psi=0).
            psi: fs::read("/proc/pressure/memory").is_ok(),
            smaps_rollup: Path::new("/proc/self/smaps_rollup").exists(),
            cgroup: CgroupPaths::of(std::process::id()),
            initial_pid_namespace: fs::read_link("/proc/self/ns/pid")
                .ok()
                .map(|link| link.as_os_str() == format!("pid:[{PROC_PID_INIT_INO}]").as_str()),
        }
    }

    /// True if the capability is effective; `None` if capabilities could not be read.
    pub fn has(&self, capability: Capability) -> Option<bool> {
        self.capabilities.map(|bits| bits & (1 << capability as u8) != 0)
    }
}

/// CLOCK_MONOTONIC, ns: the clock of every `ts` in a capture and of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> i64 {
    clock(ClockId::CLOCK_MONOTONIC)
}

fn clock(id: ClockId) -> i64 {
    // Fails for an unknown clock only.
    clock_gettime(id).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

/// Reads both clocks together; of a few tries the one with the smallest error.
pub fn clock_pair() -> ClockPair {
    let once = || {
        let before = clock(ClockId::CLOCK_MONOTONIC);
        let realtime_ns = clock(ClockId::CLOCK_REALTIME);
        let after = clock(ClockId::CLOCK_MONOTONIC);
        let half = (after - before) / 2;
        // Rounded up: the true value lies within ± error.
        ClockPair { monotonic_ns: before + half, realtime_ns, error_ns: (after - before) - half }
    };
    let first = once();
    (0..4).map(|_| once()).fold(first, |best, p| if p.error_ns < best.error_ns { p } else { best })
}

/// Size of a page, bytes.
pub fn page_size() -> Option<u64> {
    positive_sysconf(libc::_SC_PAGESIZE)
}

/// The same where a number is needed: what nearly all hosts have, should it not be told.
pub(crate) fn page_bytes() -> u64 {
    page_size().unwrap_or(4096)
}

/// Units of the CPU times in /proc/PID/stat, per second.
pub(crate) fn clock_ticks() -> Option<u64> {
    positive_sysconf(libc::_SC_CLK_TCK)
}

fn positive_sysconf(name: i32) -> Option<u64> {
    // SAFETY: no pointers.
    u64::try_from(unsafe { libc::sysconf(name) }).ok().filter(|v| *v > 0)
}

fn host() -> Host {
    let (kernel_release, arch, hostname) = uname();
    let meminfo = fs::read_to_string("/proc/meminfo").map(|t| parse_kb_lines(&t)).unwrap_or_default();
    let thp = Path::new("/sys/kernel/mm/transparent_hugepage");
    Host {
        kernel_release,
        arch,
        hostname,
        cpus: positive_sysconf(libc::_SC_NPROCESSORS_ONLN).and_then(|n| u32::try_from(n).ok()),
        memory_bytes: meminfo.get("MemTotal").copied(),
        swap_bytes: meminfo.get("SwapTotal").copied(),
        page_size_bytes: page_size(),
        thp_enabled: chosen(&thp.join("enabled")),
        thp_defrag: chosen(&thp.join("defrag")),
        overcommit_memory: sysctl("vm/overcommit_memory"),
        commit_limit_bytes: meminfo.get("CommitLimit").copied(),
        max_map_count: sysctl("vm/max_map_count"),
        cgroup_version: CgroupPaths::of(std::process::id()).memory_version(),
        lockdown: chosen(Path::new("/sys/kernel/security/lockdown")),
        btf: Some(fs::File::open("/sys/kernel/btf/vmlinux").is_ok()),
    }
}

fn uname() -> (String, String, Option<String>) {
    // SAFETY: all zeroes is a valid utsname for the call to fill.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid.
    if unsafe { libc::uname(&mut name) } != 0 {
        return (String::new(), std::env::consts::ARCH.to_owned(), None);
    }
    let text = |field: &[libc::c_char]| {
        let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| c.to_ne_bytes()[0]).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let hostname = Some(text(&name.nodename)).filter(|h| !h.is_empty());
    (text(&name.release), text(&name.machine), hostname)
}

/// The word in brackets of a file such as `always [madvise] never`.
fn chosen(path: &Path) -> Option<String> {
    bracketed(&fs::read_to_string(path).ok()?)
}

fn bracketed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn sysctl<T: std::str::FromStr>(name: &str) -> Option<T> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

fn capabilities() -> Option<u64> {
    let status = fs::read("/proc/self/status").ok()?;
    let text = String::from_utf8_lossy(&status);
    u64::from_str_radix(text.lines().find_map(|l| l.strip_prefix("CapEff:"))?.trim(), 16).ok()
}

fn memlock() -> Option<Option<u64>> {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).ok()?;
    Some((soft != libc::RLIM_INFINITY).then_some(soft))
}

/// Where tracefs is mounted: on its own, or by itself below a debugfs.
fn find_tracefs() -> Option<PathBuf> {
    let mounts = mountinfo();
    let own = mounts.iter().filter(|m| m.fs_type == "tracefs").map(|m| m.mount_point.clone());
    // debugfs mounts tracefs on tracing/ when that folder is first looked at.
    let below = mounts.iter().filter(|m| m.fs_type == "debugfs").map(|m| m.mount_point.join("tracing"));
    own.chain(below).find(|p| p.join("events").is_dir())
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;

/// Makes a map and closes it: the plain truth about whether bpf(2) may be used here (seccomp, lockdown, capabilities).
fn try_map(map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> SyscallTrial {
    // The first four fields of union bpf_attr for BPF_MAP_CREATE; the kernel takes the rest as zero.
    let attr = [map_type, key_size, value_size, max_entries];
    // SAFETY: the pointer and the size describe `attr`, which the kernel only reads.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attr.as_ptr(), size_of_val(&attr)) };
    close_trial(fd)
}

/// Opens a counter of this thread's page faults, which needs no more than the recorder's own events do.
fn try_perf_event() -> SyscallTrial {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_PAGE_FAULTS: u64 = 2;
    /// PERF_ATTR_SIZE_VER0: the first 64 bytes of perf_event_attr.
    const SIZE: u32 = 64;
    let mut attr = [0u64; 8];
    // u32 type, u32 size; u64 config.
    attr[0] = if cfg!(target_endian = "little") {
        u64::from(PERF_TYPE_SOFTWARE) | u64::from(SIZE) << 32
    } else {
        u64::from(PERF_TYPE_SOFTWARE) << 32 | u64::from(SIZE)
    };
    attr[1] = PERF_COUNT_SW_PAGE_FAULTS;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // SAFETY: `attr` has the size that it states; pid 0 and cpu -1 mean this thread on any CPU.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, PERF_FLAG_FD_CLOEXEC) };
    close_trial(fd)
}

fn close_trial(fd: libc::c_long) -> SyscallTrial {
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the descriptor is new and nobody else's.
            let owned = unsafe { OwnedFd::from_raw_fd(fd) };
            debug_assert!(owned.as_raw_fd() >= 0);
            SyscallTrial::Works
        }
        _ => SyscallTrial::Fails(nix::errno::Errno::last_raw()),
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
