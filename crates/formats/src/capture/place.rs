//! The capture's directory, by what it is and not by what it is called.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A directory that is held open. What is written goes into this very directory: whoever may write to the folder that it
/// lies in can rename it and put a symbolic link in its place, and the link would lead a recorder that runs as root
/// wherever they like. Only Linux has such a way; elsewhere the name is followed.
#[derive(Debug)]
pub struct Place {
    name: PathBuf,
    way: PathBuf,
    /// What `way` leads through.
    _directory: Option<File>,
}

impl Place {
    /// The directory `name`, which was just made.
    ///
    /// # Errors
    /// [`Error::Io`] if something else has its name already.
    pub(super) fn open(name: &Path) -> Result<Self> {
        let by_name = |directory| Self { name: name.to_path_buf(), way: name.to_path_buf(), _directory: directory };
        let Some((way, directory)) = way_to(name).map_err(|e| Error::io("open", name, e))? else {
            return Ok(by_name(None));
        };
        Ok(Self { way, ..by_name(Some(directory)) })
    }

    /// What it was called when it was made, or renamed by us.
    pub fn name(&self) -> &Path {
        &self.name
    }

    pub(super) fn renamed(&mut self, name: &Path) {
        if self.way == self.name {
            self.way = name.to_path_buf();
        }
        self.name = name.to_path_buf();
    }

    /// The path by which something in it is opened.
    pub fn join(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.way.join(inside)
    }

    /// The error with the directory's name instead of the way to it.
    pub fn named(&self, mut e: Error) -> Error {
        if let Error::Io { path, .. } = &mut e
            && let Ok(inside) = path.strip_prefix(&self.way)
        {
            *path = self.name.join(inside);
        }
        e
    }
}

/// The way through the open directory, where there is one.
#[cfg(target_os = "linux")]
fn way_to(name: &Path) -> std::io::Result<Option<(PathBuf, File)>> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    let directory = File::open(name)?;
    let (opened, there) = (directory.metadata()?, fs::symlink_metadata(name)?);
    let is_same = (opened.dev(), opened.ino()) == (there.dev(), there.ino());
    if !opened.is_dir() || !is_same {
        return Err(std::io::Error::other("something else has taken its name"));
    }
    let way = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    // Without /proc there is no way but the name.
    let leads_there = fs::metadata(&way).is_ok_and(|m| (m.dev(), m.ino()) == (opened.dev(), opened.ino()));
    Ok(leads_there.then_some((way, directory)))
}

#[cfg(not(target_os = "linux"))]
fn way_to(_: &Path) -> std::io::Result<Option<(PathBuf, File)>> {
    Ok(None)
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_takes_the_name_of_the_directory_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (name, theirs) = (dir.path().join("a.mtrace"), dir.path().join("theirs"));
        fs::create_dir(&name).unwrap();
        fs::create_dir(&theirs).unwrap();
        let place = Place::open(&name).unwrap();
        fs::rename(&name, dir.path().join("moved")).unwrap();
        symlink(&theirs, &name).unwrap();
        fs::write(place.join("row"), "x").unwrap();
        assert!(dir.path().join("moved/row").exists());
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
        let e = place.named(Error::io("open", &place.join("row"), std::io::Error::other("x")));
        assert!(e.to_string().contains("a.mtrace/row"), "{e}");
        // A link from the beginning on is refused.
        Place::open(&name).unwrap_err();
    }
}
