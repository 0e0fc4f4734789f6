//! The stretches of time that somebody waited for: the slowest request, the first request, the cold start.

use mtrace_formats::tables::{OffCpu, OffCpuState, ProcessEvent, ProcessEventKind};

use super::{Ending, Request, Requests};
use crate::model::{LedgerWindow, WindowRequest};

/// Name of the window from exec to the first response.
pub const COLD_START: &str = "cold start";
/// Name of the window from the first request to its response.
pub const FIRST_REQUEST: &str = "first request";
/// Name of the window of the slowest answered request, if that is not the first one.
pub const SLOWEST_REQUEST: &str = "slowest request";
/// Name of the window of a request that was not answered and is older than any answered one became.
pub const UNANSWERED_REQUEST: &str = "unanswered request";
/// Name of the window that is taken if there is no other.
pub const WHOLE_CAPTURE: &str = "whole capture";

/// The recorder stops a launched program at its exec, to read its maps; the stop begins this soon.
const EXEC_STOP_NS: i64 = 5_000_000;
/// The slowest request is what matters if it took this many times as long as the first one, which is always special.
const MARKEDLY: f64 = 1.5;

/// A window and where its critical path begins and ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    pub(crate) pid: u32,
    pub(crate) window: LedgerWindow,
    /// Thread that ended it.
    pub(crate) end_tid: u32,
    /// Thread with which it began, if it began with one.
    pub(crate) start_tid: Option<u32>,
}

/// What the windows of a process are placed by; all sorted by time.
pub(crate) struct Traces<'a> {
    pub(crate) pid: u32,
    pub(crate) requests: &'a Requests,
    pub(crate) events: &'a [&'a ProcessEvent],
    pub(crate) off_cpu: &'a [&'a OffCpu],
    /// The capture.
    pub(crate) span: (i64, i64),
    /// Wall-clock time minus CLOCK_MONOTONIC.
    pub(crate) realtime_offset_ns: Option<i64>,
    /// True if nothing of the process's calls is missing, so that no answer means none.
    pub(crate) endings_are_known: bool,
}

/// The windows of a process that was asked something, the most important one first.
pub(crate) fn place(t: &Traces<'_>) -> Vec<Placed> {
    let answered = || t.requests.all.iter().filter(|r| r.is_answered());
    let first = answered().next();
    let slowest = answered().max_by_key(|r| (r.duration_ns(), std::cmp::Reverse(r.number)));
    let mut out = Vec::new();
    if let (Some(first), Some(slowest)) = (first, slowest) {
        match exec_before(t, first) {
            None => out.push(of_request(t, slowest, SLOWEST_REQUEST)),
            Some(exec) => {
                out.extend([of_request(t, first, FIRST_REQUEST), cold_start(t, first, exec)]);
                if slowest.number != first.number {
                    let ratio = slowest.duration_ns() as f64 / first.duration_ns().max(1) as f64;
                    let at = if ratio >= MARKEDLY { 0 } else { out.len() };
                    out.insert(at, of_request(t, slowest, SLOWEST_REQUEST));
                }
            }
        }
    }
    let longest = slowest.map_or(0, Request::duration_ns);
    if let Some(r) = unanswered(t).filter(|r| r.duration_ns() > longest) {
        out.insert(0, of_request(t, r, UNANSWERED_REQUEST));
    }
    out
}

/// The oldest request without an answer.
fn unanswered<'a>(t: &Traces<'a>) -> Option<&'a Request> {
    let open = t.requests.all.iter().filter(|r| !r.is_answered() && t.endings_are_known);
    open.max_by_key(|r| (r.duration_ns(), std::cmp::Reverse(r.number)))
}

