//! Loads and attaches every probe and takes them out again: what `mtrace doctor` says rests on this, not on versions.

use mtrace_formats::capture::ProbeReport;

use super::runtimes::Runtimes;
use super::start::load_all;
use crate::host::HostFacts;
use crate::plan::plan;
use crate::ring::{MAX_TARGETS, SharedMaps};
use crate::target::rule::Rule;
use crate::{FaultMode, error::Error};

/// Room enough for what nobody fills: no process is a target.
const RING_BYTES: usize = 256 << 10;

/// What each probe can do on this host.
///
/// # Errors
/// If nothing can be loaded at all.
pub(crate) fn trial(facts: &HostFacts) -> Result<Vec<ProbeReport>, Error> {
    let plan = plan(facts, &[], FaultMode::default())?;
    let shared = SharedMaps::create(RING_BYTES, MAX_TARGETS)?;
    let (probes, mut reports) = load_all(plan, FaultMode::default(), &shared, &Rule::Named)?;
    reports.extend(probes.iter().map(|p| p.report(&Runtimes::default())));
    Ok(reports)
}
