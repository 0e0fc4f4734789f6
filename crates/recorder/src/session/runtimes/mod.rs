//! The language runtimes among the targets: finds their binaries, has the probes attached to each once, reads settings.

mod follow;
mod go;
mod jvm;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use mtrace_formats::tables::RuntimeKind;

pub(crate) use go::GoPlaces;
pub(super) use go::has_stw_reason;
pub(super) use jvm::LIBRARY as JVM_LIBRARY;
pub(super) use settings::rows as settings_of;

use super::Loaded;

/// Device and inode.
type Key = (u64, u64);

/// What is known of the runtimes of a recording.
#[derive(Default)]
pub(crate) struct Runtimes {
    /// Files that were looked at; `None` for one that is no runtime's.
    known: BTreeMap<Key, Option<Known>>,
    /// Runtimes that a target has run.
    ran: BTreeSet<RuntimeKind>,
    /// Files that could not be understood, of which nobody knows whether they are a runtime's.
    unreadable: BTreeMap<RuntimeKind, BTreeSet<String>>,
}

/// A binary that the probes are attached to.
#[derive(Clone)]
struct Known {
    kind: RuntimeKind,
    version: Option<String>,
}

/// A runtime found in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: RuntimeKind,
    pub(crate) version: Option<String>,
    /// JVM: path of its library, as the process sees it.
    pub(crate) library: Option<String>,
    /// True if its probes were attached now, not before.
    pub(crate) new: bool,
}

impl Runtimes {
    /// Attaches the probes to what the process runs. `from_exec`: it has just exec'd, and a JVM loads its library later.
    pub(crate) fn look_at(&mut self, probes: &mut [Loaded], pid: u32, from_exec: bool) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        found.extend(self.go_program(probes, pid));
        found.extend(self.jvm_of(probes, pid, from_exec));
        self.ran.extend(found.iter().map(|f| f.kind));
        found
    }

    /// A process has mapped a JVM's library.
    pub(crate) fn library_mapped(&mut self, probes: &mut [Loaded], pid: u32) -> Option<Found> {
        let found = self.jvm_of(probes, pid, false);
        self.ran.extend(found.iter().map(|f| f.kind));
        found
    }

    /// Attaches to a file that will perhaps be executed.
    pub(crate) fn look_ahead(&mut self, probes: &mut [Loaded], path: &Path) {
        self.attach_go(probes, path);
        if let Some(library) = jvm::beside(path) {
            self.attach_jvm(probes, &library);
        }
    }

    /// True if a target has run it.
    pub(crate) fn ran(&self, kind: RuntimeKind) -> bool {
        self.ran.contains(&kind)
    }

    /// Files that could not be understood.
    pub(crate) fn unreadable(&self, kind: RuntimeKind) -> impl Iterator<Item = &String> {
        self.unreadable.get(&kind).into_iter().flatten()
    }

    fn cannot_read(&mut self, kind: RuntimeKind, what: String) {
        self.unreadable.entry(kind).or_default().insert(what);
    }
}

fn open(path: &Path) -> Option<(File, Key)> {
    // Not one that blocks: the path may be somebody else's.
    let file = crate::symbols::open_regular(path).ok()?;
    let key = file.metadata().ok().map(|m| (m.dev(), m.ino()))?;
    Some((file, key))
}
