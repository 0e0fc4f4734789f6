//! Counts, stacks and accounts of live recordings against what the recorded programs say themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtrace_formats::capture::Capture;
use mtrace_formats::tables::{
    Fault, FaultKind, FaultRun, Loss, MapRow, MemoryCall, MemoryCallKind, ProcessEvent, ProcessEventKind, Sample,
    SampleSource, SnapshotReason,
};
use mtrace_recorder::{FaultMode, Options, TargetSpec, record};
use record_support::{Recording, bpf_works, compile, faults_of, record_command};

/// Fault rows in the window that the program printed.
fn faults_in_window(r: &Recording, said: &serde_json::Value) -> Vec<Fault> {
    let n = |key: &str| said[key].as_i64().unwrap();
    r.faults().into_iter().filter(|f| i64::from(f.pid) == n("pid") && f.ts >= n("from") && f.ts < n("to")).collect()
}

fn assert_faults_match(r: &Recording, said: &serde_json::Value) {
    let rows = faults_in_window(r, said);
    let n = |key: &str| said[key].as_u64().unwrap();
    let of = |kind| rows.iter().filter(|f| f.kind == kind).count() as u64;
    assert_eq!((of(FaultKind::Minor), of(FaultKind::Major)), (n("minflt"), n("majflt")));
    let stacks = r.stacks();
    for (start, call_path) in [
        ("a", &["leaf_touch", "a_inner", "a_outer", "faults", "main"][..]),
        ("b", &["library_touch", "b_innermost", "b_inner", "b_outer", "faults", "main"][..]),
    ] {
        let region = n(start)..n(start) + n("pages") * 4096;
        let here: Vec<&Fault> = rows.iter().filter(|f| region.contains(&f.addr)).collect();
        assert_eq!(here.len() as u64, n("pages"), "region {start}");
        for f in here {
            let stack = &stacks[&f.stack_id.expect("a stack")];
            // In region b the innermost frame is the C library's memset, under whatever name it has here.
            let own: Vec<&str> =
                stack.iter().map(String::as_str).skip_while(|n| n.contains("memset")).take(call_path.len()).collect();
            assert_eq!(own, call_path, "whole stack: {stack:?}");
            assert_eq!(f.error_code, Some(6), "a write of user code to a page that is not present");
            assert!(f.dur.is_some_and(|d| d > 0), "{f:?}");
        }
    }
}

#[test]
fn faults_are_counted_as_getrusage_does_and_their_stacks_are_right() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    for mode in [FaultMode::Runs, FaultMode::Every] {
        let r = record_command(&known, &["faults", "5000"], |o| o.faults = mode);
        assert_eq!((r.summary.exit_status, r.summary.end_reason.as_str()), (Some(0), "target exited"));
        r.assert_nothing_lost();
        assert_faults_match(&r, &r.said[0]);
        let (rows, runs) = (r.rows::<Fault>().len(), r.rows::<FaultRun>().len());
        match mode {
            FaultMode::Runs => assert!(rows + runs < 1_000, "10,000 faults in order: {rows} rows, {runs} runs"),
            _ => assert!(rows >= 10_000 && runs == 0, "{rows} rows, {runs} runs"),
        }
    }
}

#[test]
fn a_caller_further_out_is_not_taken_for_the_one_before() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    for mode in [FaultMode::Runs, FaultMode::Every] {
        let r = record_command(&known, &["callers", "4000"], |o| o.faults = mode);
        r.assert_nothing_lost();
        let (said, stacks) = (&r.said[0], r.stacks());
        let n = |key: &str| said[key].as_u64().unwrap();
        let region = n("a")..n("a") + n("pages") * 4096;
        let here: Vec<Fault> = r.faults().into_iter().filter(|f| region.contains(&f.addr)).collect();
        let by = |function: &str| {
            here.iter().filter(|f| stacks[&f.stack_id.unwrap()].iter().any(|name| name == function)).count() as u64
        };
        assert_eq!((by("warm_up"), by("serve")), (2, n("pages") - 2), "{mode:?}");
    }
}

/// Pages that two callers touch in turn, and which of them are recorded with the other's stack: all, wrong, in doubt.
fn twins(known: &Path, mode: FaultMode, turns: (u64, u64)) -> (u64, u64, u64) {
    let args = ["twins".to_owned(), "8000".to_owned(), turns.0.to_string(), turns.1.to_string()];
    let r = record_command(known, &args.each_ref().map(String::as_str), |o| o.faults = mode);
    r.assert_nothing_lost();
    let (said, stacks) = (&r.said[0], r.stacks());
    let (start, pages) = (said["a"].as_u64().unwrap(), said["pages"].as_u64().unwrap());
    let (mut all, mut wrong) = (0, 0);
    for f in r.faults().into_iter().filter(|f| (start..start + pages * 4096).contains(&f.addr)) {
        let caller = if (f.addr - start) / 4096 % (turns.0 + turns.1) < turns.0 { "first_twin" } else { "second_twin" };
        all += 1;
        wrong += u64::from(!stacks[&f.stack_id.unwrap()].iter().any(|name| name == caller));
    }
    assert_eq!(all, pages, "{mode:?}");
    (all, wrong, r.account("faults").ignored.get("stacks_doubtful").copied().unwrap_or(0))
}

