//! Why a report could not be written.

use std::path::{Path, PathBuf};

/// Why a report could not be written. Nothing half-written stands under a final name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operating system call on a file failed.
    #[error("failed to {action} `{}`: {source}{hint}", path.display())]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
        /// What to do next; starts with "; " or is empty.
        hint: &'static str,
    },
    /// The output path is something else than a folder.
    #[error("`{}` exists and is not a folder; name another path with -o or remove it", path.display())]
    NotAFolder {
        /// The path that was given.
        path: PathBuf,
    },
    /// A template failed.
    #[error("failed to render the page: {0}")]
    Template(#[from] askama::Error),
    /// The analysis could not be written as JSON.
    #[error("failed to write the analysis as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// Wraps an [`std::io::Error`] with the action and the file, and adds advice for the causes that have one.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let hint = match source.kind() {
            K::StorageFull | K::QuotaExceeded => "; free some space or write elsewhere with -o",
            K::PermissionDenied => "; name a folder that you may write to with -o",
            K::ReadOnlyFilesystem => "; name a folder on a writable filesystem with -o",
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
