//! The memory files of a process's cgroup, v1 and v2.
//!
//! v1: <https://www.kernel.org/doc/Documentation/cgroup-v1/memory.txt>,
//! v2: <https://www.kernel.org/doc/Documentation/admin-guide/cgroup-v2.rst>.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use mtrace_formats::tables::{Sample, SampleSource};

use super::Rows;
use super::parse::{Mount, flat_keyed, mountinfo};
use crate::host::monotonic_ns;

/// PAGE_COUNTER_MAX of v1 is LONG_MAX rounded down to a page; whatever lies this high means "no limit".
const V1_UNLIMITED: u64 = i64::MAX as u64 - 0x1_0000;

/// v1 files with one number, as they are named. A value that means "no limit" becomes null.
const V1_NUMBERS: &[&str] = &[
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.failcnt",
    "memory.memsw.usage_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.memsw.failcnt",
    "memory.kmem.usage_in_bytes",
];
/// v2 files with one number of bytes or "max".
const V2_NUMBERS: &[&str] = &[
    "memory.current",
    "memory.peak",
    "memory.min",
    "memory.low",
    "memory.high",
    "memory.max",
    "memory.swap.current",
    "memory.swap.max",
];
/// Essentials of v1 memory.stat in bytes, for the group and all below it.
const V1_STAT_BYTES: &[&str] = &[
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
    "total_cache",
    "total_rss",
    "total_rss_huge",
    "total_shmem",
    "total_mapped_file",
    "total_dirty",
    "total_writeback",
    "total_swap",
    "total_inactive_anon",
    "total_active_anon",
    "total_inactive_file",
    "total_active_file",
    "total_unevictable",
];
/// Essentials of v1 memory.stat that are counts.
const V1_STAT_COUNTS: &[&str] =
    &["total_pgfault", "total_pgmajfault", "total_workingset_refault_anon", "total_workingset_refault_file"];
/// Essentials of v2 memory.stat in bytes.
const V2_STAT_BYTES: &[&str] = &[
    "anon",
    "file",
    "kernel",
    "kernel_stack",
    "pagetables",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "swapcached",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
];
/// Essentials of v2 memory.stat that are counts.
const V2_STAT_COUNTS: &[&str] = &[
    "pgfault",
    "pgmajfault",
    "pgscan",
    "pgsteal",
    "pgscan_direct",
    "pgsteal_direct",
    "pgscan_kswapd",
    "workingset_refault_anon",
    "workingset_refault_file",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];

/// The folders of a process's cgroups in this mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CgroupPaths {
    /// Path of the memory cgroup as /proc/PID/cgroup has it (v1's memory line, else v2's).
    pub name: Option<String>,
    /// v1: the folder with `memory.usage_in_bytes`.
    pub v1_memory: Option<PathBuf>,
    /// v2: the folder; its memory files are there only if the controller is enabled.
    pub v2: Option<PathBuf>,
    /// v2: where its hierarchy is mounted, the end of the way upwards to the limits that also hold.
    v2_top: Option<PathBuf>,
}

impl CgroupPaths {
    /// Those of `pid`; empty if it is gone or its cgroups are not visible here.
    pub fn of(pid: u32) -> Self {
        let text = fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Self::find(&text, &mountinfo())
    }

    /// 1 or 2: which hierarchy has the memory files; `None` if neither.
    pub fn memory_version(&self) -> Option<u32> {
        if self.v1_memory.is_some() {
            return Some(1);
        }
        let v2 = self.v2.as_ref()?;
        // The root group has no memory.current but does have memory.stat (5.x+).
        ["memory.current", "memory.stat"].iter().any(|f| v2.join(f).exists()).then_some(2)
    }