#[test]
fn callers_that_no_register_tells_apart_are_told_apart_and_where_not_it_is_counted() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    for mode in [FaultMode::Runs, FaultMode::Every] {
        for turns in [(1, 1), (1, 3), (2, 6), (4, 4)] {
            let (_, wrong, _) = twins(&known, mode, turns);
            assert_eq!(wrong, 0, "{mode:?}, in turns of {turns:?}");
        }
        for turns in [(50, 50), (15, 1), (99, 1)] {
            // It is learnt by mistakes, each of which makes the next one rarer. Whether a lone one is walked is chance.
            let (all, wrong, doubtful) = twins(&known, mode, turns);
            assert!(wrong < all / 50, "{mode:?}, in turns of {turns:?}: {wrong} wrong, {doubtful} in doubt");
            assert!(turns.1 == 1 || wrong <= doubtful, "{mode:?}: {wrong} wrong, {doubtful} in doubt");
            eprintln!("{mode:?}, in turns of {turns:?}: {wrong} wrong, {doubtful} in doubt, of {all}");
        }
    }
}

#[test]
fn slow_faults_keep_rows_of_their_own() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    // No fault is faster than nothing: each one is slow then.
    let r = record_command(&known, &["faults", "500"], |o| o.slow_fault = Duration::ZERO);
    r.assert_nothing_lost();
    assert!(r.rows::<FaultRun>().is_empty());
    assert_faults_match(&r, &r.said[0]);
}

#[test]
fn every_fault_from_exec_to_exit_is_a_row() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    for (name, args) in [("true", vec!["/bin/true"]), ("known", vec![known.to_str().unwrap(), "touch", "3000"])] {
        let argv = args.into_iter().map(Into::into).collect();
        let options = Options::new(TargetSpec::Launch { argv }, dir.path().join(format!("{name}.mtrace")));
        record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
        let capture = Capture::open(&options.output).unwrap();
        let (samples, _) = capture.read::<Sample>();
        let target = &capture.manifest.targets[0];
        // What it stood at when it was stopped at its exec: the recorder's fork had faults as well.
        let before = |key: &str| {
            let mut of_key = samples.iter().filter(|s| s.source == SampleSource::Stat && s.key == key);
            of_key.next().and_then(|s| s.value).expect("a sample at the exec")
        };
        let minor = target.rusage_minor_faults.unwrap() - before("minflt");
        let major = target.rusage_major_faults.unwrap() - before("majflt");
        let faults = faults_of(&capture);
        let of = |kind| faults.iter().filter(|f| f.kind == kind).count() as u64;
        assert_eq!((of(FaultKind::Minor), of(FaultKind::Major)), (minor, major), "{name}");
    }
}

#[test]
fn children_are_followed_through_fork_and_exec() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let r = record_command(&known, &["fork", "5"], |_| {});
    assert_eq!(r.summary.exit_status, Some(7 << 8));
    r.assert_nothing_lost();
    assert_eq!(r.said.len(), 5);
    r.said.iter().for_each(|said| assert_faults_match(&r, said));

    let events = r.rows::<ProcessEvent>();
    for said in &r.said {
        let pid = said["pid"].as_u64().unwrap() as u32;
        let of_child: Vec<_> = events.iter().filter(|e| e.pid == pid).collect();
        let kinds: Vec<_> = of_child.iter().map(|e| e.event).collect();
        use ProcessEventKind as K;
        assert_eq!(kinds[0], K::Fork);
        assert!(kinds.contains(&K::Exec));
        assert_eq!(kinds[kinds.len() - 2..], [K::ThreadExit, K::Exit]);
        let exec = of_child.iter().find(|e| e.event == K::Exec).unwrap();
        assert_eq!(exec.path.as_deref(), Some(known.to_str().unwrap()));
        assert_eq!(of_child.last().unwrap().status, Some(0));
        let target = r.capture.manifest.targets.iter().find(|t| t.pid == pid).unwrap();
        assert!(target.how.starts_with("child of "), "{target:?}");
    }
}

#[test]
fn memory_calls_are_counted_as_the_program_counts_them() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let memcalls = compile("memcalls.c", dir.path());
    let r = record_command(&memcalls, &[], |_| {});
    assert_eq!(r.summary.exit_status, Some(0));
    r.assert_nothing_lost();
    let said = &r.said[0];
    let calls = r.rows::<MemoryCall>();
    for actor in said["actors"].as_array().unwrap() {
        assert_calls_match(&calls, said, actor);
    }
    // Neither its threads nor the other side of the call make rows.
    let actors = said["actors"].as_array().unwrap();
    let child = actors.iter().find(|a| a["role"] == "child").unwrap()["pid"].as_u64();
    let forks: Vec<_> = calls.iter().filter(|c| c.call == MemoryCallKind::Fork).collect();
    assert_eq!(forks.iter().map(|c| c.result).collect::<Vec<_>>(), [child], "{forks:?}");
    assert_eq!(u64::from(forks[0].pid), actors[0]["pid"].as_u64().unwrap());
}

