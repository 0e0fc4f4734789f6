use super::common::{Doubt, main_ledger, not_checked, percent, probe_ran, ruled_out};
use super::{Outcome, common, rule};
use crate::context::Joined;
use crate::model::{Confidence, Evidence, FaultGroup, Finding, Fix, Ledger, LedgerCategory, LookAlike};
use crate::units;

/// Code of the rule; the verdict treats it as an answer of its own kind.
pub(crate) const CODE: &str = "not-memory";
const CAUSE: &str = "a cause that has nothing to do with memory";

/// Memory's part of the window above which "not memory" is not claimed.
const MAX_MEMORY_SHARE: f64 = 0.05;
/// Faults beside the critical path, as a part of the window, above which the path itself is in doubt.
const MAX_FAULTS_BESIDE: f64 = 0.1;
/// The part of the window whose thread recorded wake-ups must give for the path to be beyond doubt.
const MIN_PATH_SHARE: f64 = 0.95;
/// The part of the window that the other cause must explain.
const MIN_OTHER_SHARE: f64 = 0.5;

rule! {
    /// **Not memory.** The window was watched, and memory did not make it slow: the time went into waiting for the
    /// network, for files, for a CPU, or into the program's own computing. This is an answer: stop looking at memory.
    ///
    /// *Found when* page faults, memory calls and stop-the-world together take at most 5 % of the window and one other
    /// recorded category explains at least half of it, with the probes for faults, memory calls and off-CPU time all
    /// running and nothing lost. Time that no probe explains never counts for it: that is "unexplained". Where requests
    /// were not seen (calls lost, or over the limit) and page faults outside of the window took longer than the window,
    /// it is withheld; also where other threads than the critical one were faulting for a tenth of the window, unless recorded
    /// wake-ups give the critical thread throughout.
    ///
    /// *Looks like*: slow memory that no kernel event shows (late backing by a hypervisor, NUMA distance, cache misses
    /// while computing). These are part of the on-CPU time and a CPU profile shows where.
    ///
    /// *What to do*: look at the category named.
    pub struct NotMemory(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    let Some(ledger) = main_ledger(joined) else {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "the capture holds no window to look at"));
    };
    for probe in ["faults", "memory_calls", "off_cpu"] {
        if !probe_ran(joined, probe) {
            return Outcome::RuledOut(not_checked(CODE, CAUSE, format!("the probe `{probe}` did not run")));
        }
        if common::is_thin(joined, probe) {
            let gap = common::missing_text(joined, probe).unwrap_or_default();
            return Outcome::RuledOut(not_checked(CODE, CAUSE, gap));
        }
    }
    let total = ledger.total_ns();
    let memory = memory_ns(ledger);
    let share = memory as f64 / total as f64;
    let faults = faults_inside(joined, ledger);
    if share <= MAX_MEMORY_SHARE && faults as f64 > MAX_FAULTS_BESIDE * total as f64 && !is_path_known(ledger) {
        let why = format!(
            "page faults of other threads took {} during the {}: the request may have waited for them",
            units::duration(faults),
            ledger.window.name
        );
        return Outcome::RuledOut(not_checked(CODE, CAUSE, why));
    }
    let Some(other) = other(ledger) else {
        return Outcome::RuledOut(ruled_out(
            joined,
            CODE,
            CAUSE,
            "no category other than memory has a share",
            &["faults", "memory_calls", "off_cpu"],
        ));
    };
    let other_ns = ledger.wall_ns(other);
    for (probe, what, ns) in stalls(joined, ledger) {
        if ns as f64 > MAX_MEMORY_SHARE * total as f64 {
            let why = format!("the kernel made it {what} for {} of the {}", units::duration(ns), ledger.window.name);
            return Outcome::RuledOut(ruled_out(joined, CODE, CAUSE, why, &[probe]));
        }
    }
    if let Some(why) = slower_unseen(joined, ledger) {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, why));
    }
    if share > MAX_MEMORY_SHARE || (other_ns as f64) < MIN_OTHER_SHARE * total as f64 {
        let why = format!(
            "memory took {} of the {}, {} took {}",
            percent(share),
            ledger.window.name,
            name(other),
            percent(other_ns as f64 / total as f64)
        );
        // While memory has the smaller part, something else may well matter more.
        return Outcome::RuledOut(if share > MIN_OTHER_SHARE {
            ruled_out(joined, CODE, CAUSE, why, &["faults", "memory_calls", "off_cpu"])
        } else {
            not_checked(CODE, CAUSE, why)
        });
    }
    Outcome::Found(vec![finding(joined, ledger, other, memory)])
}

/// What the kernel did with the window's time because of memory, in whatever category it lies: probe, what, time.
fn stalls(joined: &Joined, ledger: &Ledger) -> [(&'static str, &'static str, i64); 3] {
    let facts = &joined.facts;
    [
        ("reclaims", "reclaim memory", facts.reclaims.iter().map(|g| g.stalls.in_window(ledger)).sum()),
        ("throttles", "sleep for want of memory", facts.throttles.iter().map(|g| g.stalls.in_window(ledger)).sum()),
        (
            "lock_waits",
            "wait for the lock of its address space",
            facts.lock_waits.iter().map(|g| g.stalls.in_window(ledger)).sum(),
        ),
    ]
}

/// Why another request may be the slow one: some were not seen, and faults outside of the window took longer than it.
///
/// Where all requests were seen, the window is that of the slowest one, and what happens outside of it is nobody's wait.
pub(crate) fn slower_unseen(joined: &Joined, ledger: &Ledger) -> Option<String> {
    let unseen = joined.unseen_requests(ledger.pid).first()?;
    let outside = faults_outside(joined, ledger);
    (outside > ledger.total_ns()).then(|| {
        format!(
            "page faults outside of the {} took {}, and another request may be the slow one: {unseen}",
            ledger.window.name,
            units::duration(outside)
        )
    })
}