    fn find(proc_cgroup: &[u8], mounts: &[Mount]) -> Self {
        let mut found = Self::default();
        let mut v2_name = None;
        for line in proc_cgroup.split(|b| *b == b'\n') {
            let mut parts = line.splitn(3, |b| *b == b':');
            let (Some(_), Some(controllers), Some(name)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let name = Path::new(OsStr::from_bytes(name));
            if controllers.split(|b| *b == b',').any(|c| c == b"memory") {
                found.name = Some(name.to_string_lossy().into_owned());
                let v1 = |m: &&Mount| m.fs_type == "cgroup" && m.super_options.iter().any(|o| o == "memory");
                found.v1_memory = mounts.iter().filter(v1).find_map(|m| below(m, name));
            } else if controllers.is_empty() {
                v2_name = Some(name.to_string_lossy().into_owned());
                let v2 = mounts.iter().filter(|m| m.fs_type == "cgroup2");
                let place = v2.filter_map(|m| Some((below(m, name)?, m.mount_point.clone()))).next();
                (found.v2, found.v2_top) = place.unzip();
            }
        }
        found.name = found.name.or(v2_name);
        found
    }
}

/// The folder of cgroup `name` below `mount`, which may show only a part of the hierarchy: inside a container without
/// a cgroup namespace the mount's root is the container's own group and has to be taken off the name.
pub(crate) fn below(mount: &Mount, name: &Path) -> Option<PathBuf> {
    // A group outside the reader's cgroup namespace reads as /../…: not reachable below this mount.
    if name.components().any(|c| c == Component::ParentDir) {
        return None;
    }
    let relative = name.strip_prefix(&mount.root).ok()?;
    let dir = mount.mount_point.join(relative);
    dir.is_dir().then_some(dir)
}

/// The cheap files: usage, limits, events.
pub(super) fn counters(paths: &CgroupPaths, pid: u32, out: &mut Vec<Sample>) {
    let source = SampleSource::CgroupMemory;
    if let Some(dir) = &paths.v1_memory {
        let mut rows = Rows { ts: monotonic_ns(), source, pid: Some(pid), out };
        for file in V1_NUMBERS {
            if let Some(value) = number(&dir.join(file)) {
                rows.push(*file, limit_v1(file, value));
            }
        }
        flat(&dir.join("memory.oom_control"), "memory.oom_control", &mut rows);
        return;
    }
    if let Some(dir) = &paths.v2 {
        let mut rows = Rows { ts: monotonic_ns(), source, pid: Some(pid), out };
        for file in V2_NUMBERS {
            if let Ok(text) = fs::read_to_string(dir.join(file)) {
                push_limit_v2(&mut rows, format!("{file}_bytes"), text.trim());
            }
        }
        flat(&dir.join("memory.events"), "memory.events", &mut rows);
    }
}

/// The expensive file, memory.stat, and for v2 the limits that hold from above.
pub(super) fn stat(paths: &CgroupPaths, pid: u32, out: &mut Vec<Sample>) {
    let (dir, bytes, counts) = match (&paths.v1_memory, &paths.v2) {
        (Some(dir), _) => (dir, V1_STAT_BYTES, V1_STAT_COUNTS),
        (None, Some(dir)) => (dir, V2_STAT_BYTES, V2_STAT_COUNTS),
        (None, None) => return,
    };
    let mut rows = Rows { ts: monotonic_ns(), source: SampleSource::CgroupMemory, pid: Some(pid), out };
    if let Ok(text) = fs::read_to_string(dir.join("memory.stat")) {
        for (key, value) in flat_keyed(&text) {
            if bytes.contains(&key) {
                rows.push(format!("memory.stat.{key}_bytes"), limit_v1(key, value));
            } else if counts.contains(&key) {
                rows.push(format!("memory.stat.{key}"), Some(value));
            }
        }
    }
    if let (None, Some(dir), Some(top)) = (&paths.v1_memory, &paths.v2, &paths.v2_top) {
        for file in ["memory.max", "memory.high"] {
            if let Some(limit) = tightest(dir, top, file) {
                // Not a file of the kernel: the smallest of this group's and its visible ancestors' (v1 has it in memory.stat).
                rows.push(format!("{file}.hierarchical_bytes"), limit);
            }
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn limit_v1(name: &str, value: u64) -> Option<u64> {
    (!(name.contains("limit") && value >= V1_UNLIMITED)).then_some(value)
}

fn push_limit_v2(rows: &mut Rows<'_>, key: String, text: &str) {
    match text.parse() {
        Ok(value) => rows.push(key, Some(value)),
        Err(_) if text == "max" => rows.push(key, None),
        Err(_) => {}
    }
}

fn flat(path: &Path, prefix: &str, rows: &mut Rows<'_>) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for (key, value) in flat_keyed(&text) {
        rows.push(format!("{prefix}.{key}"), Some(value));
    }
}

/// The smallest value of `file` from `dir` up to `top`; the outer `None` if no group has the file, the inner one if
/// all say "max".
fn tightest(dir: &Path, top: &Path, file: &str) -> Option<Option<u64>> {
    let mut seen = None;
    for group in dir.ancestors().take_while(|g| g.starts_with(top)) {
        if let Ok(text) = fs::read_to_string(group.join(file)) {
            let here = text.trim().parse::<u64>().ok();
            seen = Some(match seen.flatten() {
                Some(least) => Some(here.map_or(least, |h: u64| h.min(least))),
                None => here,
            });
        }
    }
    seen
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
