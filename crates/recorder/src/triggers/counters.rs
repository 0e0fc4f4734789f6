//! Counters of the kernel that only grow: OOM kills, and the events of memory.high and memory.max.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::psi::Refused;
use super::spec::Scope;
use crate::sampler::CgroupPaths;

/// Processes whose cgroups are looked for; the others of a large target share them.
const MAX_PROCESSES: usize = 64;
/// Looks from one search of the targets' cgroups to the next: processes rarely move.
const SEARCH_EVERY: u32 = 20;

/// Where a number stands: a file with `key value` lines, or with a number alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: &'static str,
    key: Option<&'static str>,
}

const fn keyed(file: &'static str, key: &'static str) -> Option<Place> {
    Some(Place { file, key: Some(key) })
}

/// What is counted, and where in either hierarchy.
#[derive(Debug, Clone, Copy)]
struct Event {
    what: &'static str,
    v1: Option<Place>,
    v2: Option<Place>,
}

const OOM: Event = Event {
    what: "processes killed by OOM",
    v1: keyed("memory.oom_control", "oom_kill"),
    v2: keyed("memory.events", "oom_kill"),
};
const HIGH: Event = Event { what: "times over memory.high", v1: None, v2: keyed("memory.events", "high") };
const MAX: Event = Event {
    what: "times at memory.max",
    v1: Some(Place { file: "memory.failcnt", key: None }),
    v2: keyed("memory.events", "max"),
};
const HOST_OOM: Place = Place { file: "/proc/vmstat", key: Some("oom_kill") };

pub(super) struct Watch {
    event: Event,
    /// The host's counter, or those of fixed cgroups; empty where the targets' are watched.
    fixed: Vec<(PathBuf, Option<&'static str>)>,
    /// The cgroups of the targets, where these are watched.
    found: Vec<(PathBuf, Option<&'static str>)>,
    looks: u32,
    /// The value at the last look, by file.
    last: BTreeMap<PathBuf, u64>,
}

impl Watch {
    pub(super) fn oom(scope: &Scope) -> Result<Self, Refused> {
        Self::open(OOM, scope)
    }

    pub(super) fn high(scope: &Scope) -> Result<Self, Refused> {
        Self::open(HIGH, scope)
    }

    pub(super) fn max(scope: &Scope) -> Result<Self, Refused> {
        Self::open(MAX, scope)
    }

    fn open(event: Event, scope: &Scope) -> Result<Self, Refused> {
        let fixed = match scope {
            Scope::Host => vec![(PathBuf::from(HOST_OOM.file), HOST_OOM.key)],
            Scope::Targets => Vec::new(),
            Scope::Path(cgroup) => vec![in_cgroup(event, cgroup)?],
        };
        if *scope == Scope::Targets
            && event.v1.is_none()
            && CgroupPaths::of(std::process::id()).memory_version() == Some(1)
        {
            let what = "this host's memory cgroups are of version 1, which has no memory.high".to_owned();
            return Err((what, "use memory.max, or boot with systemd.unified_cgroup_hierarchy=1"));
        }
        let mut watch = Self { event, fixed, found: Vec::new(), looks: 0, last: BTreeMap::new() };
        for (path, key) in watch.fixed.clone() {
            let now = read(&path, key).ok_or_else(|| {
                (
                    format!("`{}` has no `{}`", path.display(), key.unwrap_or("number")),
                    "the kernel is too old: 4.13 counts OOM kills",
                )
            })?;
            watch.last.insert(path, now);
        }
        Ok(watch)
    }

    /// By how much a counter has grown, if one has.
    pub(super) fn poll(&mut self, targets: &[u32]) -> Option<String> {
        if self.fixed.is_empty() && self.looks.is_multiple_of(SEARCH_EVERY) {
            self.search(targets);
        }
        self.looks = self.looks.wrapping_add(1);
        let mut grown = None;
        for (path, key) in self.fixed.iter().chain(&self.found) {
            let Some(now) = read(path, *key) else { continue };
            // A cgroup that is seen for the first time has a past of its own.
            let before = self.last.insert(path.clone(), now).unwrap_or(now);
            if now > before {
                grown.get_or_insert(format!("{} {}, by `{}`", now - before, self.event.what, path.display()));
            }
        }
        grown
    }

    /// That there is nothing to look at, if so.
    pub(super) fn note(&self) -> Option<String> {
        let nothing = self.fixed.is_empty() && self.found.is_empty();
        nothing.then(|| "no cgroup of the targets counts this: they are in none that limits memory".to_owned())
    }

    /// Looks for the cgroups of the targets. Those of targets that are gone stay: they tell why.
    fn search(&mut self, targets: &[u32]) {
        let new: Vec<_> = targets.iter().take(MAX_PROCESSES).flat_map(|pid| self.of_process(*pid)).collect();
        self.found.retain(|(path, _)| path.exists());
        self.found.extend(new);
        self.found.sort_unstable();
        self.found.dedup();
        let found = &self.found;
        self.last.retain(|path, _| self.fixed.iter().chain(found).any(|(p, _)| p == path));
    }

    fn of_process(&self, pid: u32) -> Option<(PathBuf, Option<&'static str>)> {
        let paths = CgroupPaths::of(pid);
        let at = |folder: &Option<PathBuf>, place: Option<Place>| {
            let (folder, place) = (folder.as_ref()?, place?);
            let path = folder.join(place.file);
            path.exists().then_some((path, place.key))
        };
        at(&paths.v1_memory, self.event.v1).or_else(|| at(&paths.v2, self.event.v2))
    }
}

fn in_cgroup(event: Event, cgroup: &Path) -> Result<(PathBuf, Option<&'static str>), Refused> {
    for place in [event.v2, event.v1].into_iter().flatten() {
        let path = cgroup.join(place.file);
        if path.exists() {
            return Ok((path, place.key));
        }
    }
    let what = format!("`{}` has no counter of that", cgroup.display());
    Err((what, "name the folder of a cgroup that has the memory controller (in v1 one below the memory hierarchy)"))
}

fn read(path: &Path, key: Option<&str>) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    match key {
        None => text.trim().parse().ok(),
        Some(key) => text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_grows_fires_once() {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("memory.events");
        std::fs::write(&events, "low 0\nhigh 3\nmax 0\noom 0\noom_kill 2\noom_group_kill 7\n").unwrap();
        let scope = Scope::Path(dir.path().to_path_buf());
        let (mut oom, mut high) = (Watch::oom(&scope).unwrap(), Watch::high(&scope).unwrap());
        assert_eq!((oom.poll(&[]), high.poll(&[])), (None, None));
        std::fs::write(&events, "low 0\nhigh 3\nmax 0\noom 1\noom_kill 4\noom_group_kill 7\n").unwrap();
        assert!(oom.poll(&[]).unwrap().starts_with("2 processes killed by OOM"));
        assert_eq!((oom.poll(&[]), high.poll(&[])), (None, None));
        // The cgroup is removed.
        std::fs::remove_file(&events).unwrap();
        assert_eq!(oom.poll(&[]), None);
    }

    #[test]
    fn a_folder_that_is_no_memory_cgroup_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Watch::max(&Scope::Path(dir.path().to_path_buf())).is_err());
    }

    #[test]
    fn the_hosts_counter_is_there() {
        assert!(Watch::oom(&Scope::Host).is_ok_and(|w| w.last.len() == 1));
    }
}
