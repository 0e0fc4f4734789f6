//! HotSpot's library, wherever a target has it from.

use std::path::{Path, PathBuf};

use mtrace_formats::tables::{RuntimeKind, SnapshotReason};

use super::{Found, Key, Known, Runtimes, open};
use crate::session::Loaded;
use crate::snapshots;
use crate::symbols::open_regular;

/// Name of the library.
pub(in crate::session) const LIBRARY: &str = "libjvm.so";
/// From the folder of the `java` launcher to the library, in every JDK since 9.
const FROM_LAUNCHER: &str = "../lib/server/libjvm.so";
/// From the library's folder to the file that names the release.
const RELEASE: &str = "../../release";
const MAX_RELEASE_BYTES: u64 = 64 << 10;

/// A library: where to open it, and as what its process knows it.
struct Library {
    live: PathBuf,
    path: String,
}

impl Runtimes {
    /// Attaches to the JVM of a process, if it has one or will have one.
    pub(super) fn jvm_of(&mut self, probes: &mut [Loaded], pid: u32, from_exec: bool) -> Option<Found> {
        let library = if from_exec { of_launcher(pid)? } else { mapped(pid)? };
        let (key, new) = self.attach_jvm(probes, &library.live)?;
        let release = Path::new(&library.path).parent()?.join(RELEASE);
        let release = Path::new(&format!("/proc/{pid}/root")).join(release.strip_prefix("/").unwrap_or(&release));
        let known = self.known.get_mut(&key)?.as_mut()?;
        known.version = known.version.take().or_else(|| version_in(&release));
        Some(Found { kind: RuntimeKind::Jvm, version: known.version.clone(), library: Some(library.path), new })
    }

    /// The file's key, and whether it is attached to since this call.
    pub(super) fn attach_jvm(&mut self, probes: &mut [Loaded], library: &Path) -> Option<(Key, bool)> {
        let (_, key) = open(library)?;
        if self.known.contains_key(&key) {
            return Some((key, false));
        }
        self.known.insert(key, Some(Known { kind: RuntimeKind::Jvm, version: None }));
        probes.iter_mut().for_each(|p| p.attach_jvm(library));
        Some((key, true))
    }
}

/// The library of the JDK that this launcher belongs to.
pub(super) fn beside(launcher: &Path) -> Option<PathBuf> {
    let launcher = launcher.canonicalize().ok()?;
    Some(launcher.parent()?.join(FROM_LAUNCHER)).filter(|l| l.is_file())
}

/// The library that a process will load whose executable is a launcher.
fn of_launcher(pid: u32) -> Option<Library> {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let dir = exe.parent()?.parent()?;
    let path = dir.join(FROM_LAUNCHER.trim_start_matches("../"));
    let live = Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").ok()?);
    live.is_file().then(|| Library { live, path: path.to_string_lossy().into_owned() })
}

/// The library that a process has loaded.
fn mapped(pid: u32) -> Option<Library> {
    let rows = snapshots::take(pid, SnapshotReason::Attach)?;
    let mapping = snapshots::executable_mappings(&rows)
        .into_iter()
        .find(|m| m.path.file_name().is_some_and(|name| name == LIBRARY))?;
    let candidates = [mapping.live_path(pid), mapping.path_in_root(pid)];
    let live = candidates.into_iter().find(|p| open(p).is_some())?;
    Some(Library { live, path: mapping.path.to_string_lossy().into_owned() })
}

/// The version in the file `release` of a JDK or JRE.
fn version_in(release: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    open_regular(release).ok()?.take(MAX_RELEASE_BYTES).read_to_string(&mut text).ok()?;
    version_of(&text)
}

fn version_of(release: &str) -> Option<String> {
    let value = |key: &str| {
        let line = release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
        let value = line.trim().trim_matches('"');
        let sane = |c: char| c.is_ascii_alphanumeric() || ".+-_".contains(c);
        (!value.is_empty() && value.len() <= 64 && value.chars().all(sane)).then(|| value.to_owned())
    };
    value("JAVA_RUNTIME_VERSION").or_else(|| value("JAVA_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn the_version_is_read_from_the_release_file() {
        let debian =
            "IMPLEMENTOR=\"Debian\"\nJAVA_RUNTIME_VERSION=\"17.0.15+6-Debian-1deb12u1\"\nJAVA_VERSION=\"17\"\n";
        assert_eq!(version_of(debian).as_deref(), Some("17.0.15+6-Debian-1deb12u1"));
        assert_eq!(version_of("JAVA_VERSION=\"11.0.2\"").as_deref(), Some("11.0.2"));
        for bad in ["", "JAVA_VERSION=\"\"", "JAVA_VERSION=\"a b\"", "JAVA_VERSIONS=\"1\""] {
            assert_eq!(version_of(bad), None, "{bad}");
        }
    }
}
