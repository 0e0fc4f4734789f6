//! What several rules need: the window that matters, what limits confidence, texts.

use crate::context::Joined;
use crate::model::{
    CodeLocation, Confidence, Cost, Evidence, FidelityFact, Finding, Ledger, LedgerCategory, LookAlike, RuledOut,
    Stalls,
};
use crate::units;

/// The ledger of the window that matters most: the first one (windows are ordered by the joins).
pub(super) fn main_ledger(joined: &Joined) -> Option<&Ledger> {
    joined.facts.ledgers.iter().find(|l| l.total_ns() > 0)
}

/// Size of a page of the host that was recorded, of 4 KiB if the capture does not say it.
pub(super) fn page_bytes(joined: &Joined) -> u64 {
    joined.host.page_size_bytes.unwrap_or(4096)
}

/// True if the probe ran, at least in part.
pub(super) fn probe_ran(joined: &Joined, name: &str) -> bool {
    joined.facts.trust.probes.iter().any(|p| p.name == name && matches!(p.status.as_str(), "ran" | "partial"))
}

/// Lowers a confidence for everything that weakens what a probe says, and gives the reasons.
pub(super) struct Doubt {
    confidence: Confidence,
    reasons: Vec<String>,
}

impl Doubt {
    /// Starts without doubt.
    pub(super) fn new() -> Self {
        Self { confidence: Confidence::High, reasons: Vec::new() }
    }

    /// A fact that supports the claim.
    pub(super) fn supported(&mut self, reason: impl Into<String>) {
        self.reasons.push(reason.into());
    }

    /// A fact that limits the confidence.
    pub(super) fn at_most(&mut self, confidence: Confidence, reason: impl Into<String>) {
        self.confidence = self.confidence.min(confidence);
        self.reasons.push(reason.into());
    }

    /// Looks at what is missing of a probe's events.
    pub(super) fn accounting(&mut self, joined: &Joined, probe: &str) {
        match (missing_text(joined, probe), missing(joined, probe)) {
            (None, Missing::Nothing { seen }) => {
                self.supported(format!("{} events of `{probe}` seen, none lost", units::count(seen)))
            }
            (text, _) => {
                let level = if is_thin(joined, probe) { Confidence::Low } else { Confidence::Medium };
                self.at_most(level, text.unwrap_or_default());
            }
        }
    }

    /// Looks at how many faults the replay could place and time, and whether all of the window were recorded.
    pub(super) fn fault_coverage(&mut self, joined: &Joined) {
        self.sampled(joined);
        for (what, (part, all)) in
            [("charged to a mapping", joined.facts.trust.faults_charged), ("timed", joined.facts.trust.faults_timed)]
        {
            let share = if all == 0 { 1.0 } else { part as f64 / all as f64 };
            let text = format!("{} of the faults {what}", percent(share));
            if share >= 0.99 {
                self.supported(text);
            } else {
                self.at_most(if share >= 0.9 { Confidence::Medium } else { Confidence::Low }, text);
            }
        }
        let (sure, all) = joined.facts.trust.faults_of_sure_stack;
        if all > 0 && (sure as f64) < 0.99 * all as f64 {
            let text = format!("{} of the faults may have another caller", percent(1.0 - sure as f64 / all as f64));
            self.at_most(Confidence::Medium, text);
        }
    }

    /// Looks at whether the faults of the window are an estimate.
    fn sampled(&mut self, joined: &Joined) {
        if let Some(weight) = of_window(joined).filter_map(|(f, _)| f.weight).max() {
            let why = format!("faults of the window are estimated from a sample of 1 in {weight}");
            self.at_most(Confidence::Medium, why);
        }
    }

    /// Looks at whether the window's request is known to be the one that matters.
    pub(super) fn requests(&mut self, joined: &Joined, ledger: &Ledger) {
        for why in joined.unseen_requests(ledger.pid) {
            self.at_most(Confidence::Medium, why.clone());
        }
    }

    /// The result.
    pub(super) fn finish(self) -> (Confidence, Vec<String>) {
        (self.confidence, self.reasons)
    }
}

