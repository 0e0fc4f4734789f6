//! From findings to the one sentence at the top. "Not memory" and "unexplained" are answers like any other.

use crate::context::Joined;
use crate::joins::is_asleep;
use crate::model::{Confidence, Finding, Ledger, LedgerCategory, LedgerRow, TouchKind, Verdict, VerdictKind};
use crate::requests::{FIRST_REQUEST, WHOLE_CAPTURE};
use crate::{rules, units};

/// A cause that takes less of the window than this does not make the headline by its cost.
const HEADLINE_SHARE: f64 = 0.2;
/// More than this unexplained, and nothing else may be claimed as the cause of the window's length.
const UNEXPLAINED_SHARE: f64 = 0.5;
/// A process that sleeps this much and is asked nothing is idle.
const ASLEEP_SHARE: f64 = 0.9;

/// Chooses the verdict. `findings` are ranked already.
pub(crate) fn choose(joined: &Joined, findings: &[Finding]) -> Verdict {
    // What it was slow in before the kernel killed it is of no interest.
    if let Some(f) = findings.iter().find(|f| f.code == rules::OOM_KILL) {
        return from_finding(VerdictKind::Memory, f);
    }
    let mut verdict = answer(joined, findings);
    if let Some(which) = main_ledger(joined).and_then(which_request) {
        verdict.sentence.push_str(&which);
    }
    if let Some(killed) = killed(joined) {
        verdict.sentence = format!("{killed} {}", verdict.sentence);
        verdict.confidence = verdict.confidence.min(Confidence::Medium);
        verdict.confidence_reasons.push(
            "the target was killed: what led to that weighs more than what made it slow, and an OOM kill is recorded only as far as the cgroup's own counter shows it"
                .to_owned(),
        );
    }
    verdict
}

/// Says that a target was killed, and whether its cgroup counted an OOM kill.
fn killed(joined: &Joined) -> Option<String> {
    const SIGKILL: i32 = 9;
    let target = joined.targets.iter().find(|t| t.exit_status.is_some_and(|s| s & 0x7f == SIGKILL))?;
    let kills = joined.samples.iter().filter(|s| s.key.contains("oom_kill") && !s.key.contains("disable"));
    let kills: Vec<u64> = kills.filter_map(|s| s.value).collect();
    let oom = kills.iter().max().zip(kills.iter().min()).is_some_and(|(max, min)| max > min);
    Some(format!(
        "Process {} was killed by SIGKILL{}.",
        target.pid,
        if oom {
            ": its cgroup counted an OOM kill"
        } else {
            ", by whom is not in the capture (look for an OOM kill in the kernel log)"
        }
    ))
}

fn answer(joined: &Joined, findings: &[Finding]) -> Verdict {
    let ledger = main_ledger(joined);
    if let Some(f) = findings.iter().find(|f| f.code != rules::NOT_MEMORY && makes_headline(f)) {
        return from_memory(ledger, f);
    }
    if let Some(idle) = ledger.and_then(|l| idle(joined, l)) {
        return idle;
    }
    if let Some(f) = findings.iter().find(|f| f.code == rules::NOT_MEMORY) {
        return from_finding(VerdictKind::NotMemory, f);
    }
    match ledger {
        Some(l) if share(l, LedgerCategory::Unexplained) >= UNEXPLAINED_SHARE => unexplained(joined, l),
        Some(l) => nothing(joined, l, findings),
        None => no_window(joined),
    }
}

fn main_ledger(joined: &Joined) -> Option<&Ledger> {
    joined.facts.ledgers.iter().find(|l| l.total_ns() > 0)
}

