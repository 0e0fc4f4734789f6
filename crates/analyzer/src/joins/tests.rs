//! From a capture on disk to the joins: the cold start of a small service, written by hand.

use mtrace_formats::capture::{Account, CaptureWriter, Manifest, ProbeReport, ProbeStatus, Target};
use mtrace_formats::tables::{GcEventKind, IoCallKind, OffCpuState, ProcessEventKind, SnapshotReason};

use super::*;
use crate::model::{LedgerCategory, TouchKind};
use crate::requests::{COLD_START, FIRST_REQUEST, WHOLE_CAPTURE};
use crate::test_rows::{PAGE, dontneed, event, fault, gc, io, map, mmap, off_cpu, stack};

const HEAP: u64 = 0xc0_0000_0000;
const MS: i64 = 1_000_000;

struct Dir(tempfile::TempDir);

fn manifest() -> Manifest {
    let mut m = Manifest { state: mtrace_formats::capture::State::Complete, ..Manifest::default() };
    m.window.start_ns = Some(0);
    m.window.end_ns = Some(1000 * MS);
    m.host.max_map_count = Some(65530);
    m.targets = vec![Target {
        pid: 10,
        how: "launched".to_owned(),
        go_version: Some("go1.25.5".to_owned()),
        ..Target::default()
    }];
    for (probe, table) in [("faults", "faults"), ("off_cpu", "off_cpu"), ("gc_events", "gc_events")] {
        m.probes.push(ProbeReport {
            name: probe.to_owned(),
            status: ProbeStatus::Ran,
            variant: None,
            reason: None,
            hides: None,
        });
        m.accounts.push(Account { probe: probe.to_owned(), table: table.to_owned(), ..Account::default() });
    }
    m
}

/// The accounts as a recorder writes them: all that was seen is there.
fn settle_accounts(w: &CaptureWriter, m: &mut Manifest) {
    let rows = w.rows_written();
    for a in &mut m.accounts {
        a.written = rows.get(a.table.as_str()).copied().unwrap_or(0);
        a.seen = a.written;
    }
}

/// exec at 10 ms, a heap mapped at 20, a client at 100, a request at 110 that touches 1,000 pages until 150, of which
/// the last hundred had been given back, and a response at 160.
fn service() -> Dir {
    let dir = Dir(tempfile::tempdir().unwrap());
    let mut w = CaptureWriter::create(&dir.0.path().join("s.mtrace")).unwrap();
    w.push(event(10 * MS, 10, 10, ProcessEventKind::Exec, None)).unwrap();
    w.push(event(11 * MS, 10, 11, ProcessEventKind::Thread, Some(10))).unwrap();
    w.push(map(SnapshotReason::Exec, (10 * MS, 10 * MS), 10, (0x40_0000, 0x50_0000), "r-xp", "/srv/service")).unwrap();
    w.push(mmap(20 * MS, 10, HEAP, 1000 * PAGE, 3, 1)).unwrap();
    for (ts, fd, kind, result, first) in [
        (30, 3, IoCallKind::Accept, None, 0),
        (100, 3, IoCallKind::Accept, Some(7), 0),
        (110, 7, IoCallKind::Read, Some(90), 0x47),
        (160, 7, IoCallKind::Write, Some(200), 0x48),
    ] {
        w.push(io(ts * MS, 1000, 10, kind, fd, result, first)).unwrap();
    }
    // The first hundred pages were touched at start and given back.
    for i in 0..100 {
        w.push(fault(40 * MS + i * 2000, 10, HEAP + (i as u64) * PAGE, 6, 2)).unwrap();
    }
    w.push(dontneed(50 * MS, 10, HEAP, 100 * PAGE, 3)).unwrap();
    for i in 0..1000_i64 {
        w.push(fault(111 * MS + i * 39_000, 10, HEAP + (i as u64) * PAGE, 6, 4)).unwrap();
    }
    w.push(off_cpu(60 * MS, 40 * MS, 10, OffCpuState::Sleeping)).unwrap();
    w.push(off_cpu(11 * MS + 100, 900 * MS, 11, OffCpuState::Sleeping)).unwrap();
    for (ts, e, reason) in [
        (120, GcEventKind::StopTheWorld, Some(2)),
        (121, GcEventKind::CycleStart, None),
        (122, GcEventKind::StartTheWorld, None),
        (130, GcEventKind::MarkTermination, None),
    ] {
        w.push(gc(ts * MS, e, reason)).unwrap();
    }
    for (id, functions) in [
        (1, ["runtime.sysMap", "cache.New", "main.main"]),
        (2, ["runtime.memclr", "main.warm", "main.main"]),
        (3, ["runtime.madvise", "runtime.bgscavenge", "runtime.goexit"]),
        (4, ["runtime.memclr", "cache.(*Store).Fill", "main.serve"]),
    ] {
        let (frames, symbols) = stack(id, &functions);
        frames.into_iter().for_each(|f| w.push(f).unwrap());
        symbols.into_iter().for_each(|s| w.push(s).unwrap());
    }
    let mut m = manifest();
    settle_accounts(&w, &mut m);
    w.roll(&mut m).unwrap();
    dir
}

