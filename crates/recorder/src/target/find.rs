//! Finds running processes and reads what /proc says about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mtrace_formats::capture::Target;
use procfs_core::FromBufRead as _;
use procfs_core::process::{Limit, LimitValue, Limits};

use super::group;
use crate::sampler::{CgroupPaths, read_stat};

/// PF_KTHREAD of include/linux/sched.h: a thread of the kernel, without an address space of its own.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Why there is no such target.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No process has this pid.
    #[error("no process with pid {pid} (in this pid namespace); it may have ended: check with `ps -p {pid}`")]
    NoSuchPid {
        /// As given.
        pid: u32,
    },
    /// It ended and waits to be reaped by its parent.
    #[error("process {pid} ({comm}) has ended already and is a zombie: there is no memory left to observe")]
    Zombie {
        /// As given.
        pid: u32,
        /// Its name, control characters escaped.
        comm: String,
    },
    /// It is a thread of the kernel.
    #[error("{pid} ({comm}) is a kernel thread: it has no user memory to observe; name a user process")]
    KernelThread {
        /// As given.
        pid: u32,
        /// Its name, control characters escaped.
        comm: String,
    },
    /// It is the recorder itself.
    #[error("pid {pid} is this recorder; name another process")]
    Ourselves {
        /// As given.
        pid: u32,
    },
    /// No process has this name.
    #[error("no process is named `{}`; comm is the first 15 bytes of the program's file name: {hint}", name.escape_debug())]
    NoSuchComm {
        /// As given.
        name: String,
        /// What to try next.
        hint: String,
    },
    /// Neither this file nor a process of it.
    #[error("`{}`: no such file here, and no process runs it in a container; see the paths with `ls -l /proc/*/exe`", path.display())]
    NoSuchExe {
        /// As given, made absolute.
        path: PathBuf,
    },
    /// No cgroup has this folder or name.
    #[error("no cgroup is `{}`; {hint}", path.display())]
    NoSuchCgroup {
        /// As given.
        path: PathBuf,
        /// What to try next.
        hint: String,
    },
    /// It is no id.
    #[error(
        "`{}` is no container id: expected at most 64 hexadecimal digits, as `docker ps`, `crictl ps` and `podman ps` \
         print them; the id of a name: `docker inspect --format {{{{.Id}}}} NAME`", given.escape_debug()
    )]
    NoContainerId {
        /// As given.
        given: String,
    },
    /// No process is in such a container.
    #[error(
        "no process is in a container whose id begins with `{id}` (looked for in the cgroups of all processes); is it \
         running, and on this host? Name the cgroup itself with --cgroup if its runtime gives no ids of 64 digits"
    )]
    NoSuchContainer {
        /// As given, in lower case.
        id: String,
    },
    /// Several containers' ids begin so.
    #[error("`{id}` is the begin of {number} containers' ids: {shown}; give more digits")]
    AmbiguousContainer {
        /// As given, in lower case.
        id: String,
        /// Containers.
        number: usize,
        /// The first of them.
        shown: String,
    },
    /// Its group cannot be looked at from here.
    #[error(
        "container {id} runs, but its cgroup's folder is not visible here; mount the host's /sys/fs/cgroup, and give \
         CAP_SYS_ADMIN (to leave this container's cgroup namespace)"
    )]
    HiddenContainer {
        /// As given, in lower case.
        id: String,
    },
}

/// What /proc says about a process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessFacts {
    /// Thread group.
    pub pid: u32,
    /// Name of the main thread as it is (not escaped), invalid UTF-8 replaced.
    pub comm: String,
    /// Path of the executable; null if it may not be read.
    pub exe: Option<PathBuf>,
    /// Parent; 0 for init and for a parent outside this pid namespace.
    pub parent: u32,
    /// Threads and their names, the main thread among them, in ascending order.
    pub threads: Vec<(u32, String)>,
    /// RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK (soft), bytes; absent if unlimited or not readable.
    pub limits_bytes: BTreeMap<String, u64>,
    /// Its cgroups' folders, as far as they are visible here.
    pub cgroup: CgroupPaths,
    /// Name of its cgroup: the memory controller's, on v1 and v2.
    pub cgroup_name: Option<String>,
    /// Its number in the innermost pid namespace that it is in; the same as `pid` outside of containers.
    pub ns_pid: Option<u32>,
}

