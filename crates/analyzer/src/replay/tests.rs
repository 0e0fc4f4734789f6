use mtrace_formats::tables::{MemoryCall, MemoryCallKind, ProcessEventKind, SnapshotReason};

use super::*;
use crate::load::{FaultRow, NONE};
use crate::model::TouchKind;
use crate::test_rows::{PAGE, call, dontneed, event, fault, map, mmap, munmap};

const A: u64 = 0x7f00_0000_0000;
const STACK: (u64, u64) = (0x7ffd_0000_0000, 0x7ffd_0002_1000);

fn tables() -> Tables {
    Tables::default()
}

/// A program stopped at its exec at 100: its text and its stack.
fn exec(t: &mut Tables, pid: u32) {
    t.process_events.push(event(100, pid, pid, ProcessEventKind::Exec, None));
    let vsyscall = (0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000);
    for (range, perms, path) in
        [((0x40_0000, 0x50_0000), "r-xp", "/srv/service"), (STACK, "rw-p", "[stack]"), (vsyscall, "--xp", "[vsyscall]")]
    {
        t.maps.push(map(SnapshotReason::Exec, (101, 101), pid, range, perms, path));
    }
}

fn run(t: &mut Tables) -> Replay {
    t.faults.sort_by_key(|f| f.ts);
    t.calls.sort_by_key(|c| c.ts);
    t.maps.sort_by_key(|m| (m.ts, m.pid, m.start_addr));
    replay(t, Space::of(PAGE, "x86_64"), (0, 10_000))
}

fn faults(t: &mut Tables, list: &[(i64, u32, u64, u32)]) {
    t.faults.extend(list.iter().map(|(ts, pid, addr, code)| FaultRow::from(fault(*ts, *pid, *addr, *code, 7))));
}

#[test]
fn an_exact_base_and_the_calls_arrive_at_the_snapshot_of_the_end() {
    let mut t = tables();
    exec(&mut t, 10);
    t.calls = vec![
        mmap(200, 10, A, 16 * PAGE, 3, 1),
        munmap(300, 10, A + 4 * PAGE, 4 * PAGE),
        MemoryCall { prot_or_advice: Some(1), ..call(400, 2, 10, MemoryCallKind::Mprotect, A, PAGE) },
    ];
    let end = |range, perms, path| map(SnapshotReason::End, (9000, 9001), 10, range, perms, path);
    t.maps.extend([
        end((0x40_0000, 0x50_0000), "r-xp", "/srv/service"),
        end((A, A + PAGE), "r--p", ""),
        end((A + PAGE, A + 4 * PAGE), "rw-p", ""),
        end((A + 8 * PAGE, A + 16 * PAGE), "rw-p", "[anon: Go: heap]"),
        end(STACK, "rw-p", "[stack]"),
    ]);
    let r = run(&mut t);
    assert_eq!(r.certificates.len(), 1, "{r:?}");
    assert!(r.certificates[0].equal, "{:?}", r.certificates);
    assert_eq!(r.certificates[0].agreeing_bytes, r.certificates[0].snapshot_bytes);
    let p = &r.processes[&10];
    assert_eq!(p.points.iter().map(|p| p.vmas).collect::<Vec<_>>().last(), Some(&5));
    assert_eq!(p.live[&1], 12 * PAGE);
    assert_eq!(r.effects.iter().map(|e| e.usable_bytes).collect::<Vec<_>>(), [16 * PAGE, 0, 0]);
}

#[test]
fn a_wrong_replay_is_not_certified() {
    let mut t = tables();
    exec(&mut t, 10);
    t.maps.push(map(SnapshotReason::End, (9000, 9001), 10, (A, A + PAGE), "rw-p", ""));
    let r = run(&mut t);
    assert!(!r.certificates[0].equal);
    assert_eq!(r.certificates[0].agreeing_bytes, 0);
    assert_eq!(r.certificates[0].differences.len(), 3);
}

