//! The sentences that several formats share.

use crate::model::{
    Analysis, Finding, Fix, FlameGraph, Ledger, LedgerCategory, LedgerRow, ProcessFact, RequestTable, RuledOut, Trust,
    Verdict, VerdictKind,
};

use super::escape::{as_sentence, shorten};
use super::format;

/// What kind of answer it is, in the words of a headline.
pub(super) fn kind_label(kind: VerdictKind) -> &'static str {
    match kind {
        VerdictKind::Memory => "Memory is the cause",
        VerdictKind::MemoryInPart => "Memory is a part of it",
        VerdictKind::NotMemory => "Not memory",
        VerdictKind::Unexplained => "Unexplained",
        VerdictKind::NothingFound => "No single cause found",
    }
}

/// The finding behind the verdict.
pub(super) fn main_finding(analysis: &Analysis) -> Option<&Finding> {
    let code = analysis.verdict.finding.as_ref()?;
    analysis.findings.iter().find(|f| f.code == *code)
}

/// All other findings, in their order.
pub(super) fn runners_up(analysis: &Analysis) -> Vec<&Finding> {
    let main = main_finding(analysis);
    analysis.findings.iter().filter(|f| !main.is_some_and(|m| std::ptr::eq(m, *f))).collect()
}

/// All findings, the verdict's first: the reader comes from there.
pub(super) fn ranked(analysis: &Analysis) -> Vec<&Finding> {
    main_finding(analysis).into_iter().chain(runners_up(analysis)).collect()
}

/// The verdict's sentence without the words that stand above it already.
pub(super) fn sentence(verdict: &Verdict) -> String {
    let label = kind_label(verdict.kind);
    let rest = verdict.sentence.strip_prefix(label).and_then(|r| r.strip_prefix([':', '.'])).map(str::trim_start);
    match rest.filter(|r| !r.is_empty()) {
        Some(rest) => as_sentence(rest),
        None => verdict.sentence.clone(),
    }
}

/// True if a text has said something already, but for its first letter and its full stop.
pub(super) fn says(text: Option<&str>, something: &str) -> bool {
    let plain = |s: &str| s.trim().trim_end_matches('.').to_lowercase();
    text.is_some_and(|t| plain(t).contains(&plain(something)))
}

/// Causes that were checked and are not there.
pub(super) fn ruled_out(analysis: &Analysis) -> impl Iterator<Item = &RuledOut> {
    analysis.ruled_out.iter().filter(|r| r.checked)
}

/// Causes that could not be checked.
pub(super) fn not_checked(analysis: &Analysis) -> impl Iterator<Item = &RuledOut> {
    analysis.ruled_out.iter().filter(|r| !r.checked)
}

/// `212 ms of 286 ms (74 %) of the first request`; null if the cost is not time.
pub(super) fn cost(finding: &Finding) -> Option<String> {
    let cost = finding.cost.as_ref()?;
    Some(format!(
        "{} of {} ({}), {}",
        format::duration(cost.wall_ns),
        format::duration(cost.window_ns),
        format::share(cost.wall_ns as f64, cost.window_ns as f64),
        cost.window
    ))
}

/// Rows of a ledger that are worth a line, and those that are not: little time is one remark, however many kinds it
/// is of. What is unexplained is always worth a line.
pub(super) fn worth_a_line(ledger: &Ledger) -> (Vec<&LedgerRow>, Vec<&LedgerRow>) {
    let least = ledger.total_ns() / 200;
    let (worth, small): (Vec<_>, Vec<_>) =
        ledger.rows.iter().partition(|r| r.wall_ns >= least || r.category == LedgerCategory::Unexplained);
    if small.len() > 1 { (worth, small) } else { (ledger.rows.iter().collect(), Vec::new()) }
}