/// A window over one request.
pub(crate) fn of_request(t: &Traces<'_>, r: &Request, name: &str) -> Placed {
    let ends_with = match r.ending {
        Ending::Answered => "the response's last byte was written",
        Ending::Closed => "the connection was closed, no answer was written",
        Ending::Open => "the recording ended, no answer yet",
    };
    Placed {
        pid: t.pid,
        end_tid: r.tid,
        start_tid: Some(r.reader),
        window: LedgerWindow {
            name: name.to_owned(),
            start_ns: r.start_ns,
            end_ns: r.end_ns,
            begins_with: "the request's first byte was read".to_owned(),
            ends_with: ends_with.to_owned(),
            assumptions: r.protocol.assumptions(),
            request: Some(WindowRequest {
                number: r.number,
                of: t.requests.all.len() as u64,
                start_realtime_ns: t.realtime_offset_ns.map(|o| r.start_ns.saturating_add(o)),
                answered: t.requests.answered(),
                p50_ns: t.requests.quantile_ns(0.5),
                p99_ns: t.requests.quantile_ns(0.99),
                max_ns: t.requests.quantile_ns(1.0),
            }),
        },
    }
}

/// The last exec before a request.
fn exec_before(t: &Traces<'_>, r: &Request) -> Option<i64> {
    t.events.iter().rev().find(|e| e.event == ProcessEventKind::Exec && e.ts < r.start_ns).map(|e| e.ts)
}

fn cold_start(t: &Traces<'_>, first: &Request, exec: i64) -> Placed {
    let mut assumptions = first.protocol.assumptions();
    let mut begins_with = "exec".to_owned();
    let mut start_ns = exec;
    if let Some(end) = exec_stop(t.off_cpu, t.pid, exec).filter(|end| *end < first.start_ns) {
        start_ns = end;
        begins_with = "exec, after the recorder's stop".to_owned();
        assumptions.push("the time in which the recorder stopped the program at its exec is left out".to_owned());
    }
    Placed {
        pid: t.pid,
        end_tid: first.tid,
        start_tid: None,
        window: LedgerWindow {
            name: COLD_START.to_owned(),
            start_ns,
            end_ns: first.end_ns,
            begins_with,
            ends_with: "the first response's last byte was written".to_owned(),
            assumptions,
            request: None,
        },
    }
}

/// The window of a process without an answer: everything that was seen of it.
pub(crate) fn whole(t: &Traces<'_>, last_tid: u32) -> Placed {
    let of = |kind| t.events.iter().find(|e| e.event == kind).map(|e| e.ts);
    let exec = of(ProcessEventKind::Exec).filter(|ts| *ts > t.span.0);
    let exit = of(ProcessEventKind::Exit).filter(|ts| *ts < t.span.1);
    let mut start_ns = exec.unwrap_or(t.span.0);
    let mut begins_with = if exec.is_some() { "exec" } else { "the recording began" }.to_owned();
    let end_ns = exit.unwrap_or(t.span.1).max(start_ns);
    if let Some(end) = exec.and_then(|ts| exec_stop(t.off_cpu, t.pid, ts)).filter(|end| *end < end_ns) {
        start_ns = end;
        begins_with = "exec, after the recorder's stop".to_owned();
    }
    Placed {
        pid: t.pid,
        end_tid: last_tid,
        start_tid: None,
        window: LedgerWindow {
            name: WHOLE_CAPTURE.to_owned(),
            start_ns,
            end_ns,
            begins_with,
            ends_with: if exit.is_some() { "exit" } else { "the recording ended" }.to_owned(),
            assumptions: vec![
                "no request was seen: the whole time is looked at, along the thread that was active last".to_owned(),
            ],
            request: None,
        },
    }
}

/// End of the stop that the recorder makes at the exec.
fn exec_stop(off_cpu: &[&OffCpu], pid: u32, exec: i64) -> Option<i64> {
    off_cpu
        .iter()
        .find(|o| o.tid == pid && o.state == OffCpuState::Other && (exec..exec + EXEC_STOP_NS).contains(&o.ts))
        .map(|o| o.ts + o.dur)
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
