//! Whether the way to the output can be trusted.
//!
//! The recorder runs as root and is often told to write below /tmp. A symbolic link that somebody else put there would
//! lead it, and what it writes, wherever they like. The kernel refuses to follow such links where
//! `fs.protected_symlinks` is on; this holds everywhere, and by the same rule.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;

/// As many as the kernel follows.
const MAX_LINKS: u32 = 40;
const WORLD_WRITABLE: u32 = 0o002;

/// Walks the way to the folder of `output`.
///
/// # Errors
/// If a link on it lies in a directory where everybody may write, and belongs neither to this user nor to the
/// directory's owner. What cannot be looked at is left to the calls that create the output.
pub(super) fn check_way(output: &Path) -> Result<(), Error> {
    let Ok(whole) = std::path::absolute(output) else { return Ok(()) };
    let Some(folder) = whole.parent() else { return Ok(()) };
    let me = nix::unistd::geteuid().as_raw();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let mut todo = parts(folder);
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let Ok(found) = std::fs::symlink_metadata(&next) else { return Ok(()) };
        if !found.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        let Ok(holder) = std::fs::symlink_metadata(&at) else { return Ok(()) };
        if is_foreign(&found, &holder, me) {
            return Err(Error::UntrustedOutput { output: output.to_path_buf(), link: next, owner: found.uid() });
        }
        let Ok(to) = std::fs::read_link(&next) else { return Ok(()) };
        if links > MAX_LINKS {
            return Ok(());
        }
        if to.is_absolute() {
            at = PathBuf::from("/");
        }
        for part in parts(&to).into_iter().rev() {
            todo.push_front(part);
        }
    }
    Ok(())
}

fn is_foreign(link: &Metadata, holder: &Metadata, me: u32) -> bool {
    holder.mode() & WORLD_WRITABLE != 0 && link.uid() != me && link.uid() != holder.uid()
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    /// A directory with this mode, and in it a link of this user's to a directory of ours.
    fn link_in(mode: u32, owner: u32) -> Option<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ours")).unwrap();
        let shared = dir.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(mode)).unwrap();
        symlink("../ours", shared.join("link")).unwrap();
        if lchown(shared.join("link"), Some(owner), None).is_err() {
            eprintln!("skipped: only root can give a link away");
            return None;
        }
        Some(dir)
    }

    #[test]
    fn a_link_of_somebody_else_where_everybody_may_write_is_not_followed() {
        let Some(dir) = link_in(0o1777, 12345) else { return };
        let e = check_way(&dir.path().join("shared/link/x.mtrace")).unwrap_err();
        assert!(e.to_string().contains("12345") && e.to_string().contains("shared/link"), "{e}");
        assert_eq!(e.kind(), crate::ErrorKind::Output);
        // Behind a link of ours, and by a detour.
        symlink(dir.path().join("shared/link"), dir.path().join("mine")).unwrap();
        check_way(&dir.path().join("mine/x.mtrace")).unwrap_err();
        check_way(&dir.path().join("shared/../shared/link/x.mtrace")).unwrap_err();
        // The last component is created, never followed.
        check_way(&dir.path().join("shared/link")).unwrap();
    }

    #[test]
    fn other_links_are_followed() {
        let me = nix::unistd::geteuid().as_raw();
        for (mode, owner) in [(0o1777, me), (0o755, 12345)] {
            let Some(dir) = link_in(mode, owner) else { return };
            check_way(&dir.path().join("shared/link/x.mtrace")).unwrap();
        }
        check_way(Path::new("x.mtrace")).unwrap();
        check_way(Path::new("/absent/x.mtrace")).unwrap();
        check_way(Path::new("/")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        check_way(&dir.path().join("a/x.mtrace")).unwrap();
    }
}
