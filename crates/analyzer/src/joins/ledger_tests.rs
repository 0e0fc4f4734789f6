use mtrace_formats::tables::{OffCpu, OffCpuState, ProcessEvent, ProcessEventKind, WakerContext};
use proptest::prelude::*;

use super::super::activity::{Rows, threads};
use super::*;
use crate::model::LedgerWindow;

const PID: u32 = 10;

fn window(start_ns: i64, end_ns: i64, end_tid: u32) -> Placed {
    Placed {
        pid: PID,
        end_tid,
        start_tid: None,
        window: LedgerWindow {
            name: "w".to_owned(),
            start_ns,
            end_ns,
            begins_with: String::new(),
            ends_with: String::new(),
            assumptions: Vec::new(),
            request: None,
        },
    }
}

fn fault(tid: u32, ts: i64, dur: i64) -> FaultRow {
    FaultRow {
        ts,
        dur,
        addr: 0,
        count: 1,
        stride: 0,
        span: 0,
        shape: NONE,
        pid: PID,
        tid,
        weight: 1,
        stack: NONE,
        error_code: 6,
        map_stack: NONE,
        mapping: NONE,
        release: NONE,
        touch: TouchKind::AnonFirstTouch,
        major: false,
    }
}

fn off(tid: u32, ts: i64, dur: i64, state: OffCpuState) -> OffCpu {
    OffCpu::bare(ts, dur, PID, tid, state)
}

fn io(tid: u32, ts: i64, dur: i64, call: IoCallKind, fd: i32, result: Option<u64>) -> IoCall {
    IoCall {
        ts,
        dur,
        pid: PID,
        tid,
        call,
        fd: Some(fd),
        socket: Some(true),
        result,
        errno: result.is_none().then_some(11),
        first_byte: None,
    }
}

fn event(tid: u32, ts: i64, kind: ProcessEventKind, parent: Option<u32>) -> ProcessEvent {
    ProcessEvent { pid: PID, comm: None, ..crate::test_rows::event(ts, PID, tid, kind, parent) }
}

#[derive(Default)]
struct World {
    faults: Vec<FaultRow>,
    io: Vec<IoCall>,
    off_cpu: Vec<OffCpu>,
    events: Vec<ProcessEvent>,
    stw: Vec<Interval>,
}

impl World {
    fn ledger(&mut self, placed: &Placed, off_cpu: bool) -> Ledger {
        self.faults.sort_by_key(|f| f.ts);
        self.io.sort_by_key(|c| c.ts);
        self.off_cpu.sort_by_key(|o| o.ts);
        let number = |i: usize| i as u32;
        let symbols = SymbolTable::default();
        let rows = Rows {
            symbols: &symbols,
            faults: self.faults.iter().enumerate().map(|(i, f)| (number(i), f)).collect(),
            calls: Vec::new(),
            io: self.io.iter().enumerate().map(|(i, c)| (number(i), c)).collect(),
            overlays: &BTreeMap::new(),
            off_cpu: self.off_cpu.iter().collect(),
            events: self.events.iter().collect(),
        };
        let network: Vec<(u32, &IoCall)> = self.io.iter().enumerate().map(|(i, c)| (number(i), c)).collect();
        let waits = Waits::new(&network, &[]);
        let sources = Sources {
            faults: &self.faults,
            calls: &[],
            io: &self.io,
            throttles: &[],
            waits: &waits,
            stw: &self.stw,
            symbols: &symbols,
            releasers: &[],
            off_cpu,
        };
        split(placed, &threads(&rows), &sources).ledger
    }
}

fn sums(l: &Ledger) -> i64 {
    l.rows.iter().map(|r| r.wall_ns).sum()
}

