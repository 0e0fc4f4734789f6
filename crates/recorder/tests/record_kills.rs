//! A recorder that is killed at any moment leaves a capture that opens and says what is missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use mtrace_formats::capture::{Capture, State};
use mtrace_formats::tables::{MapRow, SnapshotReason};
use mtrace_recorder::{Options, TargetSpec, record};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use record_support::{bpf_works, compile, faults_of};

/// Kills in the test; `scripts/reliability` makes more of them, with the analysis.
const KILLS: u32 = 10;
/// The latest moment of a kill after the start of the process.
const LATEST: Duration = Duration::from_secs(3);

/// Not a test: the recorder of the tests below, in a process of its own.
#[test]
fn recorder_process() {
    let Some(output) = std::env::var_os("MTRACE_TEST_RECORD_TO") else { return };
    let program = std::env::var_os("MTRACE_TEST_PROGRAM").unwrap();
    let target = TargetSpec::Launch { argv: vec![program, "loop".into()] };
    let _ = record(&Options::new(target, output.into()), &AtomicBool::new(false), &mut |_| {});
}

/// A recorder with its target, in a process group of their own: both are gone when this goes.
struct Recorder(Child);

impl Recorder {
    fn start(program: &Path, output: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "recorder_process"])
            .env("MTRACE_TEST_RECORD_TO", output)
            .env("MTRACE_TEST_PROGRAM", program)
            .stdout(std::process::Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self(child)
    }

    /// The recorder alone: nobody tells the target.
    fn kill(&mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// What a killed recorder left.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// It had not come to making a capture.
    Nothing,
    /// Probes were being loaded.
    Beginning,
    /// Rows.
    Rows,
}

fn look_at(output: &Path) -> Left {
    if !output.exists() {
        return Left::Nothing;
    }
    let capture = Capture::open(output).unwrap();
    assert_eq!(capture.manifest.state, State::Recording);
    assert!(capture.problems.iter().any(|p| p.contains("did not come to its end")), "{:?}", capture.problems);
    assert!(capture.missing_segments().is_empty());
    assert_eq!(capture.manifest.targets[0].how, "launched");
    let faults = faults_of(&capture);
    let (maps, skipped) = capture.read::<MapRow>();
    assert!(skipped.is_empty(), "{skipped:?}");
    if capture.manifest.window.start_ns.is_none() {
        assert!(capture.manifest.problems[0].what.contains("before all probes were attached"));
        return Left::Beginning;
    }
    assert!(maps.iter().any(|m| m.reason == SnapshotReason::Exec), "the first segments hold the first snapshot");
    assert!(!capture.manifest.probes.is_empty());
    // The second closing of segments is the first with events of the target's own.
    let has_events = output.join("memory_calls/000002.parquet").exists();
    assert!(!has_events || faults.len() > 1000, "{} faults", faults.len());
    Left::Rows
}

#[test]
fn a_kill_at_any_moment_leaves_a_capture_that_opens() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let mut left: BTreeMap<Left, u32> = BTreeMap::new();
    for i in 0..KILLS {
        let output = dir.path().join(format!("{i}.mtrace"));
        // Spread over the whole time, each at a random moment of its part.
        let random = f64::from(seed.wrapping_mul(i + 1) % 1000) / 1000.0;
        let moment = LATEST.mul_f64((f64::from(i) + random) / f64::from(KILLS));
        let mut recorder = Recorder::start(&known, &output);
        std::thread::sleep(moment);
        recorder.kill();
        eprintln!("killed after {moment:?}:");
        *left.entry(look_at(&output)).or_default() += 1;
    }
    eprintln!("{KILLS} kills: {left:?}");
}

#[test]
fn what_was_recorded_before_a_kill_is_there() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let output = dir.path().join("killed.mtrace");
    let mut recorder = Recorder::start(&known, &output);
    let until = Instant::now() + Duration::from_secs(60);
    // Far earlier than the five seconds that are the option's default.
    while !output.join("memory_calls/000002.parquet").exists() {
        assert!(Instant::now() < until, "no second segment within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    recorder.kill();
    assert_eq!(look_at(&output), Left::Rows);
}
