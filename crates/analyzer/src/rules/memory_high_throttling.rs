use mtrace_formats::tables::SampleSource;

use super::common::{Doubt, main_ledger, not_checked, place, probe_ran, ruled_out};
use super::{Outcome, common, rule, stalls};
use crate::context::Joined;
use crate::model::{Confidence, Evidence, Finding, Fix, Ledger, LookAlike, Stalls, ThrottleGroup};
use crate::units;

const CODE: &str = "memory-high-throttling";
const CAUSE: &str = "threads were put to sleep because their cgroup was above memory.high";

/// Part of the window below which it is not worth a finding.
const MIN_SHARE: f64 = 0.10;
/// Kind, as in the table.
const KIND: &str = "memory_high";

rule! {
    /// **memory.high throttling.** A cgroup (v2) uses more than its memory.high. Nobody is killed: each thread that takes
    /// memory must first reclaim on its way back to user mode, and where that does not help it is put to sleep, up to
    /// two seconds at a time. The process seems to hang after ordinary page faults and calls, and uses no CPU.
    ///
    /// *Found when* these stalls of the threads that somebody waited for take at least 10 % of the window. They come at
    /// the end of a fault or call, after its own time was taken: no service time shows them.
    ///
    /// *Looks like*: reclaim at memory.max (there the fault itself takes long, and an OOM kill may follow), a wait for a
    /// disk or a lock (there the kernel's stack is another one), a CPU quota (there the thread could run).
    ///
    /// *What to do*: raise memory.high above what the processes need, or make them keep less. As a limit that must hold
    /// use memory.max; memory.high is for a margin below it.
    pub struct MemoryHighThrottling(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    let Some(ledger) = main_ledger(joined) else {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the capture holds no window to look at"));
    };
    if !probe_ran(joined, "throttles") {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the probe `throttles` did not run"));
    }
    if joined.facts.trust.probes.iter().any(|p| p.name == "throttles" && p.status == "partial") {
        return Outcome::RuledOut(not_checked(
            CODE,
            CAUSE,
            "on this host the probe `throttles` cannot see these sleeps",
        ));
    }
    let mut groups: Vec<&ThrottleGroup> =
        joined.facts.throttles.iter().filter(|g| g.stalls.pid == ledger.pid && g.kind == KIND).collect();
    let wall_ns = stalls::rank(&mut groups, ledger, |g| &g.stalls);
    if let Some(g) = groups.first().filter(|_| common::cost(ledger, wall_ns).share() >= MIN_SHARE) {
        return Outcome::Found(vec![finding(joined, ledger, g, &groups, wall_ns)]);
    }
    let none = "no thread of the process was put to sleep for it";
    let why = stalls::too_few(groups.iter().map(|g| &g.stalls), ledger, none);
    Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &["throttles"]))
}

/// `main` is the group with most time in the window.
fn finding(joined: &Joined, ledger: &Ledger, main: &ThrottleGroup, groups: &[&ThrottleGroup], wall_ns: i64) -> Finding {
    let (count, all_ns, longest) = Stalls::total(groups.iter().map(|g| &g.stalls));
    let cost = common::cost(ledger, wall_ns);
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "throttles");
    if main.stalls.who.is_none() {
        doubt.at_most(Confidence::Medium, "the code that had to wait could not be named");
    }
    let (confidence, confidence_reasons) = doubt.finish();
    let limit = last(joined, "memory.high_bytes").map_or_else(String::new, |n| format!(" of {}", units::bytes(n)));
    Finding {
        code: CODE.to_owned(),
        title: "memory.high throttling".to_owned(),
        claim: format!(
            "the {} was put to sleep for {} of {} because its cgroup was above its memory.high{limit} ({} times in the capture, the longest {}), most of it after {} took memory",
            ledger.window.name,
            units::duration(wall_ns),
            units::duration(cost.window_ns),
            units::count(count),
            units::duration(longest),
            place(main.stalls.who.as_ref()),
        ),
        pid: ledger.pid,
        confidence,
        confidence_reasons,
        location: main.stalls.who.clone(),
        evidence: evidence(joined, ledger, count, all_ns),
        against: against(joined),
        look_alikes: vec![LookAlike {
            cause: "reclaim at memory.max".to_owned(),
            observation: match grown(joined, "memory.events.max") {
                Some(0) => "memory.events: the limit memory.max was not reached".to_owned(),
                Some(n) => format!("memory.events: memory.max was reached {} times as well", units::count(n)),
                None => "memory.events were not sampled".to_owned(),
            },
            excluded: grown(joined, "memory.events.max") == Some(0),
        }],
        stacks: stalls::stacks("was put to sleep after it", groups.iter().map(|g| &g.stalls)),
        fix: Fix {
            what: format!(
                "raise memory.high above what the processes of the cgroup need, or keep less: look at {}",
                place(main.stalls.who.as_ref())
            ),
            gain_low_ns: Some(wall_ns),
            gain_high_ns: Some(wall_ns),
            caution: Some("below memory.max nothing else holds the group back then".to_owned()),
        },
        cost: Some(cost),
    }
}

fn evidence(joined: &Joined, ledger: &Ledger, count: u64, all_ns: i64) -> Vec<Evidence> {
    let mut out = vec![Evidence {
        what: "stalls for memory.high in the capture, all threads".to_owned(),
        value: format!("{} times, {} in all", units::count(count), units::duration(all_ns)),
        query: Some(format!(
            "SELECT count(*), sum(dur), max(dur) FROM 'CAPTURE/throttles/*.parquet' WHERE pid = {} AND kind = '{KIND}'",
            ledger.pid
        )),
    }];
    if let Some(n) = grown(joined, "memory.events.high") {
        out.push(Evidence {
            what: "attempts to reclaim that the kernel counted (memory.events high)".to_owned(),
            value: units::count(n),
            query: Some(
                "SELECT max(value) - min(value) FROM 'CAPTURE/samples/*.parquet' WHERE key = 'memory.events.high'"
                    .to_owned(),
            ),
        });
    }
    out
}

fn against(joined: &Joined) -> Vec<String> {
    match grown(joined, "memory.events.high") {
        Some(0) => vec!["memory.events: the kernel counted no `high` event of the sampled cgroup".to_owned()],
        _ => Vec::new(),
    }
}

/// By how much a counter of the targets' cgroups grew during the capture; null if it was not sampled.
fn grown(joined: &Joined, key: &str) -> Option<u64> {
    let values = || {
        let of_key = joined.samples.iter().filter(|s| s.source == SampleSource::CgroupMemory && s.key == key);
        of_key.filter_map(|s| s.value)
    };
    Some(values().max()? - values().min()?)
}

fn last(joined: &Joined, key: &str) -> Option<u64> {
    let mut of_key = joined.samples.iter().filter(|s| s.source == SampleSource::CgroupMemory && s.key == key);
    of_key.next_back()?.value
}