#[test]
fn a_fault_on_disk_is_a_fault_and_stop_the_world_comes_first() {
    let mut w = World {
        faults: vec![fault(1, 10, 30), fault(1, 60, 20)],
        off_cpu: vec![off(1, 15, 20, OffCpuState::Uninterruptible), off(1, 85, 5, OffCpuState::Runnable)],
        stw: vec![Interval { start: 70, end: 95, row: 0 }],
        ..World::default()
    };
    let l = w.ledger(&window(0, 100, 1), true);
    // But for a thread that has no CPU, which the collector has no part in.
    assert_eq!(l.wall_ns(LedgerCategory::GcStw), 20);
    assert_eq!(l.wall_ns(LedgerCategory::Faults), 30 + 10);
    assert_eq!(l.wall_ns(LedgerCategory::WaitingForCpu), 5);
    // The thread is known from its first event to its last: before and after, nobody is.
    assert_eq!(l.wall_ns(LedgerCategory::OnCpu), 20);
    assert_eq!(l.wall_ns(LedgerCategory::Unexplained), 15);
    assert_eq!(sums(&l), 100);
    assert_eq!(l.rows.iter().find(|r| r.category == LedgerCategory::Faults).unwrap().count, Some(2));
}

#[test]
fn the_work_of_the_thread_that_handed_over_is_found() {
    // 1 reads the request and sleeps; 2 works (and faults) meanwhile and wakes 1, which writes.
    let mut w = World {
        faults: vec![fault(2, 1_000_000, 3_000_000)],
        off_cpu: vec![
            off(1, 500_000, 5_500_000, OffCpuState::Sleeping),
            off(2, 0, 600_000, OffCpuState::Sleeping),
            off(2, 5_990_000, 4_000_000, OffCpuState::Sleeping),
            // A bystander that works for a short time.
            off(3, 0, 5_000_000, OffCpuState::Sleeping),
            off(3, 5_995_000, 10_000_000, OffCpuState::Sleeping),
        ],
        io: vec![
            io(1, 100, 100, IoCallKind::Read, 7, Some(90)),
            io(1, 6_500_000, 500_000, IoCallKind::Write, 7, Some(9)),
        ],
        ..World::default()
    };
    let l = w.ledger(&window(200, 7_000_000, 1), true);
    let tids: Vec<u32> = l.critical_threads.iter().map(|c| c.0).collect();
    assert_eq!(tids, [1, 2, 1]);
    assert_eq!(l.wall_ns(LedgerCategory::Faults), 3_000_000);
    assert_eq!(l.wall_ns(LedgerCategory::Network), 500_000);
    assert_eq!(sums(&l), 7_000_000 - 200);
}

fn woken(by: u32, runqueue_ns: i64, o: OffCpu) -> OffCpu {
    let waker_context = Some(if by == 0 { WakerContext::Interrupt } else { WakerContext::Thread });
    let (waker_pid, waker_tid) = (Some(PID), Some(by));
    OffCpu { runqueue_ns: Some(runqueue_ns), waker_pid, waker_tid, waker_context, ..o }
}

/// 1 reads and wakes 2; 2 works, waits for a lock of 3, works on and wakes 4, which writes. 5 is busy all the time.
fn lock_of_a_third() -> World {
    let sleeps = |tid, ts, dur| off(tid, ts, dur, OffCpuState::Sleeping);
    World {
        faults: vec![fault(3, 500, 6000), fault(5, 100, 9500)],
        off_cpu: vec![
            woken(0, 10, sleeps(1, 0, 110)),
            sleeps(1, 250, 20_000),
            woken(1, 100, sleeps(2, 0, 300)),
            woken(3, 400, sleeps(2, 1000, 6000)),
            woken(2, 0, sleeps(4, 0, 8000)),
        ],
        io: vec![
            io(1, 110, 10, IoCallKind::Read, 7, Some(90)),
            io(4, 8900, 100, IoCallKind::Write, 7, Some(9)),
            // The others stay busy.
            io(2, 9990, 5, IoCallKind::Read, 9, None),
            io(3, 0, 10, IoCallKind::Read, 9, None),
            io(3, 9990, 5, IoCallKind::Read, 9, None),
            io(5, 0, 10, IoCallKind::Read, 9, None),
            io(5, 9990, 5, IoCallKind::Read, 9, None),
        ],
        ..World::default()
    }
}

