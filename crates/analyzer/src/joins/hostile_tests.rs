//! Captures that no recorder writes: nothing panics, hangs or loses the sums.

use mtrace_formats::capture::{Capture, CaptureWriter, Manifest};
use mtrace_formats::tables::{
    Collapse, CollapsedBy, CollapsedMemory, Fault, FaultKind, FileRow, GcEvent, GcEventKind, IoCall, IoCallKind, Loss,
    LossReason, MapRow, MemoryCall, MemoryCallKind, OffCpu, OffCpuState, ProcessEvent, ProcessEventKind, Sample,
    SampleSource, SmapsMoment, SmapsRow, SnapshotReason, SocketFamily, SocketRole, SocketRow, WakerContext,
};
use proptest::prelude::*;

use super::analyze_tables;
use crate::context::JoinOptions;

/// Small numbers, so that rows meet, and the edges.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0_u64..64,
        3 => (0_u64..64).prop_map(|n| n * 4096),
        2 => (0_u64..64).prop_map(|n| 0x7fff_ffff_0000 + n * 4096),
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![12 => 0_i64..10_000, 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN)]
}

/// Numbers from which a row of any table is made.
type Seed = ((i64, i64, u64, u64, u64), (u32, u32, u32), (u32, Option<u32>));

fn seed() -> impl Strategy<Value = Seed> {
    let small = 0_u32..5;
    (
        (time(), time(), number(), number(), number()),
        (small.clone(), small.clone(), any::<u32>()),
        (0_u32..40, proptest::option::of(prop_oneof![0_u32..6, any::<u32>()])),
    )
}

fn pick<T: Copy>(all: &[T], n: u32) -> T {
    all[n as usize % all.len()]
}

