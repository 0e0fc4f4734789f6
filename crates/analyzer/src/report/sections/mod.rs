//! The sections of the page, in the order in which the person on call needs them.
//!
//! A section is one file here with a template in `templates/sections/`, and one line in [`SECTIONS`].

mod address_space;
mod faults;
mod findings;
mod flame_graphs;
mod gc;
mod ledger;
mod requests;
mod resident;
mod runtimes;
mod shared;
mod timeline;
mod trust;
mod verdict;

use crate::model::Analysis;

use super::Error;
use super::escape::Html;
use super::summary;

/// All sections, in order.
pub(super) const SECTIONS: &[Section] = &[
    verdict::SECTION,
    ledger::SECTION,
    requests::SECTION,
    timeline::SECTION,
    findings::SECTION,
    flame_graphs::SECTION,
    resident::SECTION,
    address_space::SECTION,
    gc::SECTION,
    runtimes::SECTION,
    faults::SECTION,
    trust::SECTION,
];

/// A section of the page.
pub(super) struct Section {
    /// Anchor.
    pub id: &'static str,
    /// Heading and entry in the navigation.
    pub title: &'static str,
    /// Fills its template.
    pub render: fn(&Context<'_>) -> Result<Html, Error>,
}

/// What a section is made from.
pub(super) struct Context<'a> {
    /// The analysis.
    pub analysis: &'a Analysis,
    /// The moment that times are relative to.
    pub zero_ns: i64,
    /// Frames of one flame graph.
    pub flame_frames: usize,
}

impl<'a> Context<'a> {
    /// What to add to "there was none": it can have been there unseen.
    pub(super) fn unseen(&self) -> &'static str {
        let trust = &self.analysis.facts.trust;
        if trust.probes.is_empty() || trust.probes.iter().any(|p| p.status != "ran") || summary::lost_events(trust) > 0
        {
            " That is as far as was recorded: see trust for what was not."
        } else {
            ""
        }
    }

    /// Context with a limit for the frames of a flame graph.
    pub(super) fn new(analysis: &'a Analysis, flame_frames: usize) -> Self {
        Self { analysis, zero_ns: summary::zero_ns(analysis), flame_frames }
    }
}