#[test]
fn wake_ups_lead_to_the_holder_of_the_lock_and_back() {
    let mut w = lock_of_a_third();
    let l = w.ledger(&Placed { start_tid: Some(1), ..window(120, 9000, 4) }, true);
    // The waits for a CPU belong to those that waited.
    let path = [(1, 120, 200), (2, 200, 1000), (3, 1000, 6600), (2, 6600, 8000), (4, 8000, 9000)];
    assert_eq!(l.critical_threads, path);
    assert_eq!(l.wall_ns(LedgerCategory::Faults), 5500, "what 3 faulted under the lock, and nothing of 5");
    assert_eq!(l.wall_ns(LedgerCategory::WaitingForCpu), 100 + 400);
    assert_eq!((l.path_measured_ns, sums(&l)), (Some(8880), 8880));
}

#[test]
fn without_wakers_the_path_is_said_to_be_inferred() {
    let mut w = lock_of_a_third();
    w.off_cpu.iter_mut().for_each(|o| *o = OffCpu::bare(o.ts, o.dur, o.pid, o.tid, o.state));
    let l = w.ledger(&Placed { start_tid: Some(1), ..window(120, 9000, 4) }, true);
    assert_eq!((l.path_measured_ns, sums(&l)), (None, 8880));
}

#[test]
fn a_thread_that_a_timer_woke_waited_for_nobody_in_the_process() {
    let mut w = World {
        faults: vec![fault(2, 100, 9000)],
        off_cpu: vec![woken(0, 1000, off(1, 1000, 7000, OffCpuState::Sleeping))],
        io: vec![
            io(1, 0, 10, IoCallKind::Read, 7, Some(90)),
            io(1, 9000, 100, IoCallKind::Write, 7, Some(9)),
            io(2, 0, 10, IoCallKind::Read, 9, None),
            io(2, 9990, 5, IoCallKind::Read, 9, None),
        ],
        ..World::default()
    };
    let l = w.ledger(&Placed { start_tid: Some(1), ..window(10, 9100, 1) }, true);
    assert_eq!(l.critical_threads, [(1, 10, 1000), (1, 7000, 9100)]);
    assert_eq!((l.wall_ns(LedgerCategory::Faults), l.wall_ns(LedgerCategory::WaitingForCpu)), (0, 1000));
    let slept = l.rows.iter().find(|r| r.category == LedgerCategory::Unexplained).unwrap();
    assert_eq!(slept.wall_ns, 6000);
    assert!(slept.top.as_deref().is_some_and(is_asleep), "{slept:?}");
}

#[test]
fn a_wait_that_goes_on_while_the_world_is_stopped_is_not_the_collectors() {
    // 1 works, sleeps for a timer from 1000 to 6000, and works; the second stop lies in the sleep, the third begins there.
    let mut w = World {
        off_cpu: vec![woken(0, 0, off(1, 1000, 5000, OffCpuState::Sleeping))],
        stw: [(200, 500), (2000, 4000), (5000, 6500)].map(|(start, end)| Interval { start, end, row: 0 }).to_vec(),
        io: vec![io(1, 0, 10, IoCallKind::Read, 7, Some(90)), io(1, 9000, 100, IoCallKind::Write, 7, Some(9))],
        ..World::default()
    };
    let l = w.ledger(&Placed { start_tid: Some(1), ..window(10, 9100, 1) }, true);
    assert_eq!(l.wall_ns(LedgerCategory::GcStw), 300 + 500);
    assert_eq!(l.wall_ns(LedgerCategory::Unexplained), 5000);
    assert_eq!(sums(&l), 9090);
}

