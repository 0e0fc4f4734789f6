//! Finds the file of a command, as execvp(3) does, and says beforehand what exec(2) would say.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::error::LaunchError;

/// The file that the first word names.
pub(super) fn resolve(argv: &[OsString]) -> Result<PathBuf, LaunchError> {
    let command = argv.first().ok_or(LaunchError::BadArguments("no command was given after `--`"))?;
    if command.is_empty() {
        return Err(LaunchError::BadArguments("the command's name is empty"));
    }
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return match check(&path) {
            Check::Good => Ok(path),
            Check::Absent => Err(LaunchError::NotFound {
                command: command.clone(),
                searched: "there is no such file; check the path".to_owned(),
            }),
            Check::Bad(found) => Err(LaunchError::NotExecutable { path, found }),
        };
    }
    // execvp(3)'s default where PATH is not set.
    let list = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut bad = None;
    for dir in std::env::split_paths(&list) {
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
        let path = dir.join(command);
        match check(&path) {
            Check::Good => return Ok(path),
            Check::Bad(found) => bad = bad.or(Some(LaunchError::NotExecutable { path, found })),
            Check::Absent => {}
        }
    }
    Err(bad.unwrap_or_else(|| not_in_path(command, &list)))
}

fn not_in_path(command: &OsStr, list: &OsStr) -> LaunchError {
    let searched = if Path::new(command).is_file() {
        format!("it is not in PATH, and there is a file of this name here: write ./{}", command.to_string_lossy())
    } else {
        // sudo replaces PATH, which is the usual surprise.
        format!("not in PATH ({}); give its path (sudo has a PATH of its own)", list.to_string_lossy())
    };
    LaunchError::NotFound { command: command.to_owned(), searched }
}

enum Check {
    Good,
    Absent,
    Bad(String),
}

fn check(path: &Path) -> Check {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Check::Absent,
        Err(e) => Check::Bad(e.to_string()),
        Ok(m) if m.is_dir() => Check::Bad("it is a directory".to_owned()),
        Ok(m) if !m.is_file() => Check::Bad("it is not a regular file".to_owned()),
        Ok(m) if nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_err() => Check::Bad(format!(
            "permission denied (mode {:04o}); make it executable with chmod +x, or name its interpreter",
            m.permissions().mode() & 0o7777
        )),
        Ok(_) => Check::Good,
    }
}
