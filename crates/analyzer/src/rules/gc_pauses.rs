use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::common::{Doubt, main_ledger, not_checked, percent, ruled_out};
use super::{Outcome, common, rule};
use crate::context::Joined;
use crate::model::{Confidence, Evidence, Finding, Fix, GcCycle, Ledger, LedgerCategory, LookAlike};
use crate::units;

const CODE: &str = "gc-pauses";
const CAUSE: &str = "the garbage collector stopped all threads for a large part of the window";

/// Part of the window below which it is not worth a finding.
const MIN_SHARE: f64 = 0.10;
/// Part of the stops that must be for collections.
const MIN_OF_STOPS: f64 = 0.5;
/// A heap of which this much is still used after a collection is too small for what it holds.
const CROWDED: f64 = 0.7;

rule! {
    /// **Pauses of the garbage collector.** A collector that stops the world makes every request wait that is under way,
    /// whatever it does. A JVM's young collections take milliseconds; a full one of a heap that is nearly full takes
    /// tens of milliseconds to seconds, frees little, and soon comes again. Go's stops are far shorter: if they matter,
    /// something else is wrong (a stop that waits for a thread that cannot be preempted or has no CPU).
    ///
    /// *Found when* the world was stopped for at least 10 % of the window, and at least half of that belongs to
    /// collections. A stop counts where somebody wanted to go on: not what it overlaps of a wait for a socket, a timer or
    /// another process, and not what the collector itself waited for a CPU. It names the collector with most of that time, what the heap held before and after, and the
    /// program's allocation between collections. Which code allocates is not in a capture: an allocation profile is.
    ///
    /// *Looks like*: stops for another reason (class redefinition, deoptimisation, a thread dump: these are safepoints
    /// without a collection), a collector that has no CPU (a quota, neighbours: then waiting for a CPU is large), a collector that is slow because its memory was swapped out or reclaimed (then the
    /// reclaim rules find stalls), a program that is slow because it works for the collector (mark assist: not a stop).
    ///
    /// *What to do*: where little is free after a collection, raise the heap's limit or keep less; else allocate less, or
    /// take a collector that works while the program runs (G1, ZGC, Shenandoah).
    pub struct GcPauses(CODE, check);
}

/// Stops in the window that belong to one collector.
#[derive(Debug, Default)]
struct OfCollector<'a> {
    stops: u64,
    ns: i64,
    longest: i64,
    /// The last collection that stopped the world in the window.
    last: Option<&'a GcCycle>,
}

fn check(joined: &Joined) -> Outcome {
    let Some(ledger) = main_ledger(joined) else {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the capture holds no window to look at"));
    };
    if !joined.facts.gc.measured {
        return Outcome::RuledOut(common::no_collector(joined, CODE, CAUSE, &["gc_events", "jvm_events"]));
    }
    let cycles: Vec<&GcCycle> = joined.facts.gc.cycles.iter().filter(|c| c.pid == ledger.pid).collect();
    let probe = probe_of(&cycles);
    let stopped = ledger.wall_ns(LedgerCategory::GcStw);
    let collectors = in_window(&cycles, (ledger.window.start_ns, ledger.window.end_ns));
    let of_collections: i64 = collectors.values().map(|c| c.ns).sum();
    let share = stopped as f64 / ledger.total_ns().max(1) as f64;
    let enough = of_collections as f64 >= MIN_OF_STOPS * stopped as f64;
    let main = collectors.iter().max_by_key(|(_, c)| c.ns);
    if let Some((name, main)) = main.filter(|_| share >= MIN_SHARE && enough) {
        return Outcome::Found(vec![finding(joined, ledger, &cycles, &collectors, (name, main))]);
    }
    let mut why = format!(
        "the world was stopped for {} of the {} ({})",
        units::duration(stopped),
        ledger.window.name,
        percent(share)
    );
    if share >= MIN_SHARE {
        let _ = write!(why, ", {} of it for collections", units::duration(of_collections));
    }
    Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &[probe]))
}

/// The probe that saw the collections.
fn probe_of(cycles: &[&GcCycle]) -> &'static str {
    if cycles.iter().any(|c| c.collector.is_some()) { "jvm_events" } else { "gc_events" }
}

fn name_of(c: &GcCycle) -> &str {
    c.collector.as_deref().unwrap_or("Go")
}

