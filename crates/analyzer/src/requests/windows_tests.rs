use IoCallKind::{Accept, Close, Read, Write};
use mtrace_formats::tables::{IoCall, IoCallKind};

use super::*;
use crate::test_rows::{event, io, off_cpu};

const GET: u32 = 0x47;

fn with<T>(calls: &[IoCall], events: &[ProcessEvent], off_cpu: &[OffCpu], check: impl FnOnce(&Traces<'_>) -> T) -> T {
    let calls: Vec<&IoCall> = calls.iter().collect();
    check(&Traces {
        pid: 10,
        requests: &Requests::find(&calls, &[], 1000),
        events: &events.iter().collect::<Vec<_>>(),
        off_cpu: &off_cpu.iter().collect::<Vec<_>>(),
        span: (0, 1000),
        realtime_offset_ns: Some(5000),
        endings_are_known: true,
    })
}

fn times(placed: &[Placed]) -> Vec<(&str, i64, i64, u32)> {
    placed.iter().map(|p| (p.window.name.as_str(), p.window.start_ns, p.window.end_ns, p.end_tid)).collect()
}

fn exec() -> [ProcessEvent; 1] {
    [event(50, 10, 10, ProcessEventKind::Exec, None)]
}

/// Request and response on a connection that is open.
fn exchange(from: i64, to: i64, fd: i32) -> [IoCall; 2] {
    [io(from, 0, 11, Read, fd, Some(90), GET), io(to, 0, 12, Write, fd, Some(200), 0x48)]
}

#[test]
fn the_first_answered_connection_counts_and_not_the_first_accepted_one() {
    let calls = [
        io(100, 5, 10, Accept, 3, Some(7), GET),
        io(120, 1, 10, Read, 7, Some(0), GET),
        io(130, 1, 10, Close, 7, Some(0), GET),
        // The descriptor is used again; the answer comes from another thread.
        io(200, 5, 10, Accept, 3, Some(7), GET),
        io(210, 2, 10, Read, 7, None, GET),
        io(220, 30, 11, Read, 7, Some(90), GET),
        io(400, 10, 12, Write, 7, Some(200), GET),
        io(500, 10, 12, Read, 7, Some(90), GET),
        io(600, 10, 12, Write, 7, Some(200), GET),
    ];
    with(&calls, &exec(), &[off_cpu(51, 20, 10, OffCpuState::Other)], |t| {
        assert_eq!(times(&place(t)), [(FIRST_REQUEST, 250, 410, 12), (COLD_START, 71, 410, 12)]);
    });
}

#[test]
fn a_slower_later_request_goes_first_if_it_is_markedly_slower() {
    let make = |later: i64| {
        let mut calls = vec![io(90, 1, 10, Accept, 3, Some(7), 0)];
        calls.extend(exchange(100, 200, 7));
        calls.extend(exchange(300, 310, 7));
        calls.extend(exchange(400, 400 + later, 7));
        calls
    };
    let names = |later, events: &[ProcessEvent]| -> Vec<String> {
        with(&make(later), events, &[], |t| place(t).into_iter().map(|p| p.window.name).collect())
    };
    assert_eq!(names(150, &exec()), [SLOWEST_REQUEST, FIRST_REQUEST, COLD_START]);
    assert_eq!(names(149, &exec()), [FIRST_REQUEST, COLD_START, SLOWEST_REQUEST]);
    assert_eq!(names(99, &exec()), [FIRST_REQUEST, COLD_START]);
    // Without an exec the first request of the recording is a request like any other.
    assert_eq!(names(120, &[]), [SLOWEST_REQUEST]);
    with(&make(150), &[], &[], |t| {
        let facts = place(t)[0].window.request.clone();
        let expected = WindowRequest {
            number: 3,
            of: 3,
            start_realtime_ns: Some(5400),
            answered: 3,
            p50_ns: Some(100),
            p99_ns: None, // of three requests nobody knows it
            max_ns: Some(150),
        };
        assert_eq!(facts, Some(expected));
    });
}

#[test]
fn a_request_that_waits_longer_than_any_answered_one_is_the_incident() {
    let mut calls = vec![io(90, 1, 10, Accept, 3, Some(7), 0), io(91, 1, 10, Accept, 3, Some(8), 0)];
    calls.extend(exchange(100, 200, 7));
    calls.push(io(600, 5, 13, Read, 8, Some(90), GET));
    with(&calls, &[], &[], |t| {
        let placed = place(t);
        assert_eq!(times(&placed), [(UNANSWERED_REQUEST, 605, 1000, 13), (SLOWEST_REQUEST, 100, 200, 12)]);
        assert!(placed[0].window.ends_with.contains("no answer yet"));
        // Where calls are missing, the answer may be among them.
        assert_eq!(times(&place(&Traces { endings_are_known: false, ..*t })).len(), 1);
    });
    // Its client gave up.
    calls.push(io(950, 1, 13, Close, 8, Some(0), 0));
    with(&calls, &[], &[], |t| {
        let placed = place(t);
        assert_eq!(times(&placed)[0], (UNANSWERED_REQUEST, 605, 950, 13));
        assert!(placed[0].window.ends_with.contains("closed"));
    });
    // A young one is not.
    calls[4].ts = 940;
    with(&calls, &[], &[], |t| assert_eq!(times(&place(t)), [(SLOWEST_REQUEST, 100, 200, 12)]));
}

#[test]
fn nothing_asked_is_no_window() {
    let calls = [io(100, 5, 10, Accept, 3, Some(7), 0)];
    with(&calls, &[], &[], |t| {
        assert!(place(t).is_empty());
        let whole = whole(t, 10);
        assert_eq!((whole.window.start_ns, whole.window.end_ns), (0, 1000));
    });
}
