//! Control groups of any hierarchy, v1 and v2, and who is in them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::find::FindError;
use crate::sampler::{Mount, below, mountinfo};

/// Number of the v2 hierarchy, in /proc/PID/cgroup and in the kernel (`cgrp_dfl_root`).
const V2: u32 = 0;

/// PF_EXITING of include/linux/sched.h.
const PF_EXITING: u32 = 0x4;

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Number of its hierarchy, as in /proc/PID/cgroup.
    pub hierarchy: u32,
    /// Its number there: the inode of its folder.
    pub id: u64,
    /// Its folder.
    pub dir: PathBuf,
    /// Its name as /proc/PID/cgroup has it.
    pub name: String,
}

impl Group {
    /// The group of a folder below a mount of cgroups (`/sys/fs/cgroup/memory/docker/…`), or of a name as
    /// /proc/PID/cgroup has it (`/system.slice/a.service`).
    ///
    /// # Errors
    /// If there is none.
    pub fn find(path: &Path) -> Result<Self, FindError> {
        let hierarchies = Hierarchies::read();
        hierarchies
            .at(path)
            .or_else(|| hierarchies.named(path))
            .ok_or_else(|| FindError::NoSuchCgroup { path: path.to_path_buf(), hint: hierarchies.hint() })
    }

    /// True for what stands in a process's /proc/PID/cgroup if the process is in this group or below it.
    pub fn holds(&self, proc_cgroup: &str) -> bool {
        lines(proc_cgroup).any(|l| l.hierarchy == self.hierarchy && Path::new(l.name).starts_with(&self.name))
    }

    /// True as long as processes can enter it: a group that was made again under the same name is another one.
    pub fn exists(&self) -> bool {
        fs::metadata(&self.dir).is_ok_and(|m| m.ino() == self.id)
    }
}

/// A line of /proc/PID/cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) hierarchy: u32,
    /// Controllers with commas between, or `name=…`; empty for v2.
    pub(super) controllers: &'a str,
    pub(super) name: &'a str,
}

impl Line<'_> {
    /// Which of a process's groups is the one to call it by: the controller of memory's, else v2.
    fn rank(&self) -> u32 {
        match self.controllers {
            c if c.split(',').any(|c| c == "memory") => 0,
            "" => 1,
            _ => 2,
        }
    }
}

pub(super) fn lines(proc_cgroup: &str) -> impl Iterator<Item = Line<'_>> {
    proc_cgroup.lines().filter_map(|l| {
        let mut parts = l.splitn(3, ':');
        let hierarchy = parts.next()?.parse().ok()?;
        let controllers = parts.next()?;
        // Of a group that was removed with a process in it.
        let name = parts.next()?;
        Some(Line { hierarchy, controllers, name: name.strip_suffix(" (deleted)").unwrap_or(name) })
    })
}

/// The line of the hierarchy by which processes are called: that of the memory controller, on v1 and v2.
pub(super) fn main_line(proc_cgroup: &str) -> Option<Line<'_>> {
    lines(proc_cgroup).filter(|l| l.rank() < 2).min_by_key(Line::rank)
}

/// Number of the hierarchy by which processes are called.
pub(crate) fn main_hierarchy() -> u32 {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    main_line(&text).map_or(V2, |l| l.hierarchy)
}

/// Name of the group that a process is in, in the hierarchy by which processes are called; `None` if it is gone, or
/// about to: one that exits is back in the root groups before it is gone.
pub(crate) fn name_of(pid: u32) -> Option<String> {
    let text = text_of(pid)?;
    let stays = crate::sampler::read_stat(pid).is_some_and(|s| s.flags & PF_EXITING == 0);
    main_line(&text).filter(|_| stays).map(|l| l.name.to_owned())
}