/// True if recorded wake-ups say which thread was waited for: what others did then held nobody up.
fn is_path_known(ledger: &Ledger) -> bool {
    ledger.path_measured_ns.is_some_and(|ns| ns as f64 >= MIN_PATH_SHARE * ledger.total_ns() as f64)
}

/// Service time of the process's faults outside of the window.
fn faults_outside(joined: &Joined, ledger: &Ledger) -> i64 {
    let all: i64 = joined.facts.faults.kinds.iter().filter(|k| k.pid == ledger.pid).map(|k| k.latency.sum_ns).sum();
    all - faults_inside(joined, ledger)
}

/// Service time of the process's faults in the window, of all threads.
fn faults_inside(joined: &Joined, ledger: &Ledger) -> i64 {
    let of_window = |g: &FaultGroup| g.in_windows.iter().find(|(w, ..)| *w == ledger.window.name).map_or(0, |w| w.2);
    joined.facts.faults.groups.iter().filter(|g| g.pid == ledger.pid).map(of_window).sum()
}

/// Wall time that is memory's.
pub(crate) fn memory_ns(ledger: &Ledger) -> i64 {
    [LedgerCategory::Faults, LedgerCategory::MemoryCalls, LedgerCategory::GcStw, LedgerCategory::Throttled]
        .iter()
        .map(|c| ledger.wall_ns(*c))
        .sum()
}

/// The largest category that is neither memory nor unexplained.
fn other(ledger: &Ledger) -> Option<LedgerCategory> {
    ledger
        .rows
        .iter()
        .filter(|r| {
            !matches!(
                r.category,
                LedgerCategory::Faults
                    | LedgerCategory::MemoryCalls
                    | LedgerCategory::GcStw
                    | LedgerCategory::Throttled
                    | LedgerCategory::Recorder
                    | LedgerCategory::Unexplained
            )
        })
        .max_by_key(|r| r.wall_ns)
        .map(|r| r.category)
}

fn name(category: LedgerCategory) -> &'static str {
    match category {
        LedgerCategory::FileIo => "waiting for files",
        LedgerCategory::Network => "waiting for the network",
        LedgerCategory::Throttled => "memory throttling",
        LedgerCategory::WaitingForClient => "waiting for a client",
        LedgerCategory::WaitingForCpu => "waiting for a CPU",
        LedgerCategory::Recorder => "the recorder itself",
        LedgerCategory::OnCpu => "the program's own computing",
        LedgerCategory::Faults => "page faults",
        LedgerCategory::MemoryCalls => "memory calls",
        LedgerCategory::GcStw => "stop-the-world",
        LedgerCategory::Unexplained => "nothing that was recorded",
    }
}

fn advice(category: LedgerCategory) -> &'static str {
    match category {
        LedgerCategory::FileIo => "look at the files and the disk: which file, which call",
        LedgerCategory::Network => "look at the other side of the connection: DNS, TLS, database, upstream",
        LedgerCategory::WaitingForClient => "nothing was asked of the service in this time",
        LedgerCategory::WaitingForCpu => {
            "look at CPU limits and throttling (cpu.stat, CFS quota) and at the neighbours"
        }
        _ => "take a CPU profile of the window",
    }
}

fn finding(joined: &Joined, ledger: &Ledger, other: LedgerCategory, memory: i64) -> Finding {
    let total = ledger.total_ns();
    let mut doubt = Doubt::new();
    for probe in ["faults", "memory_calls", "off_cpu"] {
        doubt.accounting(joined, probe);
    }
    doubt.requests(joined, ledger);
    let unseen = joined.unseen_requests(ledger.pid);
    let assumed: Vec<&str> =
        ledger.window.assumptions.iter().filter(|a| !unseen.contains(a)).map(String::as_str).collect();
    if !assumed.is_empty() {
        doubt.supported(format!("the window was placed by assumption: {}", assumed.join("; ")));
    }
    if other == LedgerCategory::OnCpu {
        doubt.at_most(Confidence::Medium, "cache misses and NUMA distance hide in computing time");
    }
    let (confidence, confidence_reasons) = doubt.finish();
    let other_ns = ledger.wall_ns(other);
    let explained = total - ledger.wall_ns(LedgerCategory::Unexplained);
    Finding {
        code: CODE.to_owned(),
        title: "Not memory".to_owned(),
        claim: format!(
            "memory took {} of the {} ({} of {}); {} took {}",
            percent(memory as f64 / total.max(1) as f64),
            ledger.window.name,
            units::duration(memory),
            units::duration(total),
            name(other),
            units::duration(other_ns),
        ),
        pid: ledger.pid,
        cost: Some(common::cost(ledger, other_ns)),
        confidence,
        confidence_reasons,
        location: None,
        evidence: vec![
            Evidence {
                what: "faults, memory calls and stop-the-world on the critical path".to_owned(),
                value: units::duration(memory),
                query: None,
            },
            Evidence {
                what: "part of the window that is explained".to_owned(),
                value: percent(explained as f64 / total.max(1) as f64),
                query: None,
            },
        ],
        against: Vec::new(),
        look_alikes: vec![LookAlike {
            cause: "memory that is slow without a kernel event (hypervisor, NUMA, cache misses)".to_owned(),
            observation: match other {
                LedgerCategory::OnCpu => "possible: the time is on-CPU time".to_owned(),
                _ => "the critical thread was not computing".to_owned(),
            },
            excluded: other != LedgerCategory::OnCpu,
        }],
        stacks: Vec::new(),
        fix: Fix { what: advice(other).to_owned(), gain_low_ns: None, gain_high_ns: None, caution: None },
    }
}