/// What the fix gains: `190–230 ms`; null if it cannot be bounded.
pub(super) fn gain(fix: &Fix) -> Option<String> {
    match (fix.gain_low_ns, fix.gain_high_ns) {
        (Some(low), Some(high)) => Some(format::duration_range(low.min(high), high.max(low))),
        (Some(low), None) => Some(format!("at least {}", format::duration(low))),
        (None, Some(high)) => Some(format!("at most {}", format::duration(high))),
        (None, None) => None,
    }
}

/// What is left of the window after the fix: `56–96 ms`.
pub(super) fn left_after_fix(finding: &Finding) -> Option<String> {
    let cost = finding.cost.as_ref()?;
    let (low, high) = (finding.fix.gain_low_ns?, finding.fix.gain_high_ns?);
    Some(format::duration_range(cost.left_ns(low.max(high)), cost.left_ns(low.min(high))))
}

/// Why a flight recorder wrote this capture, and what of the time around it is in here; null for other recordings.
pub(super) fn trigger(analysis: &Analysis) -> Option<String> {
    let t = analysis.facts.capture.trigger.as_ref()?;
    let when = t.realtime_ns.map_or_else(String::new, |ns| format!(" at {}", format::utc_ms(ns)));
    let mut out = format!(
        "`{}` fired{when}: {}; this capture holds {} before it and {} after it",
        t.trigger.replace('`', "'"),
        t.what,
        format::duration(t.before_ns),
        format::duration(t.after_ns)
    );
    if t.cut_by_size {
        out.push_str("; more was wanted, and the bound of the size did not leave it");
    }
    if t.also > 0 {
        out.push_str(&format!("; triggers fired {} more times before it was written", format::count(t.also)));
    }
    if t.suppressed > 0 {
        let n = format::count(t.suppressed);
        out.push_str(&format!(
            "; {n} triggers since the dump before this one wrote nothing, as dumps are rate-limited"
        ));
    }
    Some(out)
}

/// Which process the answer is about, and which others were recorded: `process 4711 (`service`), 1 inside its
/// container, cgroup `/docker/…`; …`; null if no process is known.
pub(super) fn about(analysis: &Analysis) -> Option<String> {
    /// Others named.
    const NAMED: usize = 3;
    let (main, others) = main_process(analysis)?;
    let mut out = process_and_pid_inside(main);
    if let Some(group) = main.cgroup.as_deref().filter(|g| *g != "/") {
        out.push_str(&format!(", cgroup {}", code(group)));
    }
    if !others.is_empty() {
        let named: Vec<String> = others.iter().take(NAMED).map(|p| process_name(p)).collect();
        let more = others.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {} more", format::count(more as u64)) } else { String::new() };
        out.push_str(&format!(
            "; {} also recorded: {}{more} (explain another with `mtrace analyze --pid`)",
            format::counted(others.len() as u64, "other process was", "other processes were"),
            named.join(", "),
        ));
    }
    Some(out)
}

/// The same in one line of a terminal.
pub(super) fn about_in_short(analysis: &Analysis) -> Option<String> {
    let (main, others) = main_process(analysis)?;
    let others = match others.len() as u64 {
        0 => String::new(),
        n => format!("; {} also recorded", format::counted(n, "other was", "others were")),
    };
    Some(process_and_pid_inside(main) + &others)
}

/// The process that the answer is about, and the others, those with most events first.
fn main_process(analysis: &Analysis) -> Option<(&ProcessFact, Vec<&ProcessFact>)> {
    let all = &analysis.facts.capture.processes;
    let weight = |p: &ProcessFact| p.faults.saturating_add(p.memory_calls);
    let main = match analysis.facts.ledgers.first() {
        Some(ledger) => all.iter().find(|p| p.pid == ledger.pid)?,
        None => all.iter().max_by_key(|p| weight(p))?,
    };
    let mut others: Vec<&ProcessFact> = all.iter().filter(|p| p.pid != main.pid).collect();
    others.sort_by_key(|p| std::cmp::Reverse(weight(p)));
    Some((main, others))
}

