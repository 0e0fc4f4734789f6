//! By which rule running processes, and those that come later, are targets.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::container;
use super::find::{self, FindError, ProcessFacts};
use super::group::{Group, text_of};
use crate::TargetSpec;
use crate::probes::KernelRule;
use crate::ring::MAX_TARGETS;

/// Targets at a time on a whole host, or in a group.
const MAX_OF_MANY: u32 = 65_536;

/// The rule of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// None: the processes that were named or launched, and their children.
    Named,
    /// Name of the main thread.
    Comm(String),
    /// Executable.
    Exe(Exe),
    /// In one of these groups; how they were named.
    Groups(Vec<Group>, &'static str),
    /// Every process of the host but the recorder.
    All,
}

/// An executable file, which may be absent here and present in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exe {
    /// As given, made absolute.
    path: PathBuf,
    /// Where links lead.
    target: PathBuf,
    /// 0 if there is no such file here.
    inode: u64,
}

impl Rule {
    /// The rule of what was asked for.
    ///
    /// # Errors
    /// If a group or container does not exist.
    pub(crate) fn of(target: &TargetSpec) -> Result<Self, FindError> {
        Ok(match target {
            TargetSpec::Launch { .. } | TargetSpec::Pids(_) => Self::Named,
            TargetSpec::Comm(name) => Self::Comm(name.clone()),
            TargetSpec::Exe(path) => Self::Exe(Exe::new(path)),
            TargetSpec::Cgroups(paths) => {
                Self::Groups(paths.iter().map(|p| Group::find(p)).collect::<Result<_, _>>()?, "cgroup")
            }
            TargetSpec::Containers(ids) => {
                Self::Groups(ids.iter().map(|id| container::find(id)).collect::<Result<_, _>>()?, "container")
            }
            TargetSpec::All => Self::All,
        })
    }

    /// The processes that fit now.
    ///
    /// # Errors
    /// If none does and nothing says that one ever will: then a name was mistyped.
    pub(crate) fn running(&self) -> Result<Vec<ProcessFacts>, FindError> {
        match self {
            Self::Named => Ok(Vec::new()),
            Self::Comm(name) => find::by_comm(name),
            Self::Exe(exe) => match find::all(|pid| exe.is_of(pid)) {
                none if none.is_empty() && exe.inode == 0 => Err(FindError::NoSuchExe { path: exe.path.clone() }),
                found => Ok(found),
            },
            Self::Groups(groups, _) => {
                Ok(find::all(|pid| text_of(pid).is_some_and(|text| groups.iter().any(|g| g.holds(&text)))))
            }
            Self::All => Ok(find::all(|_| true)),
        }
    }

    /// How a process became a target, for the manifest.
    pub(crate) fn how(&self) -> &'static str {
        match self {
            Self::Named => "pid",
            Self::Comm(_) => "comm",
            Self::Exe(_) => "exe",
            Self::Groups(_, how) => how,
            Self::All => "all",
        }
    }

    /// Whether a process can come that is no child of a target.
    pub(crate) fn may_bring_more(&self) -> bool {
        match self {
            Self::Named => false,
            // When all are removed, and nobody is in them, nobody ever will be.
            Self::Groups(groups, _) => groups.iter().any(Group::exists),
            Self::Comm(_) | Self::Exe(_) | Self::All => true,
        }
    }

    /// Room for so many targets at a time.
    pub(crate) fn room(&self) -> u32 {
        match self {
            Self::All | Self::Groups(..) => MAX_OF_MANY,
            _ => MAX_TARGETS,
        }
    }

    /// What the kernel side needs to know.
    pub(crate) fn for_kernel(&self) -> KernelRule {
        match self {
            Self::Named => KernelRule::Nobody,
            Self::Comm(name) => KernelRule::Comm(name.as_bytes().to_vec()),
            Self::Exe(exe) => KernelRule::Exe {
                inode: exe.inode,
                name: exe.target.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default(),
                path: exe.path.as_os_str().as_bytes().to_vec(),
            },
            Self::Groups(groups, _) => KernelRule::Groups(groups.iter().map(|g| (g.hierarchy, g.id)).collect()),
            Self::All => KernelRule::All,
        }
    }
}

impl Exe {
    fn new(path: &Path) -> Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        // /proc/PID/exe leads to a file whose name may mean nothing here.
        let target = fs::canonicalize(path).or_else(|_| fs::read_link(path)).unwrap_or_else(|_| absolute.clone());
        let inode = fs::metadata(path).ok().filter(Metadata::is_file).map_or(0, |m| m.ino());
        Self { path: absolute, target, inode }
    }

    /// As the kernel side compares, and the path: of a file that was replaced since it was started.
    fn is_of(&self, pid: u32) -> bool {
        let link = format!("/proc/{pid}/exe");
        let Ok(path) = fs::read_link(&link) else { return false };
        let bytes = path.as_os_str().as_bytes();
        let path = Path::new(std::ffi::OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)));
        let same_file = || fs::metadata(&link).is_ok_and(|m| m.ino() == self.inode);
        path == self.path || path == self.target || (path.file_name() == self.target.file_name() && same_file())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_known_by_its_path_by_its_file_and_by_neither() {
        let me = std::process::id();
        let link = std::env::current_exe().unwrap();
        assert!(Exe::new(&link).is_of(me));
        assert!(Exe::new(Path::new("/proc/self/exe")).is_of(me));
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join(link.file_name().unwrap());
        fs::write(&other, "").unwrap();
        assert!(!Exe::new(&other).is_of(me));
        let symlink = dir.path().join("link");
        std::os::unix::fs::symlink(&link, &symlink).unwrap();
        assert!(Exe::new(&symlink).is_of(me));
    }

    #[test]
    fn an_executable_that_is_nowhere_is_an_error_one_that_does_not_run_is_waited_for() {
        let absent = Rule::of(&TargetSpec::Exe("/no/such/program".into())).unwrap();
        assert!(matches!(absent.running(), Err(FindError::NoSuchExe { .. })));
        let dir = tempfile::tempdir().unwrap();
        let idle = dir.path().join("idle");
        fs::write(&idle, "").unwrap();
        let idle = Rule::of(&TargetSpec::Exe(idle)).unwrap();
        assert!(idle.running().unwrap().is_empty() && idle.may_bring_more());
    }

    #[test]
    fn the_whole_host_is_everybody_but_us_and_the_kernel() {
        let all = Rule::All.running().unwrap();
        assert!(
            all.iter().all(|f| f.pid != std::process::id() && f.exe.as_ref().is_none_or(|e| !e.as_os_str().is_empty()))
        );
        assert!(!all.is_empty());
    }
}
