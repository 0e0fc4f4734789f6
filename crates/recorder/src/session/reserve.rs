//! Room for the last manifest on a disk that is full.
//!
//! The room is a file with its blocks allocated, and the last manifest is written into that very file, which then takes
//! the manifest's name. Giving the space back first and writing then would fail twice over: on a full disk others wait
//! for free space as well, and a file that a child has inherited keeps its space after it was closed and removed here.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use mtrace_formats::capture::{CaptureWriter, Manifest, Place};
use mtrace_formats::{Error, Result};

/// Beside twice the manifest as it is: the first segments, targets and problems of a recording that just began.
const SLACK_BYTES: u64 = 64 * 1024;

/// A file that holds disk space until the manifest is written into it.
#[derive(Debug)]
pub(crate) struct Reserve {
    place: Arc<Place>,
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Reserve {
    /// Makes the file, in the capture's directory, with room for the manifest of a short recording.
    ///
    /// # Errors
    /// If there is no such room; then nothing is left.
    pub(crate) fn new(place: &Arc<Place>) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = place.join("reserve.tmp");
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| place.named(Error::io("create", &path, e)))?;
        let mut reserve = Self { place: Arc::clone(place), path, file, bytes: 0 };
        reserve.hold(SLACK_BYTES)?;
        Ok(reserve)
    }

    /// Takes room for a manifest that grows out of this one: what is held is always more than what will be written.
    ///
    /// # Errors
    /// If there is no such room; what was held is held still.
    pub(crate) fn follow(&mut self, manifest: &Manifest) -> Result<()> {
        self.hold(manifest.to_json()?.len() as u64 * 2 + SLACK_BYTES)
    }

    /// Takes room for exactly this manifest and the last segments of all tables, which it does not list yet.
    ///
    /// # Errors
    /// As [`Reserve::follow`].
    pub(crate) fn fit(&mut self, manifest: &Manifest) -> Result<()> {
        const LISTED_SEGMENT_BYTES: usize = 256;
        let segments = mtrace_formats::tables::ALL.len() * LISTED_SEGMENT_BYTES;
        self.hold((manifest.to_json()?.len() + segments) as u64)
    }

    fn hold(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        allocate(&self.file, self.bytes, bytes)
            .map_err(|e| self.place.named(Error::io("keep room for the manifest in", &self.path, e)))?;
        self.bytes = bytes;
        Ok(())
    }

    /// Puts the manifest on disk in the room that was kept for it.
    ///
    /// # Errors
    /// If it could not be written, neither into the room nor beside it; the previous manifest stays.
    pub(crate) fn spend(self, writer: &CaptureWriter, manifest: &Manifest) -> Result<()> {
        let Err(e) = writer.write_manifest_into(manifest, &self.file, &self.path) else { return Ok(()) };
        // A filesystem that writes elsewhere than it allocated. What the room took may be what is missing.
        let _ = self.file.set_len(0);
        writer.write_manifest(manifest).map_err(|_| e)
    }
}

impl Drop for Reserve {
    /// Absent if it became the manifest.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Allocates the blocks of a file from `held` up to `bytes`.
fn allocate(file: &File, held: u64, bytes: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    loop {
        // SAFETY: the descriptor is ours and open.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => {}
            e if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => break,
            e => return Err(e),
        }
    }
    // Zeroes take room on every filesystem.
    let mut file = file;
    file.seek(SeekFrom::Start(held))?;
    io::copy(&mut io::Read::take(io::repeat(0), bytes - held), &mut file)?;
    file.flush()?;
    file.sync_data()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mtrace_formats::capture::{Capture, Problem, State};

    #[test]
    fn the_room_becomes_the_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let writer = CaptureWriter::create(&dir.path().join("a.mtrace")).unwrap();
        let mut manifest = Manifest::default();
        let mut reserve = Reserve::new(writer.place()).unwrap();
        reserve.follow(&manifest).unwrap();
        let held = std::fs::metadata(writer.dir().join("reserve.tmp")).unwrap().len();
        manifest.problems.push(Problem { ts: None, what: "x".repeat(50_000) });
        manifest.state = State::Complete;
        reserve.fit(&manifest).unwrap();
        assert_eq!(std::fs::metadata(writer.dir().join("reserve.tmp")).unwrap().len(), held, "the slack is enough");
        reserve.spend(&writer, &manifest).unwrap();
        assert_eq!(Capture::open(writer.dir()).unwrap().manifest, manifest);
        let names: Vec<_> = std::fs::read_dir(writer.dir()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["manifest.json"], "nothing else is left");
    }

    #[test]
    fn a_room_that_is_not_used_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let writer = CaptureWriter::create(&dir.path().join("a.mtrace")).unwrap();
        let mut reserve = Reserve::new(writer.place()).unwrap();
        reserve.follow(&Manifest::default()).unwrap();
        assert_eq!(std::fs::read_dir(writer.dir()).unwrap().count(), 1);
        drop(reserve);
        assert_eq!(std::fs::read_dir(writer.dir()).unwrap().count(), 0);
    }
}