fn process_and_pid_inside(p: &ProcessFact) -> String {
    match p.ns_pid.filter(|inside| *inside != p.pid) {
        Some(inside) => format!("{}, {inside} inside its container", process_name(p)),
        None => process_name(p),
    }
}

fn process_name(p: &ProcessFact) -> String {
    match p.comm.as_deref() {
        Some(comm) => format!("process {} ({})", p.pid, code(comm)),
        None => format!("process {}", p.pid),
    }
}

/// A name between backticks; it may hold some itself. A container's group is some 150 characters long.
fn code(name: &str) -> String {
    format!("`{}`", shorten(name, 200).replace('`', "'"))
}

/// `60 answered, median 0.3 ms, p90 0.5 ms, p99 212 ms, longest 212 ms`; null if the main process was asked nothing.
pub(super) fn requests(analysis: &Analysis) -> Option<String> {
    let r = main_requests(analysis)?;
    let mut out = format!("{} answered", format::count(r.answered));
    if r.unanswered > 0 {
        out.push_str(&format!(", {} not", format::count(r.unanswered)));
    }
    for (name, ns) in [("median", r.p50_ns), ("p90", r.p90_ns), ("p99", r.p99_ns), ("longest", r.max_ns)] {
        if let Some(ns) = ns {
            out.push_str(&format!(", {name} {}", format::duration(ns)));
        }
    }
    Some(out)
}

/// `request 30 of 60, begun at 2026-11-23 17:05:12.345 UTC`; null if the main process was asked nothing.
pub(super) fn slowest_request(analysis: &Analysis) -> Option<String> {
    let r = main_requests(analysis)?;
    let slowest = r.slowest.first()?;
    let all = r.answered.saturating_add(r.unanswered);
    let when = slowest.start_realtime_ns.map_or_else(String::new, |ns| format!(", begun at {}", format::utc_ms(ns)));
    Some(format!("request {} of {}{when}", format::count(slowest.number), format::count(all)))
}

fn main_requests(analysis: &Analysis) -> Option<&RequestTable> {
    let pid = analysis.facts.ledgers.first()?.pid;
    analysis.facts.requests.iter().find(|r| r.pid == pid && !r.slowest.is_empty())
}

/// Name of a graph's SVG file. The name is one of ours, but nothing but a plain name may become a path.
pub(super) fn svg_file(graph: &FlameGraph) -> String {
    let plain: String = graph
        .id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
        .take(64)
        .collect();
    format!("{}.svg", if plain.is_empty() { "graph" } else { &plain })
}

/// True if a graph has anything to draw.
pub(super) fn has_weight(graph: &FlameGraph) -> bool {
    graph.folded.iter().any(|(_, weight)| *weight > 0)
}

/// The moment that times are relative to: the begin of the most important window.
pub(super) fn zero_ns(analysis: &Analysis) -> i64 {
    analysis.facts.ledgers.first().map_or(analysis.facts.capture.start_ns, |l| l.window.start_ns)
}

/// What zero is, in words.
pub(super) fn zero_name(analysis: &Analysis) -> String {
    match analysis.facts.ledgers.first() {
        Some(Ledger { window, .. }) => format!("0 is the begin of the {}: {}", window.name, window.begins_with),
        None => "0 is the begin of the capture".to_owned(),
    }
}

/// Events that were lost, of all probes.
pub(super) fn lost_events(trust: &Trust) -> u64 {
    trust.losses.iter().fold(0_u64, |sum, l| sum.saturating_add(l.2))
}

/// Probes whose events do not add up.
pub(super) fn unbalanced(trust: &Trust) -> impl Iterator<Item = &(String, u64, u64, u64)> {
    trust.accounts.iter().filter(|(_, seen, written, lost)| *seen != written.saturating_add(*lost))
}

/// Why the report deserves trust, or less of it, in short clauses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TrustSummary {
    /// What speaks for it.
    pub good: Vec<String>,
    /// What speaks against it.
    pub bad: Vec<String>,
}