fn joined(dir: &Dir) -> Joined {
    let capture = Capture::open(&dir.0.path().join("s.mtrace")).unwrap();
    analyze_tables(&capture, &JoinOptions::default())
}

#[test]
fn the_first_request_is_charged_to_the_code_that_touched() {
    let j = joined(&service());
    let names: Vec<_> = j.facts.ledgers.iter().map(|l| (l.pid, l.window.name.as_str(), l.total_ns() / MS)).collect();
    assert_eq!(names, [(10, FIRST_REQUEST, 50), (10, COLD_START, 150)]);
    for l in &j.facts.ledgers {
        assert_eq!(l.rows.iter().map(|r| r.wall_ns).sum::<i64>(), l.total_ns());
    }
    let request = &j.facts.ledgers[0];
    let faults = request.rows.iter().find(|r| r.category == LedgerCategory::Faults).unwrap();
    assert_eq!(faults.top.as_deref(), Some("cache.(*Store).Fill (store.go:81)"));
    // 2 ms of the faults fell into the stop of the world.
    assert_eq!(request.wall_ns(LedgerCategory::GcStw), 2 * MS);
    assert!(faults.wall_ns < MS && faults.wall_ns > 900_000, "{faults:?}");
    assert_eq!(j.facts.ledgers[1].wall_ns(LedgerCategory::WaitingForClient), 40 * MS);
    let shares: i64 = j.shares_of(request, LedgerCategory::Faults).map(|s| s.wall_ns).sum();
    assert_eq!(shares, faults.wall_ns);

    let g = j.facts.faults.groups.iter().find(|g| g.kind == TouchKind::AnonFirstTouch && g.faults == 900).unwrap();
    assert_eq!(g.toucher.as_ref().unwrap().function, "cache.(*Store).Fill");
    assert_eq!(g.mapper.as_ref().unwrap().function, "cache.New");
    assert_eq!((g.pages, g.in_windows[0].1), (900, 900));
    assert_eq!(g.map_stack.len(), 3);
}

#[test]
fn churn_names_releaser_and_toucher() {
    let j = joined(&service());
    assert_eq!(j.facts.churn.groups.len(), 1);
    let c = &j.facts.churn.groups[0];
    assert_eq!(c.releaser.as_ref().unwrap().function, "runtime.bgscavenge");
    assert_eq!(c.toucher.as_ref().unwrap().function, "cache.(*Store).Fill");
    assert_eq!((c.calls, c.released_pages, c.refaults, c.refault_ns), (1, 100, 100, 100_000));
    assert!((c.rounds_per_page - 1.0).abs() < 1e-9);
    // Of the request's window; the cold start holds the same faults.
    assert_eq!(c.in_windows, [(FIRST_REQUEST.to_owned(), 100_000), (COLD_START.to_owned(), 100_000)]);
}