#[test]
fn a_busy_bystander_gets_the_pause_and_not_the_work_before_it() {
    // 2 (a collector's worker) runs all the time; 1 works, pauses for a moment, and writes.
    let mut w = World {
        faults: vec![fault(1, 1_000_000, 3_000_000)],
        off_cpu: vec![off(1, 8_000_000, 100_000, OffCpuState::Sleeping)],
        io: vec![
            io(1, 0, 100, IoCallKind::Read, 7, Some(90)),
            io(1, 8_500_000, 500_000, IoCallKind::Write, 7, Some(9)),
            io(2, 0, 100, IoCallKind::Read, 9, None),
            io(2, 9_900_000, 100, IoCallKind::Read, 9, None),
        ],
        ..World::default()
    };
    let l = w.ledger(&window(100, 9_000_000, 1), true);
    assert_eq!(l.critical_threads, [(1, 100, 8_000_000), (2, 8_000_000, 8_100_000), (1, 8_100_000, 9_000_000)]);
    assert_eq!(l.wall_ns(LedgerCategory::Faults), 3_000_000);
    assert_eq!(sums(&l), 9_000_000 - 100);
}

#[test]
fn of_two_busy_threads_the_one_that_read_the_request_did_the_work() {
    // As above, but 1 had run the collector, and 2, which read the request and touched, handed over in the pause.
    let mut w = World {
        faults: vec![fault(2, 1_000_000, 3_000_000)],
        off_cpu: vec![
            off(1, 8_000_000, 100_000, OffCpuState::Sleeping),
            off(2, 8_090_000, 900_000, OffCpuState::Sleeping),
        ],
        io: vec![
            io(1, 0, 50, IoCallKind::Read, 9, None),
            io(1, 8_500_000, 500_000, IoCallKind::Write, 7, Some(9)),
            io(2, 0, 100, IoCallKind::Read, 7, Some(90)),
        ],
        ..World::default()
    };
    let placed = |start_tid| Placed { start_tid, ..window(100, 9_000_000, 1) };
    let faults = |w: &mut World, start_tid| w.ledger(&placed(start_tid), true).wall_ns(LedgerCategory::Faults);
    assert_eq!(faults(&mut w, Some(2)), 3_000_000);
    assert_eq!(faults(&mut w, Some(1)), 0);
    // A loop that reads for everybody handed over long ago.
    w.io.push(io(2, 500_000, 100, IoCallKind::Read, 8, Some(90)));
    assert_eq!(faults(&mut w, Some(2)), 0);
}

#[test]
fn waits_are_told_apart_by_what_ended_them() {
    let ms = 1_000_000;
    let sleep = |from: i64, to: i64| off(1, from * ms, (to - from) * ms, OffCpuState::Sleeping);
    let mut w = World {
        off_cpu: vec![sleep(10, 100), sleep(110, 150), sleep(160, 260)],
        io: vec![
            io(1, 5 * ms, 1000, IoCallKind::Accept, 3, None),
            io(1, 100 * ms + 10, 1000, IoCallKind::Accept, 3, Some(7)),
            io(1, 105 * ms, 1000, IoCallKind::Read, 7, None),
            io(1, 150 * ms + 10, 1000, IoCallKind::Read, 7, Some(90)),
            // A sleep that nothing recorded explains, and the answer after it.
            io(1, 270 * ms, 1000, IoCallKind::Write, 7, Some(90)),
        ],
        events: vec![event(1, 0, ProcessEventKind::Exec, None)],
        ..World::default()
    };
    let l = w.ledger(&window(0, 270 * ms + 1000, 1), true);
    assert_eq!(l.wall_ns(LedgerCategory::WaitingForClient), 90 * ms);
    let calls = 1000 * 5;
    assert_eq!(l.wall_ns(LedgerCategory::Network), 40 * ms + calls);
    assert_eq!(l.wall_ns(LedgerCategory::Unexplained), 100 * ms);
    let network = l.rows.iter().find(|r| r.category == LedgerCategory::Network).unwrap();
    assert_eq!(network.top.as_deref(), Some("read on descriptor 7"));
    assert_eq!(sums(&l), 270 * ms + 1000);
}

