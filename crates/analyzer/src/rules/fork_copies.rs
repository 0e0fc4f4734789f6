use super::common::{Doubt, main_ledger, not_checked, place, probe_ran, reclaim_look_alike, ruled_out};
use super::{Outcome, common, rule};
use crate::context::Joined;
use crate::model::{
    Confidence, Cost, Evidence, Finding, Fix, ForkGroup, Ledger, LedgerCategory, NamedStack, TouchKind,
};
use crate::units;

const CODE: &str = "fork-copies";
const CAUSE: &str = "a fork made every write of the parent copy a page (fork and copy on write)";

/// Fewer copies than this are ordinary.
const MIN_COPIES: u64 = 1_000;
/// Part of the window below which it is not worth a finding.
const MIN_SHARE: f64 = 0.10;

rule! {
    /// **Fork and copy on write.** fork(2) copies the page tables of the whole address space (milliseconds for a large
    /// one) and write-protects every page for both sides. Until the child ends or executes another program, each first
    /// write of the parent to a page is a page fault that copies it. A server that forks to write a snapshot (Redis) is
    /// slow from the fork until its writes have touched everything again.
    ///
    /// *Found when* the parent copied at least 1,000 pages while such a child lived, and the forks and copies take at
    /// least 10 % of the window. It names who wrote, and who forked as far as the stack shows it (a C library without
    /// frame pointers ends it at `fork`).
    ///
    /// *Looks like*: a first-touch fault storm (there the pages are new and nobody forked), fork followed by exec at once
    /// (there the parent copies a handful of pages), writes to private file mappings (no fork).
    ///
    /// *What to do*: start programs with posix_spawn or vfork; make snapshots in another way, or when nobody waits;
    /// switch huge pages off for the process (a copy is then 4 KiB instead of 2 MiB).
    pub struct ForkCopies(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    let Some(ledger) = main_ledger(joined) else {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the capture holds no window to look at"));
    };
    for probe in ["faults", "memory_calls", "process_events"] {
        if !probe_ran(joined, probe) {
            return Outcome::RuledOut(not_checked(CODE, CAUSE, format!("the probe `{probe}` did not run")));
        }
    }
    let groups = || joined.facts.forks.iter().filter(|g| g.pid == ledger.pid);
    let cost = cost(joined, ledger);
    let main = groups().max_by_key(|g| g.copies).filter(|g| g.copies >= MIN_COPIES && cost.share() >= MIN_SHARE);
    if let Some(g) = main {
        return Outcome::Found(vec![finding(joined, g, cost)]);
    }
    let (forks, copies) = groups().fold((0, 0), |(f, c), g| (f + g.forks, c + g.copies));
    let why = match forks {
        0 => "the process did not fork".to_owned(),
        _ => format!(
            "{} of the process, and {} of pages by it while a child shared them",
            units::counted(forks, "fork", "forks"),
            units::counted(copies, "copy", "copies")
        ),
    };
    Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &["faults", "memory_calls"]))
}

/// Copies and forks on the critical path.
fn cost(joined: &Joined, ledger: &Ledger) -> Cost {
    let copies = joined.shares_of(ledger, LedgerCategory::Faults).filter(|s| s.kind == Some(TouchKind::CopyOnWrite));
    let copies: i64 = copies.map(|s| s.wall_ns).sum();
    let forks: i64 = joined
        .shares_of(ledger, LedgerCategory::MemoryCalls)
        .filter_map(|s| {
            let of_code = joined.facts.forks.iter().filter(|g| g.pid == ledger.pid && g.who == s.who);
            Some(s.wall_ns.min(of_code.map(|g| g.sum_ns).max()?))
        })
        .sum();
    common::cost(ledger, copies.saturating_add(forks))
}

fn finding(joined: &Joined, g: &ForkGroup, cost: Cost) -> Finding {
    let mut doubt = Doubt::new();
    for probe in ["faults", "memory_calls"] {
        doubt.accounting(joined, probe);
    }
    if g.who.is_none() || g.writer.is_none() {
        doubt.at_most(Confidence::Medium, "the code that forked or wrote could not be named");
    }
    let (confidence, confidence_reasons) = doubt.finish();
    Finding {
        code: CODE.to_owned(),
        title: "Fork and copy on write".to_owned(),
        claim: format!(
            "{} forked {} ({}, the longest {}), and while the child shared the memory the process copied {} pages by writing to them, most of them in {}: {} of the {}",
            place(g.who.as_ref()),
            units::counted(g.forks, "time", "times"),
            units::duration(g.sum_ns),
            units::duration(g.max_ns),
            units::count(g.copies),
            place(g.writer.as_ref()),
            units::duration(cost.wall_ns),
            cost.window,
        ),
        pid: g.pid,
        confidence,
        confidence_reasons,
        // The C library's fork has no frame pointer: who called it is often not known, who wrote always.
        location: g.writer.clone().or_else(|| g.who.clone()),
        evidence: vec![
            Evidence {
                what: "forks (page tables copied)".to_owned(),
                value: format!("{}, {}", units::count(g.forks), units::duration(g.sum_ns)),
                query: Some(format!(
                    "SELECT count(*), sum(dur), max(dur) FROM 'CAPTURE/memory_calls/*.parquet' WHERE pid = {} AND call = 'fork'",
                    g.pid
                )),
            },
            Evidence {
                what: "pages copied by the parent while a child shared them".to_owned(),
                value: format!("{}, {}", units::count(g.copies), units::duration(g.copies_ns)),
                query: None,
            },
            Evidence {
                what: "time in which a child shared the memory".to_owned(),
                value: units::duration(g.shared_ns),
                query: None,
            },
        ],
        against: Vec::new(),
        look_alikes: vec![reclaim_look_alike(joined)],
        stacks: vec![
            NamedStack {
                title: "forked".to_owned(),
                weight: format!("{}, {}", units::counted(g.forks, "time", "times"), units::duration(g.sum_ns)),
                frames: g.stack.clone(),
            },
            NamedStack {
                title: "wrote".to_owned(),
                weight: format!("{} copies, {}", units::count(g.copies), units::duration(g.copies_ns)),
                frames: g.write_stack.clone(),
            },
        ],
        fix: Fix {
            what: format!(
                "do not fork while the process serves: posix_spawn or vfork for programs, another way for snapshots; look at {}",
                place(g.who.as_ref())
            ),
            gain_low_ns: Some(cost.wall_ns),
            gain_high_ns: Some(cost.wall_ns),
            caution: None,
        },
        cost: Some(cost),
    }
}