impl ProcessFacts {
    /// Reads them; `None` if there is no such process (any more).
    pub fn read(pid: u32) -> Option<Self> {
        let stat = read_stat(pid)?;
        Some(Self {
            pid,
            comm: comm(pid)?,
            exe: fs::read_link(format!("/proc/{pid}/exe")).ok(),
            parent: u32::try_from(stat.ppid).unwrap_or(0),
            threads: threads(pid),
            limits_bytes: limits(pid),
            cgroup: CgroupPaths::of(pid),
            cgroup_name: group::name_of(pid),
            ns_pid: ns_pid(&format!("/proc/{pid}/status")),
        })
    }

    /// The manifest's entry; `how` as documented there. Build ids and Go's version are the symboliser's.
    pub fn to_target(&self, how: impl Into<String>) -> Target {
        Target {
            pid: self.pid,
            how: how.into(),
            comm: Some(self.comm.clone()),
            exe: self.exe.as_ref().map(|p| p.to_string_lossy().into_owned()),
            limits_bytes: self.limits_bytes.clone(),
            cgroup: self.cgroup_name.clone(),
            ns_pid: self.ns_pid,
            ..Target::default()
        }
    }
}

/// A process that was asked for, and what has to be said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The process.
    pub facts: ProcessFacts,
    /// For example that a thread id was given and its process taken.
    pub note: Option<String>,
}

/// The process with this pid; a thread id is taken as its process, with a note.
///
/// # Errors
/// If there is none, it has no user memory, or it is this recorder.
pub fn by_pid(pid: u32) -> Result<Found, FindError> {
    let gone = FindError::NoSuchPid { pid };
    // /proc/TID exists (unlisted) for every thread, so this finds threads too.
    let Some(stat) = read_stat(pid) else { return Err(gone) };
    let Some(group) = thread_group(pid) else { return Err(gone) };
    if group == std::process::id() {
        return Err(FindError::Ourselves { pid });
    }
    let escaped = || comm(pid).unwrap_or_default().escape_debug().to_string();
    if stat.flags & PF_KTHREAD != 0 {
        return Err(FindError::KernelThread { pid, comm: escaped() });
    }
    // A process whose main thread has ended lives on in its other threads; its main thread looks like a zombie then.
    if stat.state == 'Z' && threads(group).len() < 2 {
        return Err(FindError::Zombie { pid, comm: escaped() });
    }
    let note = (group != pid).then(|| format!("{pid} is a thread of process {group}: recording the whole process"));
    match ProcessFacts::read(group) {
        Some(facts) => Ok(Found { facts, note }),
        None => Err(gone),
    }
}

/// All processes whose main thread has this name, in ascending order of pid; never this recorder.
///
/// A longer name than the kernel keeps (15 bytes) is compared by its first 15 bytes.
///
/// # Errors
/// If there is none; the hint names processes with a similar name or executable.
pub fn by_comm(name: &str) -> Result<Vec<ProcessFacts>, FindError> {
    let wanted = &name.as_bytes()[..name.len().min(15)];
    let matches =
        |pid: &u32| fs::read(format!("/proc/{pid}/comm")).is_ok_and(|c| c.strip_suffix(b"\n").unwrap_or(&c) == wanted);
    let found = all(|pid| matches(&pid));
    if found.is_empty() {
        return Err(FindError::NoSuchComm { name: name.to_owned(), hint: similar(name) });
    }
    Ok(found)
}

