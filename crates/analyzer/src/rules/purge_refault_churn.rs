use super::common::{Doubt, main_ledger, not_checked, percent, place, probe_ran, reclaim_look_alike, ruled_out};
use super::{Outcome, common, rule};
use crate::context::Joined;
use crate::model::{
    ChurnGroup, Confidence, Cost, Evidence, Finding, Fix, LedgerCategory, LookAlike, NamedStack, TouchKind,
};
use crate::units;

const CODE: &str = "purge-refault-churn";
const CAUSE: &str = "memory given back to the kernel and touched again (purge–refault churn)";

/// Fewer refaults than this are ordinary.
const MIN_REFAULTS: u64 = 1_000;
/// Part of the given-back pages that must come back.
const MIN_RETOUCH: f64 = 0.5;

rule! {
    /// **Purge–refault churn.** The allocator or runtime gives pages back (madvise MADV_DONTNEED) and the program
    /// touches the same pages again soon after: each round costs the madvise, a page fault and the zeroing of a page.
    /// Typical: `debug.FreeOSMemory` in a loop, a memory limit close to the live heap, jemalloc with a decay of 0.
    ///
    /// *Found when* at least 1,000 faults hit pages that had been given back in the capture, and at least half of what
    /// was given back came back. It names who gave back and who touched.
    ///
    /// *Looks like*: a first-touch fault storm (there each page faults once), swapping (there the faults are major and
    /// nobody called madvise).
    ///
    /// *What to do*: give back later or less (longer decay; no FreeOSMemory; GOMEMLIMIT further from the live heap).
    pub struct PurgeRefaultChurn(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    for probe in ["faults", "memory_calls"] {
        if !probe_ran(joined, probe) {
            return Outcome::RuledOut(not_checked(CODE, CAUSE, format!("the probe `{probe}` did not run")));
        }
    }
    let found: Vec<Finding> =
        joined.facts.churn.groups.iter().filter(|g| is_churn(g)).map(|g| finding(joined, g)).collect();
    if !found.is_empty() {
        return Outcome::Found(found);
    }
    let released: u64 = joined.facts.churn.groups.iter().map(|g| g.released_pages).sum();
    let refaults: u64 = joined.facts.churn.groups.iter().map(|g| g.refaults).sum();
    Outcome::RuledOut(ruled_out(
        joined,
        CODE,
        CAUSE,
        format!("{} pages given back, {} faults on such pages", units::count(released), units::count(refaults)),
        &["faults", "memory_calls"],
    ))
}

fn retouch(g: &ChurnGroup) -> f64 {
    if g.released_pages == 0 { 0.0 } else { g.refaults as f64 / g.released_pages as f64 }
}

fn is_churn(g: &ChurnGroup) -> bool {
    g.refaults >= MIN_REFAULTS && retouch(g) >= MIN_RETOUCH
}

fn finding(joined: &Joined, g: &ChurnGroup) -> Finding {
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "faults");
    doubt.accounting(joined, "memory_calls");
    doubt.fault_coverage(joined);
    if g.rounds_per_page < 1.5 {
        doubt.at_most(Confidence::Medium, format!("a page went round {:.1} times on average only", g.rounds_per_page));
    } else {
        doubt.supported(format!("the same page went round {:.1} times on average", g.rounds_per_page));
    }
    let (confidence, confidence_reasons) = doubt.finish();
    let cost = cost(joined, g);
    let spent =
        cost.as_ref().map_or_else(String::new, |c| format!(", {} of the {}", units::duration(c.wall_ns), c.window));
    let gap = g.median_gap_ns.map_or_else(String::new, |ns| format!(", {} later in the median", units::duration(ns)));
    Finding {
        code: CODE.to_owned(),
        title: "Purge–refault churn".to_owned(),
        claim: format!(
            "{} gave back {} pages in {} calls, and {} touched them again {} times{gap}: {} in the faults, {} in madvise{spent}",
            place(g.releaser.as_ref()),
            units::count(g.released_pages),
            units::count(g.calls),
            place(g.toucher.as_ref()),
            units::count(g.refaults),
            units::duration(g.refault_ns),
            units::duration(g.madvise_ns),
        ),
        pid: g.pid,
        confidence,
        confidence_reasons,
        location: g.releaser.clone().or_else(|| g.toucher.clone()),
        evidence: evidence(g, common::page_bytes(joined)),
        against: Vec::new(),
        look_alikes: vec![
            LookAlike {
                cause: "first touch of fresh memory".to_owned(),
                observation: format!("{} of the pages given back were touched again", percent(retouch(g).min(1.0))),
                excluded: true,
            },
            reclaim_look_alike(joined),
        ],
        stacks: vec![
            NamedStack {
                title: "given back by".to_owned(),
                weight: format!("{} calls, {} pages", units::count(g.calls), units::count(g.released_pages)),
                frames: g.release_stack.clone(),
            },
            NamedStack {
                title: "touched again by".to_owned(),
                weight: format!("{} faults, {}", units::count(g.refaults), units::duration(g.refault_ns)),
                frames: g.touch_stack.clone(),
            },
        ],
        fix: Fix {
            what: format!(
                "give back later or less: look at {} (FreeOSMemory, GOMEMLIMIT close to the live heap, an allocator decay of 0)",
                place(g.releaser.as_ref())
            ),
            gain_low_ns: cost.as_ref().map(|c| c.wall_ns / 2),
            gain_high_ns: cost.as_ref().map(|c| c.wall_ns),
            caution: Some(format!(
                "resident memory stays up to {} higher",
                units::bytes(peak_pages(g) * common::page_bytes(joined))
            )),
        },
        cost,
    }
}

/// Distinct pages that go round: released pages divided by the rounds.
fn peak_pages(g: &ChurnGroup) -> u64 {
    (g.refaults as f64 / g.rounds_per_page.max(1.0)) as u64
}

fn evidence(g: &ChurnGroup, page_bytes: u64) -> Vec<Evidence> {
    vec![
        Evidence {
            what: "pages given back (and touched before)".to_owned(),
            value: format!(
                "{} in {} madvise calls, {}",
                units::count(g.released_pages),
                units::count(g.calls),
                units::duration(g.madvise_ns)
            ),
            query: Some(format!(
                "SELECT count(*), sum(len_bytes) / {page_bytes}, sum(dur) FROM 'CAPTURE/memory_calls/*.parquet' WHERE pid = {} AND call = 'madvise' AND prot_or_advice IN (4, 8)",
                g.pid
            )),
        },
        Evidence {
            what: "faults on pages that had been given back".to_owned(),
            value: format!(
                "{}, {}, re-touch ratio {:.2}",
                units::count(g.refaults),
                units::duration(g.refault_ns),
                retouch(g)
            ),
            query: None,
        },
    ]
}

/// Refaults on the critical path and the releaser's own calls there.
fn cost(joined: &Joined, g: &ChurnGroup) -> Option<Cost> {
    let ledger = main_ledger(joined).filter(|l| l.pid == g.pid)?;
    let faults: i64 = joined
        .shares_of(ledger, LedgerCategory::Faults)
        .filter(|s| s.kind == Some(TouchKind::AnonRefault) && s.who == g.toucher)
        .map(|s| s.wall_ns)
        .sum();
    let calls: i64 =
        joined.shares_of(ledger, LedgerCategory::MemoryCalls).filter(|s| s.who == g.releaser).map(|s| s.wall_ns).sum();
    let wall_ns = faults + calls.min(g.madvise_ns);
    Some(common::cost(ledger, wall_ns))
}
