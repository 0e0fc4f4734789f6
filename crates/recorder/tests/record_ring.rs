//! The flight recorder: what a dump holds, what makes one, and that the rest goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mtrace_formats::capture::{Capture, FlightRecorder, State};
use mtrace_formats::table::Row;
use mtrace_formats::tables::{
    Fault, FaultRun, FileRow, Frame, MapRow, MemoryCall, ProcessEvent, ProcessEventKind, SnapshotReason, SymbolRow,
};
use mtrace_recorder::{ErrorKind, FaultMode, FlightOptions, Options, Progress, Summary, TargetSpec, record};
use record_support::{Recording, bpf_works, compile, faults_of};

const SECOND: i64 = 1_000_000_000;

fn sh(script: &str) -> TargetSpec {
    TargetSpec::Launch { argv: ["sh", "-c", script].map(Into::into).to_vec() }
}

fn options(dir: &Path, target: TargetSpec, window: Duration, triggers: &[&str]) -> Options {
    let mut options = Options::new(target, dir.join("fly"));
    options.io_calls_per_process = u64::MAX;
    let mut flight = FlightOptions::new(window);
    flight.triggers = triggers.iter().map(|t| t.parse().unwrap()).collect();
    flight.post = Duration::ZERO;
    flight.min_interval = Duration::from_secs(60);
    options.flight = Some(flight);
    options
}

/// Records until `act` says so, or the target ends. The calls of `act` are about 200 ms apart.
fn fly(options: &Options, mut act: impl FnMut(&Progress) -> bool) -> Summary {
    let stop = AtomicBool::new(false);
    record(options, &stop, &mut |p| {
        if act(p) {
            stop.store(true, Ordering::Relaxed);
        }
    })
    .unwrap()
}

fn ask(options: &Options) {
    options.flight.as_ref().unwrap().ask.store(true, Ordering::Relaxed);
}

fn rows<R: Row>(capture: &Capture) -> Vec<R> {
    let (rows, skipped) = capture.read::<R>();
    assert!(skipped.is_empty(), "{skipped:?}");
    rows
}

fn flight(capture: &Capture) -> &FlightRecorder {
    capture.manifest.flight.as_ref().unwrap()
}