/// The stops that belong to collections, as far as they lie in the window. A stop with two collections (a young one
/// that turned into a full one) is the later one's.
fn in_window<'a>(cycles: &[&'a GcCycle], (from, to): (i64, i64)) -> BTreeMap<&'a str, OfCollector<'a>> {
    let mut out: BTreeMap<&str, OfCollector<'_>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for c in cycles.iter().rev() {
        for (start, end, _) in &c.stw {
            let ns = (*end).min(to).saturating_sub((*start).max(from));
            if ns <= 0 || !seen.insert(*start) {
                continue;
            }
            let of = out.entry(name_of(c)).or_default();
            of.stops += 1;
            of.ns = of.ns.saturating_add(ns);
            of.longest = of.longest.max(end - start);
            of.last = of.last.or(Some(c));
        }
    }
    out
}

/// What the program allocated between collections, bytes per second; null if not known.
fn allocation_rate(cycles: &[&GcCycle]) -> Option<f64> {
    let known: Vec<(i64, (u64, u64))> = cycles.iter().filter_map(|c| Some((c.start_ns, c.heap_bytes?))).collect();
    let (first, last) = (known.first()?, known.last()?);
    let grown: u64 = known.windows(2).map(|w| w[1].1.0.saturating_sub(w[0].1.1)).sum();
    let ns = last.0 - first.0;
    (ns > 0).then(|| grown as f64 * 1e9 / ns as f64)
}

/// How full the heap still was after it, of its limit.
fn crowded(c: &GcCycle) -> Option<f64> {
    let (_, after) = c.heap_bytes?;
    let max = c.heap_max_bytes.filter(|m| *m > 0)?;
    Some(after as f64 / max as f64)
}

fn heap_text(c: &GcCycle) -> Option<String> {
    let (before, after) = c.heap_bytes?;
    let of = c.heap_max_bytes.map_or_else(String::new, |max| format!(", its limit is {}", units::bytes(max)));
    Some(format!("{} before it and {} after it{of}", units::bytes(before), units::bytes(after)))
}

