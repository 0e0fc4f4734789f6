//! The one error type of this crate: it names the file, what was expected, what was found and what to do next.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a capture could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operating system call on a file failed.
    #[error("failed to {action} `{}`: {source}{hint}", path.display())]
    Io {
        /// What was attempted, in the infinitive: "create", "read", "rename".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
        /// What to do next; starts with "; " or is empty.
        hint: &'static str,
    },
    /// There is no capture where one was expected.
    #[error("`{}` is not a capture: {found}; expected {expected}", path.display())]
    NotACapture {
        /// The path that was given.
        path: PathBuf,
        /// What is there instead.
        found: String,
        /// What a capture looks like.
        expected: &'static str,
    },
    /// The capture was written by a version of mtrace that this one cannot read.
    #[error(
        "`{}` has schema version {found}, this mtrace reads {supported}; {next}",
        path.display()
    )]
    Version {
        /// The manifest.
        path: PathBuf,
        /// The version in the manifest.
        found: String,
        /// The versions that can be read.
        supported: String,
        /// What to do next.
        next: &'static str,
    },
    /// A file is damaged.
    #[error("`{}` is damaged: {what}", path.display())]
    Corrupt {
        /// The file (inside a packed capture: `PACK!entry`).
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// The output already exists.
    #[error("`{}` already exists; choose another name or remove it (nothing was overwritten)", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
}

impl Error {
    /// Wraps an [`std::io::Error`] with the action and the file, and adds advice for the causes that have one.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let hint = match source.kind() {
            K::StorageFull | K::QuotaExceeded => {
                "; free some space or write elsewhere with -o: what was closed before stays readable"
            }
            K::PermissionDenied => "; run as a user who may do this, or name another path",
            K::ReadOnlyFilesystem => "; name a path on a writable filesystem",
            K::NotFound if ["open", "read"].iter().any(|a| action.starts_with(a)) => "; check the path",
            K::NotFound => "; check the path: the folder that it is in must exist",
            _ => "",
        };
        Self::Io { action, path: path.to_path_buf(), source, hint }
    }

    /// True if the cause is that there is no space left.
    pub fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind as K;
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), K::StorageFull | K::QuotaExceeded))
    }
}