/// Opens a dump and checks what holds for every one.
fn dump(summary: &Summary, n: usize) -> Capture {
    let path = &summary.dumps[n].path;
    let capture = Capture::open(path).unwrap();
    assert!(capture.problems.is_empty(), "{:?}", capture.problems);
    assert_eq!(capture.manifest.state, State::Complete);
    assert_eq!(flight(&capture).dump as usize, n + 1);
    // What is ours is nobody else's.
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);

    // Stacks have frames and names, all of them and no others.
    let frames: BTreeSet<u32> = rows::<Frame>(&capture).iter().map(|f| f.stack_id).collect();
    let named: BTreeSet<u32> = rows::<SymbolRow>(&capture).iter().map(|f| f.stack_id).collect();
    let mut used: BTreeSet<u32> = faults_of(&capture).iter().filter_map(|f| f.stack_id).collect();
    let calls = rows::<MemoryCall>(&capture);
    used.extend(calls.iter().filter_map(|c| c.stack_id));
    assert!(used.is_subset(&frames), "{used:?} {frames:?}");
    assert_eq!(frames, named);
    let files: BTreeSet<u32> = rows::<FileRow>(&capture).iter().map(|f| f.file_id).collect();
    assert!(calls.iter().filter_map(|c| c.file_id).all(|id| files.contains(&id)));

    // The books of the window, and those of the whole recording.
    for a in &flight(&capture).accounts {
        assert_eq!(a.seen, a.in_window + a.before_window + a.lost_before + a.in_flight, "{a:?}");
        let window = capture.manifest.accounts.iter().find(|w| w.probe == a.probe).unwrap();
        assert_eq!(a.in_window, window.seen, "{a:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    Recording { summary: summary.clone(), capture: Capture::open(path).unwrap(), said: Vec::new(), dir }
        .assert_accounts_balance();
    capture
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |e: fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => bytes_below(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

#[test]
fn a_dump_is_a_whole_capture_of_the_last_window_and_recording_goes_on() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let mut options = options(dir.path(), sh(&format!("exec '{}' loop", known.display())), Duration::from_secs(2), &[]);
    let f = options.flight.as_mut().unwrap();
    (f.min_interval, f.post, f.dump_on_exit) = (Duration::from_secs(1), Duration::from_millis(500), true);
    let mut asked = 0;
    let summary = fly(&options, |p| {
        if asked == 0 && p.elapsed >= Duration::from_secs(6) {
            ask(&options);
            asked = 1;
        }
        p.elapsed >= Duration::from_secs(9)
    });
    let left: BTreeSet<String> =
        fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(left.len(), 3, "the program and two dumps, no ring: {left:?}");
    assert!(left.iter().any(|n| n.starts_with("fly-") && n.ends_with("Z-signal.mtrace")), "{left:?}");
    assert!(left.iter().any(|n| n.ends_with("Z-end.mtrace")), "{left:?}");

    let first = dump(&summary, 0);
    let window = &first.manifest.window;
    let (start, end) = (window.start_ns.unwrap(), window.end_ns.unwrap());
    let fired = flight(&first).trigger.clone().unwrap();
    assert_eq!(fired.trigger, "signal");
    assert!(fired.ts - start >= 2 * SECOND, "the window is whole");
    assert!(end - fired.ts >= SECOND / 2, "and so is the time after");
    // The base may be older by as long as it must not be read again; and this machine is slow at times.
    assert!(end - start < 5 * SECOND, "{} ms", (end - start) / 1_000_000);
    let faults = faults_of(&first);
    assert!(faults.len() > 10_000, "{}", faults.len());
    assert!(faults.iter().all(|f| f.ts >= start - SECOND / 10 && f.ts <= end), "of the window only");
    assert!(faults.iter().any(|f| f.ts >= fired.ts));
    let events = rows::<ProcessEvent>(&first);
    assert!(events.iter().all(|e| e.event != ProcessEventKind::Exec), "that was before the window");
    assert_eq!(events.iter().filter(|e| e.event == ProcessEventKind::Attach).count(), 1);
    let maps = rows::<MapRow>(&first);
    for reason in [SnapshotReason::Attach, SnapshotReason::End] {
        assert!(maps.iter().any(|m| m.reason == reason), "{reason}");
    }
    assert!(rows::<SymbolRow>(&first).iter().any(|s| s.function.as_deref() == Some("leaf_touch")));
    assert!(flight(&first).dropped_rows["fault_runs"] > 0);

    // The one at the end follows on, and its books are closed: nothing is on its way any more.
    let second = dump(&summary, 1);
    assert!(second.manifest.window.start_ns.unwrap() > start);
    assert!(faults_of(&second).iter().any(|f| f.ts > end));
    for a in &flight(&second).accounts {
        assert_eq!(a.in_flight, 0, "{a:?}");
    }
}

#[test]
fn slow_faults_and_calls_fire_and_dumps_are_rate_limited() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let script = format!("exec '{}' loop", known.display());
    let mut options = options(dir.path(), sh(&script), Duration::from_secs(1), &["slow-fault>1us", "slow-call>1us"]);
    let f = options.flight.as_mut().unwrap();
    (f.min_interval, f.max_dumps) = (Duration::from_secs(2), 2);
    let summary = fly(&options, |p| p.elapsed >= Duration::from_secs(7));
    assert_eq!(summary.dumps.len(), 2, "{:?}", summary.dumps);
    let (first, second) = (dump(&summary, 0), dump(&summary, 1));
    let fired = flight(&first).trigger.clone().unwrap();
    let found = match fired.trigger.as_str() {
        "slow-fault>1us" => {
            rows::<Fault>(&first).iter().any(|f| f.ts + f.dur.unwrap_or(0) == fired.ts)
                || rows::<FaultRun>(&first).iter().any(|r| r.ts + r.dur_max == fired.ts)
        }
        "slow-call>1us" => rows::<MemoryCall>(&first).iter().any(|c| c.ts + c.dur == fired.ts),
        other => panic!("{other}"),
    };
    assert!(found, "what fired is in the dump: {fired:?}");
    let between = flight(&second).trigger.as_ref().unwrap().ts - fired.ts;
    assert!(between >= 2 * SECOND - SECOND / 2, "{between}");
    let suppressed = &flight(&second).suppressed;
    assert!(suppressed.iter().map(|s| s.count).sum::<u64>() > 100, "{suppressed:?}");
    assert!(suppressed.iter().all(|s| s.first_ts <= s.last_ts && s.first_ts >= fired.ts - SECOND), "{suppressed:?}");
}

#[test]
fn a_target_that_fails_is_dumped_with_its_end() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    // The child's failure is none of the target's.
    let script = format!(
        "'{}' faults 300 >/dev/null; (exit 9); sleep 1.5; '{}' faults 100 >/dev/null; exit 3",
        known.display(),
        known.display()
    );
    let run = |trigger: &str| {
        let dir = tempfile::tempdir_in(dir.path()).unwrap();
        let options = options(dir.path(), sh(&script), Duration::from_secs(20), &[trigger]);
        (fly(&options, |_| false), dir)
    };
    let (summary, _dir) = run("exit!=0");
    assert_eq!((summary.end_reason.as_str(), summary.exit_status), ("target exited", Some(3 << 8)));
    let capture = dump(&summary, 0);
    assert!(summary.dumps[0].path.to_string_lossy().ends_with("-exit.mtrace"), "{:?}", summary.dumps);
    assert!(flight(&capture).trigger.as_ref().unwrap().what.ends_with("exit status 3"));
    // The window is longer than the recording: everything is there, from the exec on.
    let events = rows::<ProcessEvent>(&capture);
    assert!(events.iter().any(|e| e.event == ProcessEventKind::Exec));
    assert!(events.iter().any(|e| e.event == ProcessEventKind::Exit && e.status == Some(3 << 8)));
    assert!(faults_of(&capture).len() >= 800);
    for a in &flight(&capture).accounts {
        assert_eq!(a.in_flight, 0, "{a:?}");
        // Later bases say again who is there.
        assert!(a.before_window == 0 || a.probe == "process_events", "{a:?}");
    }
    // However soon after another dump: there is no other chance.
    let mut both = options(dir.path(), sh(&script), Duration::from_secs(20), &["slow-call>1us", "exit!=0"]);
    both.flight.as_mut().unwrap().post = Duration::ZERO;
    let summary = fly(&both, |_| false);
    let ends: Vec<_> = summary.dumps.iter().map(|d| d.path.to_string_lossy().ends_with("-exit.mtrace")).collect();
    assert_eq!(ends, [false, true], "{:?}", summary.dumps);
    // No trigger, no dump, and nothing else left.
    let (summary, dir) = run("slow-call>1h");
    assert!(summary.is_flight && summary.dumps.is_empty(), "{:?}", summary.dumps);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A memory cgroup with a limit; removed when the test ends.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, limit: u64) -> Option<Self> {
        let name = format!("mtrace-ring-{name}-{}", std::process::id());
        let mut why = "no cgroup hierarchy has the memory controller".to_owned();
        for (root, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let cgroup = Self(Path::new(root).join(&name));
            let limited = fs::create_dir(&cgroup.0).and_then(|()| fs::write(cgroup.0.join(file), limit.to_string()));
            match limited {
                Ok(()) => return Some(cgroup),
                Err(e) => why = format!("{}: {e}", cgroup.0.display()),
            }
        }
        eprintln!("skipped: no memory cgroup can be made: {why}");
        None
    }

    /// A script that runs a command in it.
    fn run(&self, command: &str) -> String {
        format!("echo $$ > '{}/cgroup.procs'; exec {command}", self.0.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn an_oom_kill_in_a_cgroup_is_dumped() {
    if !bpf_works() {
        return;
    }
    let Some(cgroup) = Cgroup::new("oom", 24 << 20) else { return };
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let trigger = format!("oom:{}", cgroup.0.display());
    // 100 MiB in 24; the other target lives on.
    let script = format!("(sleep 1; {}) ; sleep 3", cgroup.run(&format!("'{}' touch 25600", known.display())));
    let script = script.replace("echo $$", "sh -c 'echo $PPID'");
    let options = options(dir.path(), sh(&script), Duration::from_secs(5), &[&trigger, "oom", "memory.max"]);
    let summary = fly(&options, |_| false);
    assert_eq!(summary.dumps.len(), 1, "{:?}", summary.problems);
    let capture = dump(&summary, 0);
    let f = flight(&capture);
    let fired: Vec<&str> =
        f.trigger.iter().map(|t| t.trigger.as_str()).chain(f.also.iter().map(|a| a.trigger.as_str())).collect();
    assert!(fired.contains(&trigger.as_str()) || fired.contains(&"memory.max"), "{f:?}");
    eprintln!("fired: {fired:?}, {}", f.trigger.as_ref().unwrap().what);
}

#[test]
fn memory_pressure_is_dumped_by_the_kernels_trigger_and_by_our_own_sum() {
    if !bpf_works() {
        return;
    }
    if let Err(e) = fs::read_to_string("/proc/pressure/memory") {
        eprintln!("skipped: no pressure stall information: {e}");
        return;
    }
    let Some(cgroup) = Cgroup::new("psi", 20 << 20) else { return };
    // Where a file is written to a disk: on tmpfs nothing has to be read again.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let scan = compile("filescan.c", dir.path());
    let file = dir.path().join("file");
    let script = cgroup.run(&format!("'{}' '{}' 60 100000", scan.display(), file.display()));
    for trigger in ["psi:memory.some>3%/2s", "psi:memory.some>1%/12s"] {
        let out = tempfile::tempdir_in(dir.path()).unwrap();
        let options = options(out.path(), sh(&script), Duration::from_secs(3), &[trigger]);
        let mut took = None;
        let summary = fly(&options, |p| {
            if !p.dumps.is_empty() {
                took = Some(p.elapsed);
            }
            took.is_some() || p.elapsed > Duration::from_secs(60)
        });
        let stalled = fs::read_to_string("/proc/pressure/memory").unwrap();
        assert!(!summary.dumps.is_empty(), "{trigger} did not fire within a minute: {stalled}");
        let capture = dump(&summary, 0);
        let fired = flight(&capture).trigger.clone().unwrap();
        eprintln!("{trigger}: {} after {took:?}", fired.what);
        assert!(fired.what.contains("stalled on memory"), "{fired:?}");
        let own = capture.manifest.problems.iter().any(|p| p.what.contains("summed over the window"));
        assert_eq!(own, trigger.ends_with("/12s"), "{:?}", capture.manifest.problems);
        let written: u64 = capture.manifest.accounts.iter().map(|a| a.written).sum();
        assert!(written > 100, "{:?}", capture.manifest.accounts);
    }
}

#[test]
fn a_trigger_that_cannot_fire_is_refused_before_anything_runs() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    for trigger in ["memory.max:/sys/fs/cgroup/no-such-group", "psi:memory.some>5%/2s@/no/such"] {
        let options =
            options(dir.path(), sh(&format!("touch '{}'", ran.display())), Duration::from_secs(2), &[trigger]);
        let e = record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Kernel);
        assert!(e.to_string().contains(trigger), "{e}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no ring is left");
}

/// `MTRACE_RING_SECONDS=60` for the long run.
#[test]
fn the_ring_stays_within_its_size_at_full_load() {
    if !bpf_works() {
        return;
    }
    const SIZE: u64 = 4 << 20;
    let seconds = std::env::var("MTRACE_RING_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let _loops = Loops(&known);
    let one = format!("'{}' loop", known.display());
    let mut options = options(dir.path(), sh(&format!("{one} & {one} & wait")), Duration::from_secs(3600), &[]);
    options.faults = FaultMode::Every;
    let f = options.flight.as_mut().unwrap();
    (f.size_bytes, f.dump_on_exit) = (SIZE, true);
    let ring = dir.path().join("fly-ring.mtrace");
    let (mut most, mut rss) = (0, 0);
    let summary = fly(&options, |p| {
        most = most.max(bytes_below(&ring));
        rss = rss.max(rss_kib());
        // On a busy machine it takes longer to fill.
        let turns = || Capture::open(&ring).is_ok_and(|c| !flight(&c).dropped_rows.is_empty());
        p.elapsed >= Duration::from_secs(seconds) && (turns() || p.elapsed > Duration::from_secs(120))
    });
    let capture = dump(&summary, 0);
    let f = flight(&capture);
    let seen = f.accounts.iter().find(|a| a.probe == "faults").unwrap();
    eprintln!(
        "{seconds} s: {} faults, {} in the window of {} ms, {} lost before; at most {} KiB on disk, RSS {} MiB",
        seen.seen,
        seen.in_window,
        (capture.manifest.window.end_ns.unwrap() - capture.manifest.window.start_ns.unwrap()) / 1_000_000,
        seen.lost_before,
        most / 1024,
        rss / 1024
    );
    assert!(f.cut_by_size && f.dropped_rows["faults"] > 0, "{f:?}");
    // The room for the manifest is beside it.
    assert!(most <= SIZE + (1 << 20), "{most}");
    assert_eq!(seen.in_flight, 0);
}

fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_signal_ends_the_recording_within_five_seconds_at_full_load() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let _loops = Loops(&known);
    // Targets at full speed that do not end when they are asked to.
    let one = format!("'{}' loop", known.display());
    let script = format!("trap '' TERM; {one} & {one} & wait");
    for ring in [false, true] {
        let mut options = options(dir.path(), sh(&script), Duration::from_secs(2), &[]);
        options.faults = FaultMode::Every;
        options.flight = options.flight.filter(|_| ring);
        if let Some(f) = &mut options.flight {
            f.dump_on_exit = true;
        }
        let mut stopped = None;
        let summary = fly(&options, |p| {
            let stop = p.elapsed >= Duration::from_secs(3);
            if stop {
                stopped.get_or_insert_with(Instant::now);
            }
            stop
        });
        let took = stopped.unwrap().elapsed();
        kill_all(&known);
        eprintln!("ring {ring}: closed {} ms after the signal", took.as_millis());
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(summary.end_reason, "signal");
        let path = if ring { &summary.dumps[0].path } else { &summary.output };
        let capture = Capture::open(path).unwrap();
        assert_eq!(capture.manifest.state, State::Complete);
        assert!(faults_of(&capture).len() > 10_000);
    }
}

/// Ends what runs this program, which nobody else does.
struct Loops<'a>(&'a Path);

impl Drop for Loops<'_> {
    fn drop(&mut self) {
        kill_all(self.0);
    }
}

fn kill_all(program: &Path) {
    let Ok(found) = Command::new("pidof").arg(program).output() else { return };
    for pid in String::from_utf8_lossy(&found.stdout).split_whitespace() {
        let Ok(pid) = pid.parse().map(nix::unistd::Pid::from_raw) else { continue };
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}
