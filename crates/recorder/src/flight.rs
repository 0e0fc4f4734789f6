//! Settings and names of a flight recorder: what it keeps, when it writes it out, and where.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::triggers::Trigger;

/// Settings of a flight recorder.
#[derive(Debug, Clone)]
pub struct FlightOptions {
    /// Time before a trigger that a dump holds.
    pub window: Duration,
    /// Bound of what is kept on disk, dumps not counted; at least 4 MiB. It may cut the window.
    pub size_bytes: u64,
    /// When to dump.
    pub triggers: Vec<Trigger>,
    /// Recorded still after a trigger, before the dump is written.
    pub post: Duration,
    /// Dumps written at most; later triggers are only counted.
    pub max_dumps: u32,
    /// From one dump's trigger to the next one's at least; triggers before that are only counted.
    pub min_interval: Duration,
    /// The last window is written at the end of the recording, too.
    pub dump_on_exit: bool,
    /// Set by the caller to ask for a dump; taken back by the recorder.
    pub ask: Arc<AtomicBool>,
}

impl FlightOptions {
    /// The defaults for a window.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            size_bytes: 256 << 20,
            triggers: Vec::new(),
            post: Duration::from_secs(2),
            max_dumps: 10,
            min_interval: window.max(Duration::from_secs(60)),
            dump_on_exit: false,
            ask: Arc::default(),
        }
    }

    /// Time between two closings of the segments: a dump begins up to so much before its window.
    pub(crate) fn period(&self, longest: Duration) -> Duration {
        (self.window / 12).max(Duration::from_millis(250)).min(longest)
    }
}

/// A dump that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dumped {
    /// The capture.
    pub path: PathBuf,
    /// The trigger, as it was given; "end" for the window at the end.
    pub trigger: String,
    /// What fired it, in plain words.
    pub what: String,
    /// Size of its tables.
    pub bytes: u64,
}

/// Where a flight recorder writes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    folder: PathBuf,
    name: String,
}

impl Place {
    /// `DIR/NAME`, with or without `.mtrace`; in a directory that exists, or before a slash, the name is `flight`.
    pub(crate) fn of(output: &Path) -> Self {
        let ends_with_slash = output.as_os_str().as_encoded_bytes().ends_with(b"/");
        let name = output.file_name().map(|n| n.to_string_lossy().into_owned());
        match name {
            Some(name) if !ends_with_slash && !output.is_dir() => {
                let folder = output.parent().unwrap_or(Path::new("")).to_path_buf();
                Self { folder, name: name.strip_suffix(".mtrace").unwrap_or(&name).to_owned() }
            }
            _ => Self { folder: output.to_path_buf(), name: "flight".to_owned() },
        }
    }

    /// The capture that holds the window while it is recorded.
    pub(crate) fn ring(&self) -> PathBuf {
        self.folder.join(format!("{}-ring.mtrace", self.name))
    }

    /// The name of a dump; `again` tells those of the same second apart.
    pub(crate) fn dump(&self, when: SystemTime, trigger: &str, again: u32) -> PathBuf {
        let word = Trigger::word(trigger);
        let more = if again == 0 { String::new() } else { format!("-{}", again + 1) };
        self.folder.join(format!("{}-{}-{word}{more}.mtrace", self.name, utc(when)))
    }

    /// Renames the ring that a killed recorder left: it is the last that was seen. One in use stays, and then the name
    /// is taken. The answer is its new name.
    pub(crate) fn set_aside(&self) -> Result<Option<PathBuf>, Error> {
        let ring = self.ring();
        let Ok(found) = std::fs::symlink_metadata(&ring) else { return Ok(None) };
        if !found.is_dir() || lock(&ring).is_none() {
            return Ok(None);
        }
        let when = found.modified().unwrap_or(UNIX_EPOCH);
        let to = self.folder.join(format!("{}-{}-killed.mtrace", self.name, utc(when)));
        if std::fs::symlink_metadata(&to).is_ok() {
            return Ok(None);
        }
        let action = "rename the ring of a recorder that was killed";
        std::fs::rename(&ring, &to).map_err(|source| Error::Kernel { action, source })?;
        Ok(Some(to))
    }
}

/// Locks a directory for as long as the answer lives; `None` if somebody else has it.
pub(crate) fn lock(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    // SAFETY: the descriptor is open; nothing else is passed.
    (unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0).then_some(file)
}

/// `20261124T192424Z`.
fn utc(when: SystemTime) -> String {
    let secs = when.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()).cast_signed();
    // SAFETY: all zeroes is a valid tm.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals of the right type.
    unsafe { libc::gmtime_r(&raw const secs, &raw mut tm) };
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_say_when_and_why() {
        let when = UNIX_EPOCH + Duration::from_secs(1_795_548_264);
        let place = Place::of(Path::new("/var/lib/mtrace/api.mtrace"));
        assert_eq!(place.ring(), Path::new("/var/lib/mtrace/api-ring.mtrace"));
        let dump = |trigger, again| place.dump(when, trigger, again).to_string_lossy().into_owned();
        assert_eq!(dump("psi:memory.some>80%/30s", 0), "/var/lib/mtrace/api-20261124T192424Z-psi-memory.mtrace");
        assert_eq!(dump("end", 1), "/var/lib/mtrace/api-20261124T192424Z-end-2.mtrace");
        assert_eq!(Place::of(Path::new("/no/such/")).ring(), Path::new("/no/such/flight-ring.mtrace"));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Place::of(dir.path()).ring(), dir.path().join("flight-ring.mtrace"));
        assert_eq!(Place::of(Path::new("api")).ring(), Path::new("api-ring.mtrace"));
    }

    #[test]
    fn the_ring_of_a_killed_recorder_is_kept_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(&dir.path().join("api"));
        assert_eq!(place.set_aside().unwrap(), None);
        std::fs::create_dir(place.ring()).unwrap();
        let held = lock(&place.ring()).unwrap();
        assert_eq!(place.set_aside().unwrap(), None, "in use");
        drop(held);
        let aside = place.set_aside().unwrap().unwrap();
        assert!(aside.to_string_lossy().ends_with("Z-killed.mtrace") && aside.is_dir());
        assert!(!place.ring().exists());
        // Never through a link.
        std::os::unix::fs::symlink(&aside, place.ring()).unwrap();
        assert_eq!(place.set_aside().unwrap(), None);
    }

    #[test]
    fn a_period_is_a_twelfth_of_the_window_within_bounds() {
        let period = |secs| FlightOptions::new(Duration::from_secs(secs)).period(Duration::from_secs(5)).as_millis();
        assert_eq!([period(1), period(6), period(60), period(600)], [250, 500, 5000, 5000]);
    }
}