/// The place with its function as a code span (the report shows backticks as such), or a placeholder.
pub(super) fn place(location: Option<&CodeLocation>) -> String {
    let Some(l) = location else { return "an unknown place".to_owned() };
    let function = units::short_function(&l.function).replace('`', "'");
    match units::file_line(l.file.as_deref(), l.line) {
        Some(at) => format!("`{function}` ({})", at.replace('`', "'")),
        None => format!("`{function}`"),
    }
}

/// The query for number and service time of the faults with a property, over the tables that the capture has.
pub(super) fn faults_query(joined: &Joined, property: &str) -> String {
    let has = |table: &str| joined.facts.capture.rows.iter().any(|(name, n)| name == table && *n > 0);
    let sampled = joined.facts.trust.fidelity.iter().any(|f| f.weight.is_some());
    let (one, times) = if sampled { ("sum(weight)", " * weight") } else { ("count(*)", "") };
    let single = format!("SELECT {one} AS n, sum(dur{times}) AS ns FROM 'CAPTURE/faults/*.parquet' WHERE {property}");
    if !has("fault_runs") {
        return single;
    }
    format!(
        "SELECT sum(n), sum(ns) FROM ({single} UNION ALL SELECT sum(count{times}), sum(dur_sum{times}) FROM 'CAPTURE/fault_runs/*.parquet' WHERE {property})"
    )
}

/// Wall time in a window, as the cost of a finding.
pub(super) fn cost(ledger: &Ledger, wall_ns: i64) -> Cost {
    Cost {
        wall_ns,
        window_ns: ledger.total_ns(),
        window: ledger.window.name.clone(),
        recording_ns: ledger.wall_ns(LedgerCategory::Recorder),
    }
}

/// How much of the time that a finding cost is placed by recorded wake-ups; null if they were not recorded, or if the
/// cost is not time.
pub(super) fn path_evidence(joined: &Joined, f: &Finding) -> Option<Evidence> {
    let cost = f.cost.as_ref()?;
    let ledger = joined.facts.ledgers.iter().find(|l| l.pid == f.pid && l.window.name == cost.window)?;
    let measured = ledger.path_measured_ns?;
    Some(Evidence {
        what: format!("part of the {} for which recorded wake-ups give the thread; the rest is inferred", cost.window),
        value: percent(measured as f64 / ledger.total_ns().max(1) as f64),
        query: None,
    })
}

/// A ratio as `97 %`.
pub(super) fn percent(ratio: f64) -> String {
    units::share(ratio, 1.0)
}

/// Events of a probe that the analysis does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// All that the kernel side saw were read.
    Nothing {
        /// Events seen.
        seen: u64,
    },
    /// Lost by the recorder, or in segments that could not be read.
    Some {
        /// How many.
        missing: u64,
        /// Of how many.
        seen: u64,
    },
    /// The recorder was killed before it could tell.
    Unknown {
        /// Rows that were read.
        rows: u64,
    },
}

/// Compares what was seen in the kernel with the rows that were read; the name of a probe is that of its table.
pub(super) fn missing(joined: &Joined, probe: &str) -> Missing {
    let rows = joined.facts.capture.rows.iter().find(|(table, _)| table == probe).map_or(0, |(_, n)| *n);
    if !joined.facts.capture.complete {
        return Missing::Unknown { rows };
    }
    let seen = joined.facts.trust.accounts.iter().find(|(p, ..)| p == probe).map_or(rows, |(_, seen, ..)| *seen);
    if rows >= seen { Missing::Nothing { seen } } else { Missing::Some { missing: seen - rows, seen } }
}

/// The intervals of sampled or only counted faults in the window that matters, with the time of theirs that lies there.
fn of_window(joined: &Joined) -> impl Iterator<Item = (&FidelityFact, i64)> {
    let window = main_ledger(joined).map_or((i64::MIN, i64::MAX), |l| (l.window.start_ns, l.window.end_ns));
    let all = joined.facts.trust.fidelity.iter();
    all.map(move |f| (f, f.to.min(window.1).saturating_sub(f.from.max(window.0)))).filter(|(_, ns)| *ns > 0)
}

/// Time of the window that matters in which the recorder only counted faults, to stay within its budget.
fn only_counted_ns(joined: &Joined, probe: &str) -> i64 {
    if probe != "faults" {
        return 0;
    }
    of_window(joined).filter(|(f, _)| f.weight.is_none()).fold(0, |sum, (_, ns)| sum.saturating_add(ns))
}