/// All processes that fit, in ascending order of pid; never this recorder, threads of the kernel or zombies.
pub(crate) fn all(mut fits: impl FnMut(u32) -> bool) -> Vec<ProcessFacts> {
    all_pids().into_iter().filter(|pid| fits(*pid)).filter_map(user_process).collect()
}

/// The number in the innermost pid namespace, of a status file: the last one of the line (since Linux 4.1).
pub(crate) fn ns_pid(status: &str) -> Option<u32> {
    let text = fs::read(status).ok()?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|l| l.strip_prefix("NSpid:"))?
        .split_whitespace()
        .last()?
        .parse()
        .ok()
}

/// Living descendants of `pid` (children, their children, …) in ascending order, without `pid` itself.
///
/// A snapshot: a process that forks meanwhile may have children that are not in it.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for child in all_pids() {
        if let Some(parent) = read_stat(child).and_then(|s| u32::try_from(s.ppid).ok()) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = BTreeSet::new();
    let mut queue = vec![pid];
    while let Some(parent) = queue.pop() {
        // A pid reused while /proc was read could close a circle: take each one once.
        queue.extend(children.get(&parent).into_iter().flatten().filter(|c| **c != pid && found.insert(**c)));
    }
    found.into_iter().collect()
}

fn user_process(pid: u32) -> Option<ProcessFacts> {
    let stat = read_stat(pid)?;
    let usable = pid != std::process::id() && stat.flags & PF_KTHREAD == 0 && stat.state != 'Z';
    if usable { ProcessFacts::read(pid) } else { None }
}

pub(crate) fn all_pids() -> Vec<u32> {
    numeric_entries(Path::new("/proc"))
}

fn numeric_entries(dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut numbers: Vec<u32> =
        entries.flatten().filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok())).collect();
    numbers.sort_unstable();
    numbers
}

fn comm(pid: u32) -> Option<String> {
    read_name(Path::new(&format!("/proc/{pid}/comm")))
}

fn read_name(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned())
}

fn threads(pid: u32) -> Vec<(u32, String)> {
    let dir = PathBuf::from(format!("/proc/{pid}/task"));
    let name = |tid: u32| Some((tid, read_name(&dir.join(tid.to_string()).join("comm"))?));
    numeric_entries(&dir).into_iter().filter_map(name).collect()
}

fn thread_group(tid: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    String::from_utf8_lossy(&status).lines().find_map(|l| l.strip_prefix("Tgid:"))?.trim().parse().ok()
}

fn limits(pid: u32) -> BTreeMap<String, u64> {
    let parsed = fs::read(format!("/proc/{pid}/limits")).ok().and_then(|b| Limits::from_buf_read(&b[..]).ok());
    let Some(l) = parsed else { return BTreeMap::new() };
    let named: [(&str, Limit); 3] =
        [("RLIMIT_AS", l.max_address_space), ("RLIMIT_DATA", l.max_data_size), ("RLIMIT_MEMLOCK", l.max_locked_memory)];
    let finite = named.into_iter().filter_map(|(name, limit)| match limit.soft_limit {
        LimitValue::Value(bytes) => Some((name.to_owned(), bytes)),
        LimitValue::Unlimited => None,
    });
    finite.collect()
}

/// Names that somebody who mistyped may have meant: the same executable, or one name within the other.
fn similar(name: &str) -> String {
    let lower = name.to_lowercase();
    let base = Path::new(name).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let close = |f: &ProcessFacts| {
        let comm = f.comm.to_lowercase();
        let exe = f.exe.as_ref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
        (!comm.is_empty() && (lower.contains(&comm) || comm.contains(&lower))) || exe.is_some_and(|e| e == base)
    };
    let names: Vec<String> = all_pids()
        .into_iter()
        .filter_map(user_process)
        .filter(close)
        .take(5)
        .map(|f| format!("{} ({})", f.pid, f.comm.escape_debug()))
        .collect();
    if names.is_empty() {
        "see the names with `ps -eo pid,comm`, or give --pid".to_owned()
    } else {
        format!("close ones are {}", names.join(", "))
    }
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
