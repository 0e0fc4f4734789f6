use super::common::{Doubt, main_ledger, percent, place, ruled_out};
use super::{Outcome, common, rule};
use crate::context::Joined;
use crate::model::{
    Confidence, Cost, Evidence, Finding, Fix, GcPhase, GcPhaseRow, LedgerCategory, LookAlike, NamedStack,
};
use crate::units;

const CODE: &str = "growth-during-gc";
const CAUSE: &str = "heap growth by mmap while the garbage collector runs";

/// Growth below this is not worth a finding.
const MIN_BYTES: u64 = 16 << 20;
/// Part of all growth that must fall into GC cycles.
const MIN_SHARE: f64 = 0.25;
/// How much denser in time the growth must be during GC than outside.
const MIN_DENSITY: f64 = 2.0;

rule! {
    /// **Growth by mmap during GC.** The program allocates faster than the collector frees: while a cycle is marking,
    /// the heap has to grow, and every new arena costs mmap calls and then first-touch faults, at the moment when the
    /// collector already competes for the CPUs.
    ///
    /// *Found when* at least 16 MiB became mapped during GC cycles, that is at least a quarter of all growth
    /// since the first cycle, and it came at least twice as dense in time as after and between cycles. It says *growth*, not *leak*: for a
    /// leak there must be evidence that the memory is never reused.
    ///
    /// *Looks like*: a program that simply starts up (there the growth is dense outside of cycles too), mark assist
    /// (there the threads work for the collector without mapping anything).
    ///
    /// Go only: the collectors of a JVM take memory for themselves while they collect, which says nothing of the program.
    ///
    /// *What to do*: allocate less in the code named (reuse buffers), or give the collector more room (GOGC,
    /// GOMEMLIMIT), or reserve the memory once at start.
    pub struct GrowthDuringGc(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    if !joined.facts.gc.measured {
        return Outcome::RuledOut(common::no_collector(joined, CODE, CAUSE, &["gc_events"]));
    }
    let cycles = &joined.facts.gc.cycles;
    if !cycles.is_empty() && cycles.iter().all(|c| c.collector.is_some()) {
        let why = "a JVM's collectors take memory for themselves while they collect, which says nothing of the program";
        return Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &[]));
    }
    let jvm = |pid: u32| cycles.iter().any(|c| c.pid == pid && c.collector.is_some());
    let mut found = Vec::new();
    let mut why = "no GC cycle in the capture".to_owned();
    for during in joined.facts.gc.phases.iter().filter(|r| r.phase == GcPhase::During && !jvm(r.pid)) {
        let rest: Vec<&GcPhaseRow> =
            joined.facts.gc.phases.iter().filter(|r| r.pid == during.pid && r.phase != GcPhase::StartUp).collect();
        let all: u64 = rest.iter().map(|r| r.mmap_bytes).sum();
        let share = if all == 0 { 0.0 } else { during.mmap_bytes as f64 / all as f64 };
        // What comes right before a cycle is what triggers it, and says nothing about growth in calm times.
        let calm = rest.iter().filter(|r| matches!(r.phase, GcPhase::After | GcPhase::Outside));
        let (bytes, ns) = calm.fold((0, 0), |(b, t), r| (b + r.mmap_bytes, t + r.wall_ns));
        // One page stands for "none": no program grows infinitely denser.
        let density = density(during.mmap_bytes, during.wall_ns) / density(bytes.max(4096), ns.max(1));
        if during.mmap_bytes >= MIN_BYTES && share >= MIN_SHARE && density >= MIN_DENSITY {
            found.push(finding(joined, during, share, density));
        } else {
            why = format!(
                "{} of {} growth fell into GC cycles ({})",
                units::bytes(during.mmap_bytes),
                units::bytes(all),
                percent(share)
            );
        }
    }
    if found.is_empty() {
        Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &["memory_calls", "gc_events"]))
    } else {
        Outcome::Found(found)
    }
}

fn density(bytes: u64, ns: i64) -> f64 {
    if ns > 0 { bytes as f64 / ns as f64 } else { 0.0 }
}

fn finding(joined: &Joined, during: &GcPhaseRow, share: f64, density: f64) -> Finding {
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "memory_calls");
    doubt.accounting(joined, "gc_events");
    doubt.at_most(Confidence::Medium, "that the growth and the cycle coincide does not prove which caused the other");
    let (confidence, confidence_reasons) = doubt.finish();
    let top = during.top_stacks.first();
    let location = top.and_then(|s| s.location.clone());
    let claim = format!(
        "{} became mapped in {} calls during GC cycles ({} of all growth since the first cycle, {density:.1} times as much per second as between cycles), most by {}",
        units::bytes(during.mmap_bytes),
        units::count(during.mmap_calls),
        percent(share),
        place(location.as_ref()),
    );
    let evidence = vec![
        Evidence {
            what: "mmap that made memory usable, during cycles".to_owned(),
            value: format!(
                "{} calls, {}, {} on average",
                units::count(during.mmap_calls),
                units::bytes(during.mmap_bytes),
                during.mmap_mean_bytes.map_or_else(|| "-".to_owned(), units::bytes)
            ),
            query: Some(format!(
                "SELECT count(*), sum(len_bytes) FROM 'CAPTURE/memory_calls/*.parquet' WHERE pid = {} AND call = 'mmap' AND errno IS NULL AND prot_or_advice & 2 = 2",
                during.pid
            )),
        },
        Evidence {
            what: "page faults during cycles".to_owned(),
            value: format!("{}, {}", units::count(during.faults), units::duration(during.fault_ns)),
            query: None,
        },
    ];
    Finding {
        code: CODE.to_owned(),
        title: "Growth by mmap during GC".to_owned(),
        claim,
        pid: during.pid,
        cost: cost(joined, during),
        confidence,
        confidence_reasons,
        location: location.clone(),
        evidence,
        against: Vec::new(),
        look_alikes: vec![LookAlike {
            cause: "start-up growth".to_owned(),
            observation: format!(
                "what was mapped before the first cycle is left out; {density:.1} times as much growth per second during cycles as between them"
            ),
            excluded: density >= MIN_DENSITY,
        }],
        stacks: during
            .top_stacks
            .iter()
            .map(|s| NamedStack {
                title: "mapped by".to_owned(),
                weight: format!("{}, {} calls", units::bytes(s.bytes), units::count(s.calls)),
                frames: s.stack.clone(),
            })
            .collect(),
        fix: Fix {
            what: format!(
                "allocate less in {}, or give the collector room: raise GOGC or GOMEMLIMIT",
                place(location.as_ref())
            ),
            gain_low_ns: None,
            gain_high_ns: None,
            caution: Some("a larger heap target means more resident memory".to_owned()),
        },
    }
}

/// What can be put in time: memory calls and stop-the-world on the critical path of the main window. The faults on the
/// new memory are charged to their own finding.
fn cost(joined: &Joined, during: &GcPhaseRow) -> Option<Cost> {
    let ledger = main_ledger(joined).filter(|l| l.pid == during.pid)?;
    let wall_ns = ledger.wall_ns(LedgerCategory::MemoryCalls) + ledger.wall_ns(LedgerCategory::GcStw);
    Some(common::cost(ledger, wall_ns))
}
