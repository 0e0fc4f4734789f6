//! Why requests may have been there that nobody saw: then "the slowest request" is the slowest of those seen.

use mtrace_formats::capture::Manifest;
use mtrace_formats::tables::{LossReason, ProcessEvent, ProcessEventKind};

use super::Requests;
use crate::load::Tables;
use crate::units;

const PROBE: &str = "io_calls";

/// What the recorder could not, or was not to, record of file and network calls; the same for all processes.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// The probe did not run.
    absent: bool,
    /// Calls recorded per process, if there was a limit and some process met it.
    per_process: Option<u64>,
    over_limit: u64,
    /// Lost by accident.
    lost: u64,
    /// When something was lost by accident.
    lost_in: Vec<(i64, i64)>,
    span: (i64, i64),
}

impl Limits {
    pub(crate) fn new(m: &Manifest, tables: &Tables, span: (i64, i64)) -> Self {
        let status = m.probes.iter().find(|p| p.name == PROBE).map(|p| p.status);
        let account = m.accounts.iter().find(|a| a.probe == PROBE);
        let over_limit = LossReason::OverLimit.name();
        let of = |reason: &str| account.and_then(|a| a.lost.get(reason)).copied().unwrap_or(0);
        let read = tables.rows.iter().find(|(table, _)| table == PROBE).map_or(0, |(_, n)| *n);
        let lost = account.map_or(0, |a| {
            let lost = a.lost.iter().filter(|(r, _)| *r != over_limit);
            lost.fold(a.written.saturating_sub(read), |sum, (_, n)| sum.saturating_add(*n))
        });
        let losses = tables.losses.iter().filter(|l| l.probe == PROBE && l.reason != LossReason::OverLimit);
        let losses = losses.filter(|l| !matches!(l.reason, LossReason::NoStart));
        Self {
            absent: status.is_some_and(|s| !s.observed()),
            per_process: m.knobs.get("io_calls_per_process").and_then(serde_json::Value::as_u64),
            over_limit: of(over_limit),
            lost,
            lost_in: losses.map(|l| (l.ts, l.ts + l.dur)).collect(),
            span,
        }
    }

    /// True if calls were lost by accident within this time: what looks like one request may be parts of two.
    pub(crate) fn lost_within(&self, start: i64, end: i64) -> bool {
        self.lost_in.iter().any(|(from, to)| *from < end && *to > start)
    }

    /// True if of a process with this many calls none is missing: then a request without an answer has none.
    pub(crate) fn is_everything_there(&self, calls: usize) -> bool {
        !self.absent && self.lost == 0 && !self.reached_by(calls)
    }

    /// True if this many calls are all that the limit allowed: what came later was not seen.
    pub(crate) fn reached_by(&self, calls: usize) -> bool {
        // Threads that race make it inexact by a few; what was lost by accident counted, too.
        let met = |limit: u64| (calls as u64).saturating_add(self.lost) >= limit - limit / 100;
        self.over_limit > 0 && self.per_process.is_none_or(met)
    }
}

/// Why requests of a process may not have been seen, in plain words; empty if all were.
pub(crate) fn unseen(
    requests: &Requests,
    limits: &Limits,
    calls: usize,
    last_call_ns: Option<i64>,
    events: &[&ProcessEvent],
) -> Vec<String> {
    let mut out = Vec::new();
    if limits.absent {
        out.push("file and network calls were not recorded: no request can be seen".to_owned());
        return out;
    }
    if limits.reached_by(calls) {
        let when = last_call_ns.map_or_else(String::new, |ts| {
            format!(" after the first {}", units::duration(ts.saturating_sub(limits.span.0)))
        });
        out.push(format!(
            "requests{when} were not seen: {} network and file calls were over the limit of {} per process (`mtrace record --io-calls`)",
            units::count(limits.over_limit),
            limits.per_process.map_or_else(|| "calls".to_owned(), units::count),
        ));
    }
    if limits.lost > 0 {
        out.push(format!(
            "{} lost: requests at that time may be missing, or two may look like one",
            units::counted(limits.lost, "network or file call was", "network and file calls were")
        ));
    }
    let attached = events.iter().any(|e| e.event == ProcessEventKind::Attach);
    if attached && !requests.looked_at_sockets && requests.unknown_sockets > 0 {
        out.push(format!(
            "{} older than the recording: whether a client or this process opened them was not recorded",
            units::counted(requests.unknown_sockets as u64, "connection is", "connections are")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_a_process_of_many_calls() {
        let limits = Limits { per_process: Some(20_000), over_limit: 5, lost: 10, span: (0, 0), ..Limits::default() };
        assert!(limits.reached_by(20_001) && limits.reached_by(19_900) && !limits.reached_by(1_000));
        let all = |calls, limits: &Limits| unseen(&Requests::default(), limits, calls, Some(2_000_000_000), &[]);
        let said = all(20_000, &limits);
        assert!(
            said[0].contains("requests after the first 2 s were not seen") && said[0].contains("20,000"),
            "{said:?}"
        );
        assert!(said[1].contains("10 network and file calls were lost"), "{said:?}");
        assert!(all(20_000, &Limits::default()).is_empty());
        assert!(!Limits::default().reached_by(usize::MAX));
    }

    #[test]
    fn losses_touch_the_time_in_which_they_fell() {
        let limits = Limits { lost_in: vec![(10, 20)], ..Limits::default() };
        assert!(limits.lost_within(0, 11) && limits.lost_within(15, 16) && limits.lost_within(19, 99));
        assert!(!limits.lost_within(0, 10) && !limits.lost_within(20, 30));
    }
}