#[test]
fn the_address_of_a_munmap_may_be_given_away_before_it_returns() {
    let mut t = tables();
    exec(&mut t, 10);
    // One thread unmaps from 300 to 400; another gets the same address from 320 to 340.
    t.calls = vec![
        mmap(200, 10, A, 4 * PAGE, 3, 1),
        MemoryCall { dur: 100, ..munmap(300, 10, A, 4 * PAGE) },
        MemoryCall { dur: 20, tid: 11, ..mmap(320, 10, A, 4 * PAGE, 3, 2) },
    ];
    faults(&mut t, &[(350, 10, A, 6)]);
    let r = run(&mut t);
    assert_eq!(t.faults[0].map_stack, 2);
    assert_eq!(r.processes[&10].live[&2], 4 * PAGE);
}

#[test]
fn faults_know_their_mapping_and_the_history_of_their_page() {
    let mut t = tables();
    exec(&mut t, 10);
    t.calls = vec![
        mmap(200, 10, A, 16 * PAGE, 3, 5),
        dontneed(400, 10, A, 16 * PAGE, 6),
        munmap(600, 10, A, 16 * PAGE),
        mmap(700, 10, A, 16 * PAGE, 3, 8),
    ];
    faults(
        &mut t,
        &[
            (300, 10, A, 6),
            (310, 10, A + 20, 7),
            (320, 10, 0x40_0008, 0x14),
            (500, 10, A, 6),
            (510, 10, A + 5 * PAGE, 6),
            (650, 10, A, 6),
            (800, 10, A, 6),
            (900, 10, STACK.0 - PAGE - 8, 6),
        ],
    );
    let r = run(&mut t);
    let shown: Vec<_> = t
        .faults
        .iter()
        .map(|f| (f.touch, f.map_stack, r.names.get(f.mapping as usize).map_or("", String::as_str)))
        .collect();
    use TouchKind::{AnonFirstTouch, AnonRefault, CopyOnWrite, FileMinor, Unknown};
    let expected = [
        (AnonFirstTouch, 5, "anonymous"),
        (CopyOnWrite, 5, "anonymous"),
        (FileMinor, NONE, "/srv/service"),
        (AnonRefault, 5, "anonymous"),
        (AnonFirstTouch, 5, "anonymous"),
        (Unknown, NONE, ""),
        (AnonFirstTouch, 8, "anonymous"),
        (AnonFirstTouch, NONE, "[stack]"),
    ];
    assert_eq!(shown, expected);
    assert_eq!(r.releases, [Release { call: 1, pages: 1 }]);
    assert_eq!(t.faults[3].release, 0);
}

#[test]
fn a_late_snapshot_is_a_base_less_what_calls_had_made_before_it() {
    let mut t = tables();
    t.process_events.push(event(100, 10, 10, ProcessEventKind::Attach, None));
    t.calls = vec![
        // Before the snapshot: made by the program itself, and one of the two gone again.
        mmap(110, 10, A, 8 * PAGE, 3, 1),
        MemoryCall { result: Some(0x60_0000), ..call(120, 1, 10, MemoryCallKind::Brk, 0, 0) },
        MemoryCall { result: Some(0x60_4000), ..call(130, 1, 10, MemoryCallKind::Brk, 0x60_4000, 0) },
        munmap(140, 10, A, 2 * PAGE),
        mmap(300, 10, A + 64 * PAGE, PAGE, 3, 2),
    ];
    let attach = |range, perms, path| map(SnapshotReason::Attach, (200, 210), 10, range, perms, path);
    let end = |range, perms, path| map(SnapshotReason::End, (900, 901), 10, range, perms, path);
    for row in [attach, end].map(|row: fn(_, _, _) -> _| {
        vec![
            row((0x40_0000, 0x50_0000), "r-xp", "/srv/service"),
            row((0x5f_0000, 0x60_4000), "rw-p", "[heap]"),
            row((A + 2 * PAGE, A + 8 * PAGE), "rw-p", ""),
        ]
    }) {
        t.maps.extend(row);
    }
    t.maps.push(end((A + 64 * PAGE, A + 65 * PAGE), "rw-p", ""));
    faults(&mut t, &[(150, 10, A + 3 * PAGE, 6), (160, 10, 0x60_1000, 6), (170, 10, 0x5f_0000, 6)]);
    let r = run(&mut t);
    assert_eq!(r.certificates.len(), 1);
    assert!(r.certificates[0].equal, "{:?}", r.certificates);
    assert_eq!(t.faults.iter().map(|f| f.map_stack).collect::<Vec<_>>(), [1, 1, NONE]);
}