fn assert_calls_match(calls: &[MemoryCall], said: &serde_json::Value, actor: &serde_json::Value) {
    let tid = actor["tid"].as_u64().unwrap() as u32;
    let marker = |which: &str| {
        let advice = said[which].as_u64().unwrap() as u32;
        move |c: &&MemoryCall| c.tid == tid && c.call == MemoryCallKind::Madvise && c.prot_or_advice == Some(advice)
    };
    let begin = calls.iter().find(marker("marker_begin")).expect("the begin marker").ts;
    let end = calls.iter().find(marker("marker_end")).expect("the end marker").ts;
    // (call, errno) → count; no errno is success. brk fails without one: it returns the old break.
    let mut found: BTreeMap<(String, Option<i32>), u64> = BTreeMap::new();
    // Forks are looked at on their own.
    let counted = |c: &&MemoryCall| c.tid == tid && c.ts >= begin && c.ts <= end && c.call != MemoryCallKind::Fork;
    for c in calls.iter().filter(counted) {
        let refused = c.call == MemoryCallKind::Brk && c.addr != 0 && c.result != Some(c.addr);
        let errno = if refused { Some(12) } else { c.errno };
        *found.entry((c.call.to_string(), errno)).or_default() += 1;
    }
    let mut expected: BTreeMap<(String, Option<i32>), u64> = BTreeMap::new();
    for (call, counts) in actor["calls"].as_object().unwrap() {
        let mut add = |errno, n: &serde_json::Value| {
            let n = n.as_u64().unwrap();
            if n > 0 {
                expected.insert((call.clone(), errno), n);
            }
        };
        add(None, &counts["ok"]);
        for (errno, n) in counts["errno"].as_object().unwrap() {
            add(Some(errno.parse().unwrap()), n);
        }
    }
    // The C library starts threads with an mprotect or mmap of its own in the main thread only.
    assert_eq!(found, expected, "{}", actor["role"]);
}

#[test]
fn nothing_is_lost_at_full_speed_and_memory_and_disk_stay_small() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let faultloop = compile("faultloop.c", dir.path());
    let r = record_command(&faultloop, &["64", "20"], |_| {});
    r.assert_nothing_lost();
    let pages = r.said[0]["pages"].as_f64().unwrap() as usize;
    let faults = r.faults();
    let writes = faults.iter().filter(|f| f.error_code == Some(6)).count();
    assert!(writes >= pages, "{writes} of {pages}");
    let bytes: u64 = r.capture.manifest.segments.iter().filter(|s| s.table == "faults").map(|s| s.bytes).sum();
    let per_fault = bytes as f64 / faults.len() as f64;
    eprintln!("{per_fault:.2} bytes per fault, cost {:?}", r.summary.cost);
    assert!(per_fault <= 6.0, "{per_fault} bytes per fault");
}

#[test]
fn a_ring_that_is_too_small_loses_rows_and_accounts_for_each() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let faultloop = compile("faultloop.c", dir.path());
    let r = record_command(&faultloop, &["64", "4"], |o| o.ring_bytes = 4096);
    r.assert_accounts_balance();
    let lost = r.account("faults").lost["ring_full"];
    assert!(lost > 0);
    let without_stack = r.faults().iter().filter(|f| f.stack_id.is_none()).count() as u64;
    assert_eq!(without_stack, r.account("faults").incomplete.values().sum::<u64>());
    assert!(r.rows::<Loss>().iter().all(|l| l.dur > 0 && l.count > 0));
}

#[test]
fn a_program_that_exits_at_once_is_a_proper_capture() {
    if !bpf_works() {
        return;
    }
    let r = record_command(std::path::Path::new("/bin/true"), &[], |_| {});
    r.assert_nothing_lost();
    let maps = r.rows::<MapRow>();
    let exact = maps.iter().filter(|m| m.reason == SnapshotReason::Exec && m.ts == m.ts_end).count();
    assert!(exact > 5, "the snapshot at the stopped exec: {maps:?}");
    let kinds: Vec<_> = r.rows::<ProcessEvent>().iter().map(|e| e.event).collect();
    use ProcessEventKind as K;
    // The second exec is the shell's; it takes the program's name first.
    assert_eq!(kinds, [K::Exec, K::Name, K::Exec, K::ThreadExit, K::Exit]);
    assert!(r.faults().len() > 20);
}

#[test]
fn probes_that_are_switched_off_are_absent_and_the_rest_is_recorded() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let r = record_command(&known, &["faults", "100"], |o| {
        o.without = vec!["process_events".to_owned(), "memory_calls".to_owned()];
    });
    assert_eq!(r.summary.end_reason, "target exited");
    let reasons: BTreeMap<_, _> =
        r.capture.manifest.probes.iter().map(|p| (p.name.as_str(), p.reason.as_deref())).collect();
    assert_eq!(reasons["process_events"], Some("switched off"));
    assert!(r.rows::<MemoryCall>().is_empty());
    let rows = faults_in_window(&r, &r.said[0]);
    assert_eq!(rows.len() as u64, r.said[0]["minflt"].as_u64().unwrap());
}