fn write(w: &mut CaptureWriter, table: usize, s: &Seed) {
    let &((ts, dur, a, b, c), (pid, tid, n), (k, option)) = s;
    let errno = option.map(|n| n as i32);
    let result = errno.is_none().then_some(c);
    let written = match table {
        0 => w.push(MemoryCall {
            ts,
            dur,
            pid,
            tid,
            call: pick(MemoryCallKind::ALL, k),
            addr: a,
            len_bytes: b,
            prot_or_advice: Some(n % 26),
            flags: Some(n),
            new_len_bytes: Some(c),
            new_addr: option.map(u64::from),
            offset_bytes: Some(a),
            file_id: option,
            result,
            errno,
            stack_id: option,
        }),
        1 => w.push(Fault {
            ts,
            dur: errno.is_none().then_some(dur),
            pid,
            tid,
            addr: a,
            ip: b,
            error_code: option,
            kind: pick(FaultKind::ALL, k),
            stack_id: option,
            weight: option,
        }),
        2 => w.push(GcEvent { ts, pid, tid, event: pick(GcEventKind::ALL, k), reason: option }),
        3 => w.push(ProcessEvent {
            ts,
            pid,
            tid,
            event: pick(ProcessEventKind::ALL, k),
            parent: option,
            comm: Some("a;b\n".to_owned()),
            path: None,
            ns_pid: option,
            ns_tid: option,
            cgroup: Some("/a|b`\n".to_owned()),
            status: errno,
        }),
        4 => w.push(IoCall {
            ts,
            dur,
            pid,
            tid,
            call: pick(IoCallKind::ALL, k),
            // Few descriptors, so that connections come about.
            fd: Some((n % 4) as i32),
            socket: Some(n % 2 == 0),
            result: result.map(|r| if k % 2 == 0 { r % 200 } else { r }),
            errno,
            first_byte: Some(n % 0x18),
        }),
        5 => w.push(fuzzed_wait(OffCpu::bare(ts, dur, pid, tid, pick(OffCpuState::ALL, k)), i64::from(k))),
        6 => w.push(MapRow {
            ts,
            ts_end: dur,
            reason: pick(SnapshotReason::ALL, k),
            pid,
            start_addr: a,
            end_addr: b,
            perms: ["rw-p", "---p", "r-xs", ""][k as usize % 4].to_owned(),
            offset_bytes: c,
            dev: u64::from(n),
            inode: u64::from(n % 3),
            path: pick(&[None, Some("[heap]"), Some("[stack]"), Some("/a"), Some("[uprobes]")], k).map(str::to_owned),
        }),
        7 => w.push(Sample {
            ts,
            source: pick(SampleSource::ALL, k),
            pid: option,
            key: "memory.some.total_us".to_owned(),
            value: Some(a),
        }),
        8 => w.push(Loss { ts, dur, probe: "faults".to_owned(), reason: pick(LossReason::ALL, k), count: a }),
        9 => w.push(SocketRow {
            ts,
            pid,
            fd: errno.unwrap_or(3),
            role: pick(SocketRole::ALL, k),
            family: pick(SocketFamily::ALL, n),
        }),
        10 => w.push(SmapsRow {
            ts,
            ts_end: dur,
            moment: pick(SmapsMoment::ALL, k),
            pid,
            start_addr: a,
            end_addr: b,
            perms: ["rw-p", "", "r-xs"][k as usize % 3].to_owned(),
            path: pick(&[None, Some("[heap]"), Some("/dev/zero (deleted)"), Some("/a")], k).map(str::to_owned),
            rss_bytes: (n % 3 > 0).then_some(c),
            pss_bytes: None,
            private_dirty_bytes: None,
            anon_bytes: None,
            anon_huge_bytes: option.map(|_| a),
            swap_bytes: option.map(|_| b),
            locked_bytes: None,
            referenced_bytes: None,
        }),
        11 => w.push(Collapse {
            ts,
            pid,
            tid,
            by: pick(CollapsedBy::ALL, k),
            memory: pick(CollapsedMemory::ALL, n),
            result: ["succeed", "page_null"][k as usize % 2].to_owned(),
            new_pages: option.map(|_| a),
            copy_ns: option.map(|_| dur),
            addr: Some(b),
        }),
        _ => w.push(FileRow { file_id: n % 6, dev: a, inode: b % 3, path: None, build_id: None }),
    };
    written.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_rows_are_joined_and_every_window_adds_up(
        rows in proptest::collection::vec((0_usize..13, seed()), 0..300),
        start in proptest::option::of(time()),
        end in proptest::option::of(time()),
        page in proptest::option::of(number()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.mtrace");
        let mut w = CaptureWriter::create(&path).unwrap();
        for (table, s) in &rows {
            write(&mut w, *table, s);
        }
        let mut m = Manifest::default();
        (m.window.start_ns, m.window.end_ns, m.host.page_size_bytes) = (start, end, page);
        w.roll(&mut m).unwrap();
        let j = analyze_tables(&Capture::open(&path).unwrap(), &JoinOptions::default());
        for l in &j.facts.ledgers {
            prop_assert_eq!(l.rows.iter().map(|r| r.wall_ns).sum::<i64>(), l.total_ns());
            for r in &l.rows {
                prop_assert_eq!(j.shares_of(l, r.category).map(|s| s.wall_ns).sum::<i64>(), r.wall_ns);
            }
        }
        // A sampled one counts for as many as it stands for.
        let weight = |s: &Seed| u64::from(s.2.1.unwrap_or(1).clamp(1, 1 << 15));
        let faults = rows.iter().filter(|(table, _)| *table == 1).map(|(_, s)| weight(s)).sum::<u64>();
        prop_assert_eq!(j.facts.faults.groups.iter().map(|g| g.faults).sum::<u64>(), faults);
        prop_assert_eq!(j.facts.faults.kinds.iter().map(|g| g.faults).sum::<u64>(), faults);
        for m in &j.facts.resident {
            let listed = m.groups.iter().fold(m.others_end.rss_bytes, |sum, g| sum.saturating_add(g.end.rss_bytes));
            prop_assert_eq!(listed, m.end.rss_bytes);
        }
        prop_assert!(j.facts.timeline.series.iter().all(|s| s.points.len() <= 400));
    }
}

/// With a waker, who may be anybody, and times that do not fit.
fn fuzzed_wait(o: OffCpu, k: i64) -> OffCpu {
    if k % 3 == 0 {
        return o;
    }
    OffCpu {
        runqueue_ns: (k % 5 != 0).then_some(k),
        waker_pid: (k % 7 != 0).then_some(o.pid),
        waker_tid: (k % 11 != 0).then_some((k % 6) as u32),
        waker_context: Some(if k % 2 == 0 { WakerContext::Thread } else { WakerContext::Interrupt }),
        syscall_nr: Some(k as u32),
        stack_id: Some(k as u32),
        ..o
    }
}
