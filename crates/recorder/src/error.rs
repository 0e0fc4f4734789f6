//! Why a recording could not begin.

use std::io;
use std::path::PathBuf;

use crate::target::find::FindError;
use crate::target::launch::LaunchError;

/// What kind of failure it was, for an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The process asked for does not exist or has no user memory.
    NoSuchTarget,
    /// The command cannot be executed.
    CannotExecute,
    /// The kernel refused: not root, a capability is missing, lockdown, seccomp.
    NotPermitted,
    /// The kernel has no BTF, which the probes need.
    NoBtf,
    /// The capture could not be written.
    Output,
    /// Another request to the kernel failed.
    Kernel,
}

/// Why a recording could not begin, or could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such process.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The command cannot be executed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The capture cannot be written.
    #[error(transparent)]
    Output(#[from] mtrace_formats::Error),
    /// The way to the output is somebody else's.
    #[error(
        "`{}` would be written through `{}`, a symbolic link that user {owner} put where everybody may write; name a \
         path without it with -o (nothing was written)",
        output.display(), link.display()
    )]
    UntrustedOutput {
        /// As given.
        output: PathBuf,
        /// The link.
        link: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The kernel refused.
    #[error("{what}; {next}")]
    NotPermitted {
        /// What was refused.
        what: String,
        /// What to do next.
        next: &'static str,
    },
    /// `/sys/kernel/btf/vmlinux` is missing.
    #[error(
        "this kernel ({release}) has no BTF (`/sys/kernel/btf/vmlinux` is missing); boot a kernel built with \
         CONFIG_DEBUG_INFO_BTF, as the distributions' kernels are since 2020"
    )]
    NoBtf {
        /// `uname -r`.
        release: String,
    },
    /// A probe was named that does not exist.
    #[error("there is no probe `{name}`; there are: {known}")]
    NoSuchProbe {
        /// As given.
        name: String,
        /// All names.
        known: String,
    },
    /// A trigger of the flight recorder that cannot fire here.
    #[error("trigger `{trigger}` cannot fire here: {what}; {next}")]
    Trigger {
        /// As given.
        trigger: String,
        /// What is missing.
        what: String,
        /// What to do next.
        next: &'static str,
    },
    /// Another request failed.
    #[error("failed to {action}: {source}")]
    Kernel {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// The kind, for an exit code.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Find(_) => ErrorKind::NoSuchTarget,
            Self::Launch(_) => ErrorKind::CannotExecute,
            Self::Output(_) | Self::UntrustedOutput { .. } => ErrorKind::Output,
            Self::NotPermitted { .. } => ErrorKind::NotPermitted,
            Self::NoBtf { .. } => ErrorKind::NoBtf,
            Self::NoSuchProbe { .. } | Self::Trigger { .. } | Self::Kernel { .. } => ErrorKind::Kernel,
        }
    }
}

/// Turns libbpf's error into ours; a refusal is told apart because the remedy differs.
pub(crate) fn kernel(action: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Error {
    move |e| {
        if e.kind() == libbpf_rs::ErrorKind::PermissionDenied {
            return Error::NotPermitted {
                what: format!("the kernel refused to {action}: {e}"),
                next: "run as root (sudo), or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE; see `mtrace doctor`",
            };
        }
        Error::Kernel { action, source: io::Error::other(e.to_string()) }
    }
}