/// What is missing, in plain words.
pub(super) fn missing_text(joined: &Joined, probe: &str) -> Option<String> {
    let counted = only_counted_ns(joined, probe);
    let left_out = (counted > 0).then(|| {
        format!("for {} of it `{probe}` were only counted, to stay within the budget", units::duration(counted))
    });
    let lost = match missing(joined, probe) {
        Missing::Nothing { .. } => None,
        Missing::Some { missing, seen } => {
            Some(format!("{} of {} events of `{probe}` are missing", units::count(missing), units::count(seen)))
        }
        Missing::Unknown { rows } => Some(format!(
            "the recorder was killed: {} events of `{probe}` were read, how many are missing is not known",
            units::count(rows)
        )),
    };
    let both: Vec<String> = left_out.into_iter().chain(lost).collect();
    (!both.is_empty()).then(|| both.join("; "))
}

/// True if so much is missing that the absence of something means nothing.
pub(super) fn is_thin(joined: &Joined, probe: &str) -> bool {
    let window = main_ledger(joined).map_or(0, Ledger::total_ns);
    if only_counted_ns(joined, probe).saturating_mul(100) > window.max(1) {
        return true;
    }
    match missing(joined, probe) {
        Missing::Nothing { .. } => false,
        Missing::Some { missing, seen } => missing.saturating_mul(100) > seen,
        Missing::Unknown { rows } => rows == 0,
    }
}

/// "Ruled out", after having looked at the events of `probes`; "not checked" if some of them are missing.
pub(super) fn ruled_out(joined: &Joined, code: &str, cause: &str, why: impl Into<String>, probes: &[&str]) -> RuledOut {
    let mut why = why.into();
    let gaps: Vec<String> = probes.iter().filter_map(|p| missing_text(joined, p)).collect();
    for gap in &gaps {
        why.push_str("; but ");
        why.push_str(gap);
    }
    RuledOut { code: code.to_owned(), cause: cause.to_owned(), why, checked: gaps.is_empty() }
}

/// "Could not be checked".
pub(super) fn not_checked(code: &str, cause: &str, why: impl Into<String>) -> RuledOut {
    RuledOut { code: code.to_owned(), cause: cause.to_owned(), why: why.into(), checked: false }
}

/// No collector was seen by these probes: nothing to check where no target has one, "could not be checked" elsewhere.
pub(super) fn no_collector(joined: &Joined, code: &str, cause: &str, probes: &[&str]) -> RuledOut {
    let has_none =
        |name: &&str| joined.facts.trust.probes.iter().any(|p| p.name == *name && p.status == "not applicable");
    if probes.iter().all(has_none) {
        return ruled_out(joined, code, cause, "no target has such a garbage collector", &[]);
    }
    not_checked(code, cause, "no garbage collector was observed")
}

/// Reclaim as a look-alike of anything that makes faults slow.
pub(super) fn reclaim_look_alike(joined: &Joined) -> LookAlike {
    let cause = "direct reclaim or memory pressure made the faults slow".to_owned();
    if probe_ran(joined, "reclaims") && missing_text(joined, "reclaims").is_none() {
        let (_, sum, _) = Stalls::total(joined.facts.reclaims.iter().map(|g| &g.stalls));
        let observation = match sum {
            0 => "no thread of the targets had to reclaim or compact memory".to_owned(),
            _ => format!("threads of the targets reclaimed or compacted memory for {}", units::duration(sum)),
        };
        return LookAlike { cause, observation, excluded: sum == 0 };
    }
    match joined.memory_pressure_us() {
        Some(0) => LookAlike {
            cause,
            observation: "PSI: no task waited for memory during the capture".to_owned(),
            excluded: true,
        },
        Some(us) => LookAlike {
            cause,
            observation: format!(
                "PSI: some task on the host or in the cgroup waited {} for memory during the capture",
                units::duration(i64::try_from(us).unwrap_or(i64::MAX / 1000).saturating_mul(1000))
            ),
            excluded: false,
        },
        None => LookAlike {
            cause,
            observation: "neither reclaim nor PSI was recorded on this host".to_owned(),
            excluded: false,
        },
    }
}