/// /proc/PID/cgroup; a name that is not UTF-8 is replaced where it is not.
pub(super) fn text_of(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The mounts of the hierarchies.
pub(super) struct Hierarchies(Vec<(u32, u32, Mount)>);

impl Hierarchies {
    /// Those that are mounted here, in the order in which a name is looked for.
    pub(super) fn read() -> Self {
        Self::new(mountinfo(), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    fn new(mounts: Vec<Mount>, proc_cgroup: &str) -> Self {
        let known = |m: Mount| {
            let line = lines(proc_cgroup).find(|l| match m.fs_type.as_str() {
                "cgroup2" => l.hierarchy == V2,
                "cgroup" => {
                    l.hierarchy != V2 && l.controllers.split(',').all(|c| m.super_options.iter().any(|o| o == c))
                }
                _ => false,
            })?;
            Some((line.rank(), line.hierarchy, m))
        };
        let mut found: Vec<_> = mounts.into_iter().filter_map(known).collect();
        found.sort_by_key(|(rank, ..)| *rank);
        Self(found)
    }

    /// The group of a folder.
    fn at(&self, path: &Path) -> Option<Group> {
        let path = fs::canonicalize(path).ok()?;
        // The innermost mount: v1 hierarchies lie below a tmpfs, and v2 may lie below v1's.
        let holds = |m: &&(u32, u32, Mount)| path.starts_with(&m.2.mount_point);
        let (_, hierarchy, mount) =
            self.0.iter().filter(holds).max_by_key(|(.., m)| m.mount_point.components().count())?;
        let name = mount.root.join(path.strip_prefix(&mount.mount_point).ok()?);
        Self::group(*hierarchy, path, &name)
    }

    fn named(&self, name: &Path) -> Option<Group> {
        self.0.iter().find_map(|(_, hierarchy, _)| self.of(*hierarchy, name))
    }

    /// The group of this name in a hierarchy.
    pub(super) fn of(&self, hierarchy: u32, name: &Path) -> Option<Group> {
        let name = Path::new("/").join(name);
        let mut mounts = self.0.iter().filter(|(_, h, _)| *h == hierarchy);
        mounts.find_map(|(.., m)| Self::group(hierarchy, below(m, &name)?, &name))
    }

    fn group(hierarchy: u32, dir: PathBuf, name: &Path) -> Option<Group> {
        let found = fs::metadata(&dir).ok().filter(fs::Metadata::is_dir)?;
        // A joined path ends in a slash for the root of a mount.
        let name: PathBuf = name.components().collect();
        Some(Group { hierarchy, id: found.ino(), dir, name: name.to_string_lossy().into_owned() })
    }

    fn hint(&self) -> String {
        match self.0.first() {
            None => "no cgroup hierarchy is mounted here; in a container mount the host's /sys/fs/cgroup".to_owned(),
            Some((.., m)) => format!(
                "name its folder below `{}`, or its name in /proc/PID/cgroup of a process in it",
                m.mount_point.display()
            ),
        }
    }

    /// The hierarchies by which a process may be called, best first, of its lines.
    pub(super) fn best_first<'a>(proc_cgroup: &'a str) -> Vec<Line<'a>> {
        let mut all: Vec<Line<'a>> = lines(proc_cgroup).collect();
        all.sort_by_key(Line::rank);
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const V1: &str = "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/x\n0::/y\n";

    fn mount(fs_type: &str, at: &str, root: &str, options: &[&str]) -> Mount {
        Mount {
            root: root.into(),
            mount_point: at.into(),
            fs_type: fs_type.to_owned(),
            super_options: options.iter().map(|o| (*o).to_owned()).collect(),
        }
    }

    #[test]
    fn a_process_is_called_by_its_group_of_the_memory_controller() {
        assert_eq!(main_line(V1).unwrap().name, "/docker/ab");
        assert_eq!(main_line("1:name=systemd:/x\n0::/y\n").unwrap().name, "/y");
        assert_eq!(main_line("0::/y (deleted)\n").unwrap().name, "/y");
        assert!(main_line("").is_none() && main_line("garbage\n::\n").is_none());
    }

    #[test]
    fn a_group_holds_what_is_in_it_and_below_and_nothing_else() {
        let group = |name: &str| Group { hierarchy: 4, id: 1, dir: "/".into(), name: name.to_owned() };
        for (name, held) in [("/docker", true), ("/docker/ab", true), ("/", true), ("/dock", false), ("/y", false)] {
            assert_eq!(group(name).holds(V1), held, "{name}");
        }
    }

    #[test]
    fn mounts_are_paired_with_their_hierarchies_memory_first() {
        let mounts = vec![
            mount("tmpfs", "/sys/fs/cgroup", "/", &[]),
            mount("cgroup2", "/sys/fs/cgroup/unified", "/", &["rw"]),
            mount("cgroup", "/sys/fs/cgroup/cpu", "/", &["rw", "cpu", "cpuacct"]),
            mount("cgroup", "/sys/fs/cgroup/memory", "/", &["rw", "memory"]),
            mount("cgroup", "/sys/fs/cgroup/systemd", "/", &["rw", "name=systemd"]),
        ];
        let numbers: Vec<u32> = Hierarchies::new(mounts, V1).0.iter().map(|(_, h, _)| *h).collect();
        assert_eq!(numbers, [4, 0, 3, 1]);
    }

    #[test]
    fn the_groups_of_this_host_are_found_by_folder_and_by_name() {
        let text = text_of(std::process::id()).unwrap();
        let Some(line) = main_line(&text).filter(|l| !l.name.contains("..")) else { return };
        let Some(by_name) = Hierarchies::read().of(line.hierarchy, Path::new(line.name)) else { return };
        let by_dir = Group::find(&by_name.dir).unwrap();
        assert_eq!(by_name, by_dir);
        assert!(by_dir.holds(&text) && by_dir.exists());
        let e = Group::find(Path::new("/no/such/group")).unwrap_err().to_string();
        assert!(e.contains("/no/such/group"), "{e}");
    }
}