impl TrustSummary {
    pub(super) fn new(analysis: &Analysis) -> Self {
        let mut out = Self::default();
        out.replay(&analysis.facts.trust);
        out.losses(&analysis.facts.trust);
        out.fidelity(&analysis.facts.trust);
        out.coverage(&analysis.facts.trust);
        out.completeness(analysis);
        out
    }

    /// One line for Markdown and the terminal.
    pub(super) fn line(&self) -> String {
        self.bad.iter().chain(&self.good).map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    fn replay(&mut self, trust: &Trust) {
        let all = trust.replay.len();
        let equal = trust.replay.iter().filter(|r| r.equal).count();
        match (all, equal) {
            (0, _) => self.bad.push("no snapshot to check the replay against".to_owned()),
            (all, equal) if all == equal => {
                self.good.push(format!("replay equals the kernel's own map in {equal} of {all} snapshots"));
            }
            _ => {
                let sum = |f: fn(&crate::model::ReplayCertificate) -> u64| {
                    trust.replay.iter().fold(0_u64, |sum, r| sum.saturating_add(f(r)))
                };
                let part = format::share_of((sum(|r| r.agreeing_bytes), sum(|r| r.snapshot_bytes)));
                self.bad.push(format!("replay equals {equal} of {all} snapshots ({part} of the bytes agree)"));
            }
        }
    }

    fn losses(&mut self, trust: &Trust) {
        let lost = lost_events(trust);
        let odd = unbalanced(trust).count();
        if lost > 0 {
            self.bad.push(format!("{} lost", format::counted(lost, "event", "events")));
        }
        if odd > 0 {
            self.bad.push(format!("the accounts of {} do not balance", format::counted(odd as u64, "probe", "probes")));
        }
        if lost == 0 && odd == 0 {
            match trust.accounts.is_empty() {
                true => self.bad.push("no account of what was lost".to_owned()),
                false => self.good.push("nothing lost".to_owned()),
            }
        }
    }

    fn fidelity(&mut self, trust: &Trust) {
        let time = |counted: bool| {
            let of_kind = trust.fidelity.iter().filter(|f| f.weight.is_none() == counted);
            of_kind.fold(0_i64, |sum, f| sum.saturating_add(f.to.saturating_sub(f.from)))
        };
        for (ns, how) in [(time(true), "only counted"), (time(false), "sampled and estimated")] {
            if ns > 0 {
                self.bad.push(format!("faults {how} for {}", format::duration(ns)));
            }
        }
    }

    fn coverage(&mut self, trust: &Trust) {
        let parts = [
            (trust.faults_charged, "faults charged to a mapping"),
            (trust.faults_timed, "faults timed"),
            (trust.frames_named, "frames named"),
        ];
        for ((part, whole), what) in parts {
            if whole > 0 {
                // Below nine tenths a missing part can hide the cause.
                let list = if part as f64 >= 0.9 * whole as f64 { &mut self.good } else { &mut self.bad };
                list.push(format!("{} of {what}", format::share_of((part, whole))));
            }
        }
    }

    fn completeness(&mut self, analysis: &Analysis) {
        let trust = &analysis.facts.trust;
        if !analysis.facts.capture.complete {
            self.bad.push("the recorder was killed before it closed the capture".to_owned());
        }
        if !trust.clock_settings.is_empty() {
            let n = format::counted(trust.clock_settings.len() as u64, "time", "times");
            self.bad
                .push(format!("the wall clock was set {n} while recording: times of day follow it as it was before"));
        }
        if !trust.damage.is_empty() {
            self.bad
                .push(format!("capture damaged in {}", format::counted(trust.damage.len() as u64, "place", "places")));
        }
        let missing = trust.probes.iter().filter(|p| !matches!(p.status.as_str(), "ran" | "not applicable"));
        let missing: Vec<&str> = missing.map(|p| p.name.as_str()).collect();
        if !missing.is_empty() {
            self.bad.push(format!("probes not or only partly there: {}", missing.join(", ")));
        }
    }
}