/// Which request a window is about, and what is usual; null for the first one, which everybody can find.
fn which_request(ledger: &Ledger) -> Option<String> {
    let r = ledger.window.request.as_ref().filter(|_| ledger.window.name != FIRST_REQUEST)?;
    let mut out = format!(" It is request {} of {}", units::count(r.number), units::count(r.of));
    if let Some(ns) = r.start_realtime_ns {
        out.push_str(&format!(", begun at {}", units::utc_ms(ns)));
    }
    if let Some(p50) = r.p50_ns {
        let ledger_ns = units::duration(ledger.total_ns());
        out.push_str(&format!(
            "; it took {ledger_ns}, the median of {} is {}",
            units::counted(r.answered, "answered request", "answered requests"),
            units::duration(p50),
        ));
        if let Some(p99) = r.p99_ns {
            out.push_str(&format!(" (p99 {})", units::duration(p99)));
        }
    }
    out.push('.');
    Some(out)
}

/// A process that slept nearly all the time while no request was seen.
fn idle(joined: &Joined, ledger: &Ledger) -> Option<Verdict> {
    let requests = joined.facts.requests.iter().find(|r| r.pid == ledger.pid)?;
    let asked = requests.answered + requests.unanswered > 0 || !requests.unseen.is_empty();
    if ledger.window.name != WHOLE_CAPTURE || asked {
        return None;
    }
    // A recorder that was killed at once has seen nobody sleep.
    let seen = |table: &str| joined.facts.capture.rows.iter().any(|(t, n)| t == table && *n > 0);
    if !joined.facts.capture.complete && !["faults", "memory_calls", "io_calls", "off_cpu"].into_iter().any(seen) {
        return Some(no_window(joined));
    }
    let slept = |r: &&LedgerRow| {
        r.category == LedgerCategory::WaitingForClient
            || r.category == LedgerCategory::Unexplained && r.top.as_deref().is_some_and(is_asleep)
    };
    let slept_ns: i64 = ledger.rows.iter().filter(slept).map(|r| r.wall_ns).sum();
    let total = ledger.total_ns();
    if (slept_ns as f64) < ASLEEP_SHARE * total as f64 {
        return None;
    }
    let (share, total) = (units::share(slept_ns as f64, total as f64), units::duration(total));
    let mut reasons = rules::gaps(joined, ledger);
    let mut confidence = if reasons.is_empty() { Confidence::High } else { Confidence::Low };
    if requests.serves {
        reasons.push(
            "a request that was read before the recording began, and hangs since, would look the same".to_owned(),
        );
    } else {
        confidence = confidence.min(Confidence::Medium);
        reasons.push("nothing shows what this process is to do: a stuck one sleeps, too".to_owned());
    }
    Some(Verdict {
        kind: VerdictKind::NothingFound,
        sentence: if requests.serves {
            format!("Nothing was asked of process {}: in {total} no request came in, and it slept {share} of the time.", ledger.pid)
        } else {
            format!("Nothing was asked of process {}, as far as was seen: it slept {share} of {total}, and nobody was connected to it.", ledger.pid)
        },
        action: Some(
            "Record while it is slow: start the recording, then send it the request that is slow, or wait until users do. If it should have been working in this time it is stuck: look at the stacks of its threads."
                .to_owned(),
        ),
        confidence,
        confidence_reasons: reasons,
        finding: None,
    })
}

fn makes_headline(f: &Finding) -> bool {
    match &f.cost {
        Some(cost) => cost.share() >= HEADLINE_SHARE,
        // A refused mapping costs no time, it breaks something.
        None => f.confidence >= Confidence::Medium,
    }
}

/// A cause in memory, and what takes more of the window if something does.
fn from_memory(ledger: Option<&Ledger>, f: &Finding) -> Verdict {
    let of_window = ledger.filter(|l| f.cost.as_ref().is_some_and(|c| c.window == l.window.name));
    let Some((l, more)) = of_window.and_then(|l| Some((l, more_than_memory(l)?))) else {
        return from_finding(VerdictKind::Memory, f);
    };
    let mut verdict = from_finding(VerdictKind::MemoryInPart, f);
    verdict.sentence.push_str(&format!(
        " The largest part of the {} is something else: {}, {} ({}).",
        l.window.name,
        units::category(more.category),
        units::duration(more.wall_ns),
        units::share(more.wall_ns as f64, l.total_ns() as f64),
    ));
    verdict
}

