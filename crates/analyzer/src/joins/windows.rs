//! The stretches of time that somebody waited for: the cold start and the first request.

use mtrace_formats::tables::{IoCall, IoCallKind, OffCpu, OffCpuState, ProcessEvent, ProcessEventKind};

use super::connection::{Exchange, Transfer, first_exchange};
use crate::model::LedgerWindow;

/// Name of the window from exec to the first response.
pub const COLD_START: &str = "cold start";
/// Name of the window from the first request to its response.
pub const FIRST_REQUEST: &str = "first request";
/// Name of the window that is taken if there is no other.
pub const WHOLE_CAPTURE: &str = "whole capture";

/// Connections looked at; the first answer comes on one of the first.
const MAX_CONNECTIONS: usize = 256;
/// The recorder stops a launched program at its exec, to read its maps; the stop begins this soon.
const EXEC_STOP_NS: i64 = 5_000_000;

/// A window and where its critical path ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    pub(crate) pid: u32,
    pub(crate) window: LedgerWindow,
    /// Thread that ended it.
    pub(crate) end_tid: u32,
}

/// What the windows of a process are placed by; all sorted by time.
pub(crate) struct Traces<'a> {
    pub(crate) pid: u32,
    pub(crate) io: &'a [&'a IoCall],
    pub(crate) events: &'a [&'a ProcessEvent],
    pub(crate) off_cpu: &'a [&'a OffCpu],
    /// The capture.
    pub(crate) span: (i64, i64),
}

/// The windows of a process that has answered somebody: first request, then cold start if its exec was seen.
pub(crate) fn place(t: &Traces<'_>) -> Vec<Placed> {
    let Some(exchange) = answered(t.io) else { return Vec::new() };
    let placed = |window| Placed { pid: t.pid, window, end_tid: exchange.tid };
    let mut out = vec![placed(LedgerWindow {
        name: FIRST_REQUEST.to_owned(),
        start_ns: exchange.request_ns,
        end_ns: exchange.response_ns,
        begins_with: "the request's first byte was read".to_owned(),
        ends_with: "the response's last byte was written".to_owned(),
        assumptions: exchange.assumptions.clone(),
    })];
    let exec = t.events.iter().rev().find(|e| e.event == ProcessEventKind::Exec && e.ts < exchange.request_ns);
    if let Some(exec) = exec {
        let mut assumptions = exchange.assumptions;
        let mut begins_with = "exec".to_owned();
        let mut start_ns = exec.ts;
        if let Some(end) = exec_stop(t.off_cpu, t.pid, exec.ts).filter(|end| *end < exchange.request_ns) {
            start_ns = end;
            begins_with = "exec, after the recorder's stop".to_owned();
            assumptions.push("the time in which the recorder stopped the program at its exec is left out".to_owned());
        }
        out.push(placed(LedgerWindow {
            name: COLD_START.to_owned(),
            start_ns,
            end_ns: exchange.response_ns,
            begins_with,
            ends_with: "the first response's last byte was written".to_owned(),
            assumptions,
        }));
    }
    out
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
        window: LedgerWindow {
            name: WHOLE_CAPTURE.to_owned(),
            start_ns,
            end_ns,
            begins_with,
            ends_with: if exit.is_some() { "exit" } else { "the recording ended" }.to_owned(),
            assumptions: vec![
                "no request was seen to be read and answered: the whole time is looked at, along the thread that was active last"
                    .to_owned(),
            ],
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

/// The earliest request among the accepted connections that was answered.
fn answered(io: &[&IoCall]) -> Option<Exchange> {
    let accepts = io.iter().enumerate().filter(|(_, c)| c.call == IoCallKind::Accept && c.result.is_some());
    accepts
        .take(MAX_CONNECTIONS)
        .filter_map(|(i, accept)| {
            let fd = i32::try_from(accept.result?).ok()?;
            first_exchange(&transfers(&io[i + 1..], fd, accept.ts + accept.dur))
        })
        .min_by_key(|e| e.request_ns)
}

/// What moved bytes on a descriptor until it was closed.
fn transfers(io: &[&IoCall], fd: i32, from: i64) -> Vec<Transfer> {
    let mut out: Vec<Transfer> = io
        .iter()
        .filter(|c| c.fd == Some(fd) && c.ts >= from)
        .take_while(|c| c.call != IoCallKind::Close)
        .filter(|c| matches!(c.call, IoCallKind::Read | IoCallKind::Write))
        .filter_map(|c| {
            let bytes = c.result.filter(|n| *n > 0)?;
            Some(Transfer {
                start: c.ts,
                end: c.ts + c.dur,
                tid: c.tid,
                read: c.call == IoCallKind::Read,
                bytes,
                first_byte: c.first_byte,
            })
        })
        .collect();
    // A read that waits begins before the write that another thread makes meanwhile.
    out.sort_by_key(|t| if t.read { t.end } else { t.start });
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn io(ts: i64, dur: i64, tid: u32, call: IoCallKind, fd: i32, result: Option<u64>) -> IoCall {
        IoCall {
            ts,
            dur,
            pid: 10,
            tid,
            call,
            fd: Some(fd),
            socket: Some(true),
            result,
            errno: result.is_none().then_some(11),
            first_byte: Some(0x47),
        }
    }

    fn exec(ts: i64) -> ProcessEvent {
        ProcessEvent {
            ts,
            pid: 10,
            tid: 10,
            event: ProcessEventKind::Exec,
            parent: None,
            comm: None,
            path: None,
            status: None,
        }
    }

    #[test]
    fn the_first_answered_connection_counts_and_not_the_first_accepted_one() {
        use IoCallKind::{Accept, Close, Read, Write};
        let calls = [
            io(100, 5, 10, Accept, 3, Some(7)),
            io(120, 1, 10, Read, 7, Some(0)),
            io(130, 1, 10, Close, 7, Some(0)),
            // The descriptor is used again; the answer comes from another thread.
            io(200, 5, 10, Accept, 3, Some(7)),
            io(210, 2, 10, Read, 7, None),
            io(220, 30, 11, Read, 7, Some(90)),
            io(400, 10, 12, Write, 7, Some(200)),
            io(500, 10, 12, Read, 7, Some(90)),
            io(600, 10, 12, Write, 7, Some(200)),
        ];
        let calls: Vec<&IoCall> = calls.iter().collect();
        let event = exec(50);
        let stop = OffCpu { ts: 51, dur: 20, pid: 10, tid: 10, state: OffCpuState::Other };
        let t = Traces { pid: 10, io: &calls, events: &[&event], off_cpu: &[&stop], span: (0, 1000) };
        let placed = place(&t);
        let times: Vec<_> =
            placed.iter().map(|p| (p.window.name.as_str(), p.window.start_ns, p.window.end_ns, p.end_tid)).collect();
        assert_eq!(times, [(FIRST_REQUEST, 250, 410, 12), (COLD_START, 71, 410, 12)]);
    }

    #[test]
    fn nothing_answered_is_no_window() {
        let calls = [io(100, 5, 10, IoCallKind::Accept, 3, Some(7)), io(120, 1, 10, IoCallKind::Read, 7, Some(90))];
        let calls: Vec<&IoCall> = calls.iter().collect();
        let t = Traces { pid: 10, io: &calls, events: &[], off_cpu: &[], span: (0, 1000) };
        assert!(place(&t).is_empty());
        let whole = whole(&t, 10);
        assert_eq!((whole.window.start_ns, whole.window.end_ns), (0, 1000));
    }
}