#[test]
fn a_poll_with_a_timeout_between_listen_and_accept_waits_for_a_client() {
    let ms = 1_000_000;
    let sleep = |from: i64, to: i64| off(1, from * ms, (to - from) * ms, OffCpuState::Sleeping);
    let mut w = World {
        off_cpu: vec![sleep(1, 4), sleep(10, 500), sleep(501, 900), sleep(910, 960)],
        io: vec![
            io(1, 5 * ms, 1000, IoCallKind::Listen, 3, Some(0)),
            io(1, 900 * ms, 1000, IoCallKind::Accept, 3, Some(7)),
            io(1, 970 * ms, 1000, IoCallKind::Write, 7, Some(90)),
        ],
        events: vec![event(1, 0, ProcessEventKind::Exec, None)],
        ..World::default()
    };
    let l = w.ledger(&window(0, 970 * ms + 1000, 1), true);
    assert_eq!(l.wall_ns(LedgerCategory::WaitingForClient), (490 + 399) * ms);
    // The sleep before listen and the one while serving are nobody's waiting.
    assert_eq!(l.wall_ns(LedgerCategory::Unexplained), (3 + 50) * ms);
}

#[test]
fn a_new_thread_was_waited_for_by_nobody_but_its_creator() {
    let mut w = World {
        off_cpu: vec![off(1, 60, 100, OffCpuState::Sleeping)],
        events: vec![
            event(1, 0, ProcessEventKind::Exec, None),
            event(2, 50, ProcessEventKind::Thread, Some(1)),
            event(2, 100, ProcessEventKind::ThreadExit, None),
        ],
        ..World::default()
    };
    let l = w.ledger(&window(0, 100, 2), true);
    assert_eq!(l.critical_threads, [(1, 0, 50), (2, 50, 100)]);
    assert_eq!(l.wall_ns(LedgerCategory::OnCpu), 100);
}

#[test]
fn without_times_off_the_cpu_the_rest_is_unexplained_and_said_so() {
    let mut w = World { faults: vec![fault(1, 10, 30)], ..World::default() };
    let l = w.ledger(&window(0, 100, 1), false);
    assert_eq!(l.wall_ns(LedgerCategory::Unexplained), 70);
    assert_eq!(l.wall_ns(LedgerCategory::OnCpu), 0);
    assert!(l.window.assumptions.iter().any(|a| a.contains("were not recorded")));
}

fn state() -> impl Strategy<Value = OffCpuState> {
    (0..OffCpuState::ALL.len()).prop_map(|i| OffCpuState::ALL[i])
}

proptest! {
    #[test]
    fn every_nanosecond_is_in_exactly_one_row(
        faults in proptest::collection::vec((0_u32..4, 0_i64..2000, -1_i64..300), 0..40),
        calls in proptest::collection::vec((0_u32..4, 0_i64..2000, 0_i64..300, 0_usize..8, 3_i32..6, proptest::bool::ANY), 0..40),
        offs in proptest::collection::vec((0_u32..4, 0_i64..2000, 0_i64..600, state()), 0..40),
        born in proptest::collection::vec((0_u32..4, 0_i64..2000, 0_u32..4), 0..4),
        stw in (0_i64..2000, 0_i64..300),
        span in (0_i64..2000, 0_i64..2000),
        end_tid in 0_u32..5,
        off_cpu in proptest::bool::ANY,
    ) {
        let mut w = World {
            faults: faults.into_iter().map(|(t, ts, d)| fault(t, ts, d)).collect(),
            io: calls
                .into_iter()
                .map(|(t, ts, d, k, fd, ok)| io(t, ts, d, IoCallKind::ALL[k], fd, ok.then_some(5)))
                .collect(),
            off_cpu: offs.into_iter().map(|(t, ts, d, s)| off(t, ts, d, s)).collect(),
            events: born.into_iter().map(|(t, ts, p)| event(t, ts, ProcessEventKind::Thread, Some(p))).collect(),
            stw: vec![Interval { start: stw.0, end: stw.0 + stw.1, row: 0 }],
        };
        let l = w.ledger(&window(span.0, span.0 + span.1, end_tid), off_cpu);
        prop_assert_eq!(sums(&l), span.1);
        prop_assert!(l.rows.iter().all(|r| r.wall_ns > 0));
        prop_assert!(l.critical_threads.windows(2).all(|p| p[0].2 <= p[1].1));
    }
}
