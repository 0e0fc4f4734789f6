//! The analysis of a capture: load → replay of the VMAs, requests → joins → rules → findings → report.
//!
//! A module never imports from a later one. Everything runs unprivileged, on any operating system, without the
//! target's binaries.

mod aggregate;
pub mod context;
mod envelope;
pub mod joins;
pub mod load;
pub mod model;
pub mod replay;
pub mod report;
pub mod requests;
pub mod rules;
pub mod symbols;
#[cfg(test)]
mod test_rows;
mod units;
mod verdict;

use mtrace_formats::capture::Capture;

use context::JoinOptions;
use model::{Analysis, REPORT_VERSION};

/// Analyses a capture: joins, rules, verdict. `step` is told what is being done.
///
/// Damage in the capture costs what it hit and is named in `trust.damage`; there is no error.
pub fn analyze(capture: &Capture, options: &JoinOptions, step: &mut dyn FnMut(&str)) -> Analysis {
    step("replaying the address spaces");
    let joined = joins::analyze_tables(capture, options);
    step("looking for causes");
    let (findings, ruled_out) = rules::run(&joined);
    let verdict = verdict::choose(&joined, &findings);
    Analysis {
        report_version: REPORT_VERSION,
        mtrace_version: env!("CARGO_PKG_VERSION").to_owned(),
        verdict,
        findings,
        ruled_out,
        facts: joined.facts,
    }
}