fn finding(
    joined: &Joined,
    ledger: &Ledger,
    cycles: &[&GcCycle],
    collectors: &BTreeMap<&str, OfCollector<'_>>,
    (name, main): (&str, &OfCollector<'_>),
) -> Finding {
    let stopped = ledger.wall_ns(LedgerCategory::GcStw);
    let cost = common::cost(ledger, stopped);
    let stops: u64 = collectors.values().map(|c| c.stops).sum();
    let mut doubt = Doubt::new();
    doubt.accounting(joined, probe_of(cycles));
    doubt.requests(joined, ledger);
    if main.last.is_some_and(|c| c.mark_end_ns.is_none()) {
        doubt.at_most(Confidence::Medium, "the capture ended within a collection");
    }
    let (confidence, confidence_reasons) = doubt.finish();
    let heap = main.last.and_then(heap_text);
    Finding {
        code: CODE.to_owned(),
        title: "Pauses of the garbage collector".to_owned(),
        claim: format!(
            "the garbage collector ({}{name}) stopped all threads for {} of the {} ({}){}{}",
            if collectors.len() > 1 { "mostly " } else { "" },
            units::duration(stopped),
            ledger.window.name,
            percent(cost.share()),
            if stops > 1 {
                format!(", {} times, the longest {}", units::count(stops), units::duration(main.longest))
            } else {
                String::new()
            },
            heap.as_ref().map_or_else(String::new, |h| format!("; the heap held {h}")),
        ),
        pid: ledger.pid,
        confidence,
        confidence_reasons,
        location: None,
        evidence: evidence(cycles, collectors, ledger),
        against: Vec::new(),
        look_alikes: look_alikes(joined, ledger, cycles, stopped),
        stacks: Vec::new(),
        fix: fix(cycles, main, stopped),
        cost: Some(cost),
    }
}

fn evidence(cycles: &[&GcCycle], collectors: &BTreeMap<&str, OfCollector<'_>>, ledger: &Ledger) -> Vec<Evidence> {
    let table = if probe_of(cycles) == "jvm_events" {
        format!("'CAPTURE/jvm_events/*.parquet' WHERE pid = {} AND event = 'safepoint'", ledger.pid)
    } else {
        format!("'CAPTURE/gc_events/*.parquet' WHERE pid = {}", ledger.pid)
    };
    let mut out: Vec<Evidence> = collectors
        .iter()
        .map(|(name, c)| Evidence {
            what: format!("stops of the world in the {} by {name}", ledger.window.name),
            value: format!("{}, {} in all", units::counted(c.stops, "time", "times"), units::duration(c.ns)),
            query: Some(format!("SELECT * FROM {table}")),
        })
        .collect();
    if let Some(rate) = allocation_rate(cycles) {
        out.push(Evidence {
            what: "allocated between collections, over the capture".to_owned(),
            value: format!("{} per second", units::bytes(rate as u64)),
            query: None,
        });
    }
    let fullest = cycles.iter().filter_map(|c| Some((crowded(c)?, *c))).max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((share, c)) = fullest {
        out.push(Evidence {
            what: format!("the heap after the collection that left it fullest ({})", name_of(c)),
            value: format!("{} of its limit", percent(share)),
            query: None,
        });
    }
    out
}

/// Both are left out of the stops already: what is told is how much there was of them.
fn look_alikes(joined: &Joined, ledger: &Ledger, cycles: &[&GcCycle], stopped: i64) -> Vec<LookAlike> {
    let waiting = ledger.wall_ns(LedgerCategory::WaitingForCpu);
    let no_cpu = LookAlike {
        cause: "a collector, or the program, that has no CPU (a quota, neighbours)".to_owned(),
        observation: format!(
            "waiting for a CPU took {} of the {}, and is not counted as a stop",
            units::duration(waiting),
            ledger.window.name
        ),
        excluded: waiting.saturating_mul(2) < stopped,
    };
    let mut out = vec![no_cpu, common::reclaim_look_alike(joined)];
    if probe_of(cycles) == "jvm_events" {
        out.push(LookAlike {
            cause: "safepoints for another reason than a collection".to_owned(),
            observation: "they are not counted".to_owned(),
            excluded: true,
        });
    }
    out
}

fn fix(cycles: &[&GcCycle], main: &OfCollector<'_>, stopped: i64) -> Fix {
    let jvm = cycles.iter().any(|c| c.collector.is_some());
    let crowded = main.last.and_then(crowded).is_some_and(|share| share >= CROWDED);
    let what = match (jvm, crowded) {
        (true, true) => {
            "the heap is nearly full after a collection: raise its limit (-Xmx, or the container's with \
             -XX:MaxRAMPercentage), or keep less in it"
        }
        (true, false) => {
            "allocate less (an allocation profile names the code), or take a collector that works while the program \
             runs (-XX:+UseG1GC, -XX:+UseZGC)"
        }
        (false, _) => {
            "Go stops the world only briefly: look at what the stop waits for (threads without a CPU, CPU limits), and \
             collect less often (GOGC, GOMEMLIMIT)"
        }
    };
    Fix {
        what: what.to_owned(),
        gain_low_ns: None,
        gain_high_ns: Some(stopped),
        caution: jvm.then(|| "a larger heap must fit below the memory limit of the container".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(start: i64, stop: (i64, i64), collector: &str, heap: (u64, u64)) -> GcCycle {
        GcCycle {
            start_ns: start,
            mark_end_ns: Some(stop.1),
            stw: vec![(stop.0, stop.1, None)],
            collector: Some(collector.to_owned()),
            heap_bytes: Some(heap),
            ..GcCycle::default()
        }
    }

    #[test]
    fn a_stop_with_two_collections_counts_once_and_only_as_far_as_it_lies_in_the_window() {
        let cycles = [
            cycle(110, (100, 160), "Copy", (50, 40)),
            cycle(120, (100, 160), "MarkSweepCompact", (40, 10)),
            cycle(300, (290, 320), "Copy", (50, 20)),
            cycle(900, (900, 990), "Copy", (60, 20)),
        ];
        let cycles: Vec<&GcCycle> = cycles.iter().collect();
        let found = in_window(&cycles, (130, 310));
        let of: Vec<_> = found.iter().map(|(name, c)| (*name, c.stops, c.ns, c.longest)).collect();
        assert_eq!(of, [("Copy", 1, 20, 30), ("MarkSweepCompact", 1, 30, 60)]);
    }

    #[test]
    fn what_is_allocated_is_what_the_heap_grows_by_between_collections() {
        let s = 1_000_000_000;
        let cycles = [cycle(0, (0, 1), "Copy", (50, 10)), cycle(2 * s, (2 * s, 2 * s + 1), "Copy", (70, 10))];
        let cycles: Vec<&GcCycle> = cycles.iter().collect();
        assert_eq!(allocation_rate(&cycles), Some(30.0));
        assert_eq!(allocation_rate(&cycles[..1]), None);
    }
}
