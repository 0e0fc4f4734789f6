//! The root directories of the targets: a process in a container has its own, and may be gone when its files are looked
//! for. One descriptor holds a root for all processes that have it, also after the last of them has ended.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Containers whose roots are held.
const MAX_ROOTS: usize = 256;

/// Roots other than the recorder's, the newest last.
#[derive(Default)]
pub(crate) struct Roots {
    held: Vec<((u64, u64), File)>,
    own: Option<(u64, u64)>,
}

impl Roots {
    /// Holds the root of a process, if it is not held already.
    pub(crate) fn keep(&mut self, pid: u32) {
        let path = format!("/proc/{pid}/root");
        let id = |path: &str| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        let Some(key) = id(&path) else { return };
        if self.own.is_none() {
            self.own = id("/");
        }
        if Some(key) == self.own || self.held.iter().any(|(held, _)| *held == key) || self.held.len() >= MAX_ROOTS {
            return;
        }
        // O_PATH: to look below it, not to read it.
        let dir = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path);
        self.held.extend(dir.ok().map(|dir| (key, dir)));
    }

    /// Opens a file in whichever root it has this inode: the recorder's, else the newest that was held.
    pub(crate) fn open(&self, path: &str, inode: u64) -> Option<File> {
        let checked = |f: File| f.metadata().is_ok_and(|m| m.is_file() && m.ino() == inode).then_some(f);
        let here = crate::symbols::open_regular(Path::new(path)).ok().and_then(checked);
        here.or_else(|| self.held.iter().rev().find_map(|(_, root)| open_below(root, path).ok().and_then(checked)))
    }
}

/// openat2(2) with RESOLVE_IN_ROOT: absolute links of the container stay within it, and `..` does not lead out.
fn open_below(root: &File, path: &str) -> io::Result<File> {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    let how = OpenHow { flags: u64::from(flags.unsigned_abs()), mode: 0, resolve: RESOLVE_IN_ROOT };
    let path = std::ffi::CString::new(path)?;
    // SAFETY: `path` ends in a NUL, `how` has the size that is given; the kernel only reads both.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<OpenHow>())
    };
    match i32::try_from(fd) {
        // SAFETY: the descriptor is new and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_found_in_a_root_by_its_inode_and_links_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("only-inside");
        std::fs::write(&file, "").unwrap();
        let inode = std::fs::metadata(&file).unwrap().ino();
        symlink("/only-inside", dir.path().join("link")).unwrap();
        symlink("../../../../../../../../etc/passwd", dir.path().join("out")).unwrap();
        let root =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir.path()).unwrap();
        let roots = Roots { held: vec![((0, 0), root)], own: None };
        assert!(roots.open("/only-inside", inode).is_some());
        assert!(roots.open("/link", inode).is_some());
        assert!(roots.open("/only-inside", inode + 1).is_none());
        assert!(open_below(&roots.held[0].1, "/out").is_err());
    }

    #[test]
    fn the_recorders_own_root_is_not_held() {
        let mut roots = Roots::default();
        roots.keep(std::process::id());
        roots.keep(u32::MAX);
        assert!(roots.held.is_empty());
    }
}