/// The category that takes more of a window than memory does; null if memory has the largest part.
///
/// What recording cost comes with the faults and is no cause of its own.
fn more_than_memory(ledger: &Ledger) -> Option<&LedgerRow> {
    use LedgerCategory as C;
    let is_other =
        |r: &&LedgerRow| !matches!(r.category, C::Faults | C::MemoryCalls | C::GcStw | C::Throttled | C::Recorder);
    let largest = ledger.rows.iter().filter(is_other).max_by_key(|r| r.wall_ns)?;
    (largest.wall_ns > rules::memory_ns(ledger)).then_some(largest)
}

fn share(ledger: &Ledger, category: LedgerCategory) -> f64 {
    ledger.wall_ns(category) as f64 / ledger.total_ns().max(1) as f64
}

fn from_finding(kind: VerdictKind, f: &Finding) -> Verdict {
    let mut action = sentence(&f.fix.what);
    if let (Some(low), Some(high), Some(cost)) = (f.fix.gain_low_ns, f.fix.gain_high_ns, &f.cost) {
        action.push_str(&format!(
            " The {} gets shorter by {} and keeps {}{}.",
            cost.window,
            units::duration_range(low, high),
            units::duration_range(cost.left_ns(high), cost.left_ns(low)),
            if cost.recording_ns * 50 > cost.window_ns {
                format!(" (another {} of it was the recording itself)", units::duration(cost.recording_ns))
            } else {
                String::new()
            }
        ));
    }
    if let Some(caution) = &f.fix.caution {
        action.push(' ');
        action.push_str(&sentence(caution));
    }
    let headline = match kind {
        VerdictKind::NotMemory => format!("Not memory: {}.", f.claim),
        _ => sentence(&f.claim),
    };
    Verdict {
        kind,
        sentence: headline,
        action: Some(action),
        confidence: f.confidence,
        confidence_reasons: f.confidence_reasons.clone(),
        finding: Some(f.code.clone()),
    }
}

fn unexplained(joined: &Joined, ledger: &Ledger) -> Verdict {
    let row = ledger.rows.iter().find(|r| r.category == LedgerCategory::Unexplained);
    let ns = row.map_or(0, |r| r.wall_ns);
    let why = row.and_then(|r| r.top.clone()).unwrap_or_else(|| "no thread of the process was seen".to_owned());
    let mut reasons = vec![format!(
        "the rest of the {} is accounted for: {}",
        ledger.window.name,
        units::duration(ledger.total_ns() - ns)
    )];
    let gaps = rules::gaps(joined, ledger);
    let confidence = if gaps.is_empty() { Confidence::Medium } else { Confidence::Low };
    reasons.extend(gaps);
    reasons.extend(joined.facts.trust.not_checked.iter().cloned());
    Verdict {
        kind: VerdictKind::Unexplained,
        sentence: format!(
            "Unexplained: in {} of {} of the {} the process's critical thread did nothing that was recorded ({why}).",
            units::duration(ns),
            units::duration(ledger.total_ns()),
            ledger.window.name
        ),
        action: Some(
            "Look at what the process waited for: other processes of the capture, a timer, a lock; then at what no capture sees: the hypervisor, CPU throttling, the other side of a connection. `mtrace doctor` says which probes this host lacks."
                .to_owned(),
        ),
        confidence,
        confidence_reasons: reasons,
        finding: None,
    }
}

