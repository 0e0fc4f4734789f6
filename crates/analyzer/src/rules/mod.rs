//! One cause per file. A rule looks at the joins and answers *found* or *ruled out*, each with its reasons.
//!
//! Adding a rule is a new file here plus one line in [`ALL`]. The doc of a rule's struct is its user documentation
//! (`docs/rules.md` is generated from it; a test fails when it is stale), so write it for the person on call: what it
//! finds, why that is bad, what it can be mistaken for, what to do.

mod common;
mod first_touch_faults;
mod fork_copies;
mod gc_pauses;
mod growth_during_gc;
mod mapping_refused;
mod memory_high_throttling;
mod mmap_lock_contention;
mod not_memory;
mod oom_kill;
mod purge_refault_churn;
mod reclaim_stalls;
mod stalls;

use std::fmt::Write as _;

use crate::context::Joined;
use crate::model::{Finding, Ledger, RuledOut};

pub(crate) use not_memory::{CODE as NOT_MEMORY, memory_ns, slower_unseen};
pub(crate) use oom_kill::CODE as OOM_KILL;

/// The registry: every rule, in the order of the rule reference.
pub const ALL: &[&dyn Rule] = &[
    &first_touch_faults::FirstTouchFaults,
    &growth_during_gc::GrowthDuringGc,
    &gc_pauses::GcPauses,
    &purge_refault_churn::PurgeRefaultChurn,
    &mapping_refused::MappingRefused,
    &reclaim_stalls::ReclaimStalls,
    &memory_high_throttling::MemoryHighThrottling,
    &mmap_lock_contention::MmapLockContention,
    &oom_kill::OomKill,
    &fork_copies::ForkCopies,
    &not_memory::NotMemory,
];

/// A cause that can be looked for.
pub trait Rule: Sync {
    /// Stable code: appears in report.json and may be matched by scripts.
    fn code(&self) -> &'static str;
    /// User documentation in Markdown.
    fn doc(&self) -> &'static str;
    /// Looks for it.
    fn check(&self, joined: &Joined) -> Outcome;
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The capture supports the cause (one finding per place in the code; never empty).
    Found(Vec<Finding>),
    /// It does not, or could not be checked: `RuledOut::checked` tells which.
    RuledOut(RuledOut),
}

/// Runs all rules.
pub fn run(joined: &Joined) -> (Vec<Finding>, Vec<RuledOut>) {
    let mut findings = Vec::new();
    let mut ruled_out = Vec::new();
    for rule in ALL {
        match rule.check(joined) {
            Outcome::Found(mut found) => findings.append(&mut found),
            Outcome::RuledOut(why) => ruled_out.push(why),
        }
    }
    findings.iter_mut().for_each(|f| f.evidence.extend(common::path_evidence(joined, f)));
    findings.sort_by(|a, b| {
        let wall = |f: &Finding| f.cost.as_ref().map_or(0, |c| c.wall_ns);
        wall(b).cmp(&wall(a)).then(b.confidence.cmp(&a.confidence)).then_with(|| a.code.cmp(&b.code))
    });
    (findings, ruled_out)
}

/// What is missing of the probes that a verdict on a window rests on, and of the requests among which it was chosen, in
/// plain words; empty if nothing is.
pub(crate) fn gaps(joined: &Joined, ledger: &Ledger) -> Vec<String> {
    let probes = ["faults", "memory_calls", "off_cpu"].iter().filter_map(|p| common::missing_text(joined, p));
    probes.chain(joined.unseen_requests(ledger.pid).iter().cloned()).collect()
}

/// The text of `docs/rules.md`.
pub fn reference_markdown() -> String {
    let mut out = "# Rules\n\nGenerated from the docs in `crates/analyzer/src/rules/`; do not edit: \
                   `mtrace rules > docs/rules.md`.\n"
        .to_owned();
    for rule in ALL {
        let doc: Vec<&str> = rule.doc().lines().map(|l| l.strip_prefix(' ').unwrap_or(l)).collect();
        let _ = write!(out, "\n## {}\n\n{}\n", rule.code(), doc.join("\n").trim());
    }
    out
}

/// Declares a rule's struct and keeps its doc as text.
macro_rules! rule {
    ($(#[doc = $doc:literal])* pub struct $Rule:ident($code:expr, $check:path);) => {
        $(#[doc = $doc])*
        pub(super) struct $Rule;
        impl $crate::rules::Rule for $Rule {
            fn code(&self) -> &'static str { $code }
            fn doc(&self) -> &'static str { concat!($($doc, "\n",)*) }
            fn check(&self, joined: &$crate::context::Joined) -> $crate::rules::Outcome { $check(joined) }
        }
    };
}
pub(crate) use rule;
