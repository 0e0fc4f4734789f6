//! Why a command could not be started.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The argument vector is empty or holds a NUL byte.
    #[error("no usable command: {0}")]
    BadArguments(&'static str),
    /// No such file, or no such name in PATH.
    #[error("command `{}` not found: {searched}", command.to_string_lossy())]
    NotFound {
        /// As given.
        command: OsString,
        /// Where it was looked for, and what to do next.
        searched: String,
    },
    /// There is a file, and it cannot be executed.
    #[error("cannot execute `{}`: {found}", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do next.
        found: String,
    },
    /// exec(2) failed for another reason.
    #[error("failed to execute `{}`: {source}{hint}", path.display())]
    Exec {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
        /// What to do next; starts with "; " or is empty.
        hint: &'static str,
    },
    /// The child ended before its exec.
    #[error("`{}` was ended by {by} before it began to run", path.display())]
    Ended {
        /// The file.
        path: PathBuf,
        /// Signal or exit code.
        by: String,
    },
    /// A system call needed for starting failed.
    #[error("failed to {action} for `{}`: {source}", path.display())]
    System {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What an errno of exec(2) means for the file.
pub(super) fn exec_error(path: &Path, errno: Errno) -> LaunchError {
    let hint = match errno {
        Errno::ENOENT => "; the file is there, so the interpreter it names (its #! line or ELF loader) is missing",
        Errno::ENOEXEC => "; its format is not one this machine executes (empty, damaged, or another architecture)",
        Errno::EACCES => "; check the permissions of the file, its interpreter, and a noexec mount",
        Errno::E2BIG => "; the arguments and the environment are too long together",
        Errno::ETXTBSY => "; the file is open for writing",
        _ => "",
    };
    LaunchError::Exec { path: path.to_path_buf(), source: errno.into(), hint }
}
