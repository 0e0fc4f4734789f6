//! Room for the last manifest on a disk that is full.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// More than the manifest of a short recording takes.
const MIN_BYTES: u64 = 64 * 1024;

/// A file that holds disk space until it is released. Best effort: not every filesystem can promise space.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Reserve {
    /// Takes space in the capture's directory.
    pub(crate) fn new(capture: &Path) -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = capture.join("reserve.tmp");
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok();
        let mut reserve = Self { path, file, bytes: 0 };
        reserve.grow(MIN_BYTES);
        reserve
    }

    /// Takes more space, so that it is enough for twice the manifest as it is now.
    pub(crate) fn follow(&mut self, manifest: &Path) {
        if let Ok(m) = std::fs::metadata(manifest) {
            self.grow(m.len() * 2);
        }
    }

    fn grow(&mut self, bytes: u64) {
        let Some(file) = self.file.as_ref().filter(|_| bytes > self.bytes) else { return };
        let Ok(len) = libc::off_t::try_from(bytes) else { return };
        // SAFETY: the descriptor is ours and open.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            self.bytes = bytes;
        }
    }

    /// Gives the space back.
    pub(crate) fn release(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.release();
    }
}