/// A window that no rule explains: says what took most of it all the same.
fn nothing(joined: &Joined, ledger: &Ledger, findings: &[Finding]) -> Verdict {
    let total = ledger.total_ns();
    let memory = rules::memory_ns(ledger);
    let dominant = memory as f64 >= HEADLINE_SHARE * total as f64;
    let more = more_than_memory(ledger);
    let mut sentence = format!(
        "{}: page faults, memory calls and stop-the-world took {} of {} of the {}.",
        match (dominant, more) {
            (false, _) => "No memory cause dominates",
            (true, Some(_)) => "Memory takes a good part of the time, and something else takes more",
            (true, None) => "Memory takes the largest part, but no single cause that mtrace knows",
        },
        units::duration(memory),
        units::duration(total),
        ledger.window.name
    );
    let largest = more
        .filter(|_| dominant)
        .or_else(|| ledger.rows.iter().find(|r| !dominant && r.category != LedgerCategory::Unexplained));
    if let Some(r) = largest {
        sentence.push_str(&format!(
            " The largest part: {}, {}.",
            units::category(r.category),
            units::duration(r.wall_ns)
        ));
    }
    if dominant {
        sentence.push_str(&largest_faults(joined, ledger));
    }
    if let Some(why) = rules::slower_unseen(joined, ledger) {
        sentence.push_str(&format!(" Look at the timeline: {why}."));
    }
    if let Some(f) = findings.first() {
        sentence.push_str(&format!(" The largest finding: {}.", f.claim));
    }
    let gaps = rules::gaps(joined, ledger);
    let (confidence, reasons) = if gaps.is_empty() && joined.facts.trust.damage.is_empty() {
        (Confidence::Medium, vec!["everything that was asked for was recorded, and nothing was lost".to_owned()])
    } else {
        (Confidence::Low, gaps.into_iter().chain(joined.facts.trust.damage.iter().take(3).cloned()).collect())
    };
    Verdict {
        kind: if dominant { VerdictKind::MemoryInPart } else { VerdictKind::NothingFound },
        sentence,
        action: None,
        confidence,
        confidence_reasons: reasons,
        finding: None,
    }
}

/// The kind of fault with the largest share of the window, and who is behind it.
fn largest_faults(joined: &Joined, ledger: &Ledger) -> String {
    let Some(share) = joined.shares_of(ledger, LedgerCategory::Faults).max_by_key(|s| s.wall_ns) else {
        return String::new();
    };
    let kind = match share.kind {
        Some(TouchKind::AnonFirstTouch) => "first touches of anonymous memory",
        Some(TouchKind::AnonRefault) => "faults on pages given back before",
        Some(TouchKind::CopyOnWrite) => "copies on write",
        Some(TouchKind::FileMinor) => "faults on file pages in the page cache",
        Some(TouchKind::FileMajor) => "file pages that had to be read (major faults)",
        Some(TouchKind::AnonMajor) => "pages read back from swap (major faults)",
        Some(TouchKind::Unknown) | None => "faults on memory that the replay does not know",
    };
    let who =
        share.who.as_ref().map_or_else(String::new, |w| format!(" in `{}`", units::location(w).replace('`', "'")));
    format!(" Most of memory's: {} {kind}{who}, {}.", units::count(share.count), units::duration(share.wall_ns))
}

fn no_window(joined: &Joined) -> Verdict {
    Verdict {
        kind: VerdictKind::NothingFound,
        sentence: if joined.facts.capture.complete {
            "Nothing to explain: the capture holds no events of a target.".to_owned()
        } else {
            "Nothing can be said: the recorder was killed before it had closed a segment with events.".to_owned()
        },
        action: Some(
            "Record again: `mtrace doctor` says what this host allows, and with `--segment-interval 1s` a kill costs less."
                .to_owned(),
        ),
        confidence: Confidence::Low,
        confidence_reasons: joined.facts.trust.damage.clone(),
        finding: None,
    }
}

/// First letter in upper case (a name in code begins with a backtick and stays), full stop at the end.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let mut out: String = match chars.next() {
        Some(c) => c.to_uppercase().chain(chars).collect(),
        None => return String::new(),
    };
    if !out.ends_with(['.', '!', '?']) {
        out.push('.');
    }
    out
}