#[test]
fn a_child_starts_with_a_copy_and_goes_its_own_way() {
    let mut t = tables();
    exec(&mut t, 10);
    t.calls = vec![mmap(200, 10, A, 4 * PAGE, 3, 5), munmap(400, 10, A, 4 * PAGE), mmap(600, 12, A, PAGE, 3, 9)];
    t.process_events.push(event(300, 11, 11, ProcessEventKind::Fork, Some(10)));
    t.process_events.push(event(310, 12, 12, ProcessEventKind::Vfork, Some(10)));
    faults(&mut t, &[(250, 10, A, 6), (500, 11, A, 7), (510, 10, A, 6), (700, 10, A, 6)]);
    run(&mut t);
    let kinds: Vec<_> = t.faults.iter().map(|f| (f.touch, f.map_stack)).collect();
    // The parent unmapped; the child's copy is still there. The vfork child maps into the parent.
    assert_eq!(
        kinds,
        [
            (TouchKind::AnonFirstTouch, 5),
            (TouchKind::CopyOnWrite, 5),
            (TouchKind::Unknown, NONE),
            (TouchKind::AnonFirstTouch, 9)
        ]
    );
}

#[test]
fn exec_empties_and_what_the_kernel_touches_before_it_belongs_to_the_new_image() {
    let mut t = tables();
    t.process_events.push(event(10, 10, 10, ProcessEventKind::Fork, Some(9)));
    t.calls = vec![mmap(20, 10, A, PAGE, 3, 5)];
    exec(&mut t, 10);
    faults(&mut t, &[(90, 10, STACK.1 - 8, 2), (200, 10, A, 6)]);
    let r = run(&mut t);
    assert_eq!(t.faults[0].touch, TouchKind::AnonFirstTouch);
    assert_eq!(r.names[t.faults[0].mapping as usize], "[stack]");
    assert_eq!(t.faults[1].touch, TouchKind::Unknown);
}

#[test]
fn a_failed_call_keeps_the_state_of_its_moment() {
    let mut t = tables();
    exec(&mut t, 10);
    t.calls = vec![
        mmap(200, 10, A, 4 * PAGE, 3, 1),
        MemoryCall { errno: Some(12), result: None, ..mmap(300, 10, 0, 1 << 40, 3, 2) },
        mmap(400, 10, A + 8 * PAGE, 4 * PAGE, 3, 1),
    ];
    let r = run(&mut t);
    assert_eq!(r.failed.len(), 1);
    let f = r.failed[0];
    assert_eq!((f.call, f.vmas, f.data_bytes), (1, 3, 4 * PAGE));
    assert_eq!(f.mapped_bytes, 0x10_0000 + (STACK.1 - STACK.0) + 4 * PAGE);
}

#[test]
fn without_any_snapshot_faults_on_own_mappings_are_charged_and_the_rest_is_said_to_be_unknown() {
    let mut t = tables();
    t.calls = vec![mmap(200, 10, A, 4 * PAGE, 3, 1)];
    faults(&mut t, &[(300, 10, A, 6), (310, 10, 0x40_0000, 6)]);
    let r = run(&mut t);
    assert_eq!(t.faults[0].map_stack, 1);
    assert_eq!(t.faults[1].touch, TouchKind::Unknown);
    assert!(!r.processes[&10].has_base);
}

#[test]
fn the_page_of_the_recorders_uprobes_is_known_by_its_place() {
    let mut t = tables();
    exec(&mut t, 10);
    let page = (0x7fff_ffff_e000, 0x7fff_ffff_f000);
    for (range, perms, path) in
        [((0x40_0000, 0x50_0000), "r-xp", "/srv/service"), (STACK, "rw-p", "[stack]"), (page, "--xp", "[uprobes]")]
    {
        t.maps.push(map(SnapshotReason::End, (9000, 9001), 10, range, perms, path));
    }
    faults(&mut t, &[(300, 10, page.0 + 0x80, 0x14)]);
    let r = run(&mut t);
    assert_eq!(r.names[t.faults[0].mapping as usize], "[uprobes]");
    assert!(r.certificates[0].equal && r.certificates[0].differences.is_empty(), "{:?}", r.certificates);
}
