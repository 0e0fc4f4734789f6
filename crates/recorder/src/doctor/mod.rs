//! Judges the facts of [`crate::host`] for people: what this host can record, what that means, how to get the rest.
//!
//! Data only; the command line prints it. A check is one function and one line in [`CHECKS`].

mod jvms;
mod loading;
mod observing;
mod output;

use std::fmt;

use mtrace_formats::capture::{ProbeReport, ProbeStatus};

use crate::host::HostFacts;
pub use jvms::check_jvms;
pub use output::{check_output, free_bytes};

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Recording works, and something will be absent or less exact.
    Degraded,
    /// Nothing can be recorded before this is fixed.
    Missing,
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        })
    }
}

/// One judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How good it is.
    pub status: CheckStatus,
    /// What was found, as the kernel tells it.
    pub found: String,
    /// What that means for a recording.
    pub means: String,
    /// What to do about it; `None` if nothing is to be done or can be done.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>, means: impl Into<String>) -> Self {
        Self { name: name.into(), status: CheckStatus::Ok, found: found.into(), means: means.into(), fix: None }
    }

    fn bad(
        name: &str,
        status: CheckStatus,
        found: impl Into<String>,
        means: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), status, found: found.into(), means: means.into(), fix: Some(fix.into()) }
    }

    /// The result of really loading a probe, which outweighs every inference from facts.
    pub fn of_probe(report: &ProbeReport) -> Self {
        let variant = report.variant.as_deref().unwrap_or("not loaded");
        let status = match report.status {
            ProbeStatus::Ran | ProbeStatus::NotApplicable => CheckStatus::Ok,
            ProbeStatus::Partial | ProbeStatus::Absent => CheckStatus::Degraded,
        };
        Self {
            name: format!("probe {}", report.name),
            status,
            found: variant.to_owned(),
            means: match (&report.hides, status) {
                (_, CheckStatus::Ok) => "loads and attaches".to_owned(),
                (Some(hides), _) => format!("stays invisible: {hides}"),
                (None, _) => "its table will be empty or incomplete".to_owned(),
            },
            fix: report.reason.clone().filter(|_| status != CheckStatus::Ok),
        }
    }
}

/// The worst status; [`CheckStatus::Ok`] for none.
pub fn worst(checks: &[Check]) -> CheckStatus {
    checks.iter().map(|c| c.status).max().unwrap_or(CheckStatus::Ok)
}

/// A check of the facts.
type Rule = fn(&HostFacts) -> Check;

/// Every check, in the order of the list that people read: what stops everything first.
const CHECKS: &[Rule] = &[
    loading::kernel,
    loading::architecture,
    loading::privileges,
    loading::bpf,
    loading::btf,
    loading::ring_buffer,
    loading::lockdown,
    loading::pid_namespace,
    loading::perf_events,
    loading::memlock,
    observing::ptrace,
    observing::tracefs,
    observing::kernel_symbols,
    observing::cgroup,
    observing::pressure,
    observing::smaps_rollup,
];

/// Loads and attaches every probe once, records nothing, and judges what came of it; empty where the facts say already
/// that nothing can be loaded.
pub fn probes(facts: &HostFacts) -> Vec<Check> {
    crate::session::trial(facts).unwrap_or_default().iter().map(Check::of_probe).collect()
}

/// Judges the facts. Results of [`check_output`], [`check_jvms`] and [`probes`] can be appended.
pub fn diagnose(facts: &HostFacts) -> Vec<Check> {
    CHECKS.iter().map(|check| check(facts)).collect()
}

#[cfg(test)]
mod tests;