#[test]
fn gc_flame_graphs_timeline_and_trust_are_filled() {
    let j = joined(&service());
    assert!(j.facts.gc.measured);
    assert_eq!((j.facts.gc.cycles.len(), j.facts.gc.stw_total_ns), (1, 2 * MS));
    let during = j.facts.gc.phases.iter().find(|p| p.phase == crate::model::GcPhase::During).unwrap();
    assert_eq!(during.wall_ns, 9 * MS);
    assert!(during.faults > 200);
    let toucher = &j.facts.flame_graphs[0];
    assert_eq!(toucher.total, 1100);
    assert!(toucher.folded.contains(&("service;main.serve;cache.(*Store).Fill;runtime.memclr".to_owned(), 1000)));
    assert_eq!(j.facts.flame_graphs[2].total, 1000 * PAGE);
    let series: Vec<_> = j.facts.timeline.series.iter().map(|s| s.name.as_str()).collect();
    assert!(series.contains(&"faults") && series.contains(&"mapped, usable"), "{series:?}");
    assert!(j.facts.timeline.series.iter().all(|s| s.points.len() <= 400));
    assert_eq!(j.facts.trust.faults_charged, (1100, 1100));
    assert_eq!(j.facts.address_spaces[0].owners[0].owner.as_ref().unwrap().function, "cache.New");
    assert!(j.facts.trust.damage.is_empty(), "{:?}", j.facts.trust.damage);
}

#[test]
fn a_damaged_segment_costs_its_rows_and_is_named() {
    let dir = service();
    let path = dir.0.path().join("s.mtrace/faults/000001.parquet");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::remove_dir_all(dir.0.path().join("s.mtrace/symbols")).unwrap();
    let j = joined(&dir);
    assert!(j.facts.faults.groups.is_empty());
    assert_eq!(j.facts.ledgers.len(), 2);
    let named = |what: &str| j.facts.trust.damage.iter().any(|d| d.contains(what));
    assert!(named("faults/000001.parquet") && named("symbols/"), "{:?}", j.facts.trust.damage);
    assert_eq!(j.facts.ledgers[0].rows.iter().map(|r| r.wall_ns).sum::<i64>(), j.facts.ledgers[0].total_ns());
}

#[test]
fn a_process_that_never_answers_is_looked_at_as_a_whole() {
    let dir = Dir(tempfile::tempdir().unwrap());
    let mut w = CaptureWriter::create(&dir.0.path().join("s.mtrace")).unwrap();
    w.push(event(10 * MS, 10, 10, ProcessEventKind::Exec, None)).unwrap();
    w.push(mmap(20 * MS, 10, HEAP, 10 * PAGE, 3, 1)).unwrap();
    w.push(event(500 * MS, 10, 10, ProcessEventKind::Exit, None)).unwrap();
    let mut m = manifest();
    settle_accounts(&w, &mut m);
    w.roll(&mut m).unwrap();
    let j = joined(&dir);
    let l = &j.facts.ledgers[0];
    assert_eq!((l.window.name.as_str(), l.window.start_ns, l.window.end_ns), (WHOLE_CAPTURE, 10 * MS, 500 * MS));
    assert_eq!(l.rows.iter().map(|r| r.wall_ns).sum::<i64>(), l.total_ns());
}

#[test]
fn an_empty_capture_joins_to_nothing() {
    let dir = Dir(tempfile::tempdir().unwrap());
    let mut w = CaptureWriter::create(&dir.0.path().join("s.mtrace")).unwrap();
    w.roll(&mut Manifest::default()).unwrap();
    let j = joined(&dir);
    assert!(
        j.facts.ledgers.is_empty()
            && j.facts.faults.groups.is_empty()
            && j.facts.flame_graphs.iter().all(|f| f.total == 0)
    );
}

#[test]
fn a_probe_with_nothing_to_observe_is_no_gap() {
    let about_gc = |status| {
        let dir = Dir(tempfile::tempdir().unwrap());
        let path = dir.0.path().join("s.mtrace");
        let mut m = manifest();
        let gc = m.probes.iter_mut().find(|p| p.name == "gc_events").unwrap();
        (gc.status, gc.reason) = (status, Some("no Go binary among the targets".to_owned()));
        let mut w = CaptureWriter::create(&path).unwrap();
        w.push(event(10 * MS, 10, 10, ProcessEventKind::Exec, None)).unwrap();
        w.roll(&mut m).unwrap();
        let trust = crate::analyze(&Capture::open(&path).unwrap(), &JoinOptions::default(), &mut |_| {}).facts.trust;
        let status = trust.probes.iter().find(|p| p.name == "gc_events").unwrap().status.clone();
        (status, trust.not_checked.iter().filter(|n| n.contains("gc_events")).count())
    };
    assert_eq!(about_gc(ProbeStatus::NotApplicable), ("not applicable".to_owned(), 0));
    assert_eq!(about_gc(ProbeStatus::Absent), ("absent".to_owned(), 1));
}
