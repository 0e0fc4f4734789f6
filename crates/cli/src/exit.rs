//! Exit codes; `mtrace --help` and README list them.

use std::fmt;

/// What the process exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Done.
    Success = 0,
    /// A file could not be read or written (absent, damaged, not writable, disk full).
    Input = 1,
    /// The command line is wrong (clap exits with it, too).
    Usage = 2,
    /// The target does not exist or cannot be executed.
    #[cfg_attr(not(feature = "record"), allow(dead_code))]
    Target = 3,
    /// This host or user cannot record: no root, no BTF, BPF refused.
    #[cfg_attr(not(feature = "record"), allow(dead_code))]
    Host = 4,
    /// Done, but something is missing from the result (rows lost, segments skipped); what there is was written.
    Partial = 5,
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) code: Code,
    /// One clear message: what, where, what next.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<mtrace_formats::Error> for Failure {
    fn from(e: mtrace_formats::Error) -> Self {
        Self::new(Code::Input, e)
    }
}
