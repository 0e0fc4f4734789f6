//! Files and folders that are nobody else's to read.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A name in the same folder that no other process uses.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

/// Removes a file that was given up. Its space is given back first: a child of this process may have inherited the
/// descriptor, and then the space of a removed file stays taken for as long as the child has not executed anything.
pub(super) fn remove_with_space(path: &Path) {
    // Best effort, both.
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        let _ = file.set_len(0);
    }
    let _ = fs::remove_file(path);
}

pub(super) fn create_dir_private(path: &Path) -> std::io::Result<()> {
    #[allow(unused_mut)]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// Replaces what is there; for names within a capture, whose directory nobody else can write to.
pub(super) fn create_file_private(path: &Path) -> Result<File> {
    private_file().create(true).truncate(true).open(path).map_err(|e| Error::io("create", path, e))
}

/// Never opens what is there, a symbolic link included.
pub(super) fn create_new_private(path: &Path) -> Result<File> {
    private_file().create_new(true).open(path).map_err(|e| Error::io("create", path, e))
}

pub(super) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}
