//! The flight recorder as it is run: a signal, the report of its dump, and a recorder that is killed.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{MTRACE, can_record, mtrace};
use serde_json::Value;

/// A recorder with its target, in a process group of their own: both are gone when this goes.
struct Recorder(Child);

impl Recorder {
    fn start(dir: &Path, options: &[&str], program: &Path) -> Self {
        use std::os::unix::process::CommandExt as _;
        let child = Command::new(MTRACE)
            .args(["record", "-o", dir.join("svc").to_str().unwrap(), "--ring", "2s"])
            .args(options)
            .args(["--", program.to_str().unwrap(), "loop"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.0.id())]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

fn known(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recorder/tests/record_support/known.c");
    let program = dir.join("known");
    let cc = Command::new("cc")
        .args(["-O1", "-g", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread", "-o"])
        .args([&program, &source])
        .status();
    assert!(cc.unwrap().success());
    program
}

/// Captures in the directory whose names end so.
fn captures(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten().map(|e| e.path());
    entries.filter(|p| p.to_string_lossy().ends_with(end)).collect()
}

fn manifest(capture: &Path) -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(capture.join("manifest.json")).ok()?).ok()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// True when rows have left the ring.
fn turns(ring: &Path) -> bool {
    manifest(ring).is_some_and(|m| m["flight"]["dropped_rows"]["process_events"].as_u64().is_some())
}

fn analyze(capture: &Path, dir: &Path) -> Value {
    let out = mtrace(&["analyze", capture.to_str().unwrap(), "-o", dir.join("report").to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(matches!(out.status.code(), Some(0 | 5)), "{said}");
    serde_json::from_str(&fs::read_to_string(dir.join("report/report.json")).unwrap()).unwrap()
}

/// The replay starts in the middle of the process's life and arrives at what the kernel says.
fn assert_replay_is_exact(report: &Value) {
    let certificates = report["trust"]["replay"].as_array().unwrap();
    assert!(!certificates.is_empty());
    for c in certificates {
        assert_eq!(c["equal"], true, "{c}");
    }
    // A mapping that is gone before the maps of the base are read (500 ms at most) is known to nobody.
    let base = report["capture"]["start_ns"].as_i64().unwrap() + 500_000_000;
    let unknown = |g: &&Value| g["kind"] == "unknown";
    for g in report["faults"]["groups"].as_array().unwrap().iter().filter(unknown) {
        assert!(g["last_ns"].as_i64().unwrap() < base, "a fault hit a mapping that is not known: {g}");
    }
    let charged = |i: usize| report["trust"]["faults_charged"][i].as_f64().unwrap();
    assert!(charged(0) > 0.99 * charged(1), "{} of {} faults charged", charged(0), charged(1));
}

#[test]
fn a_signal_makes_a_dump_that_analyses_and_recording_goes_on() {
    if !can_record() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut recorder =
        Recorder::start(dir.path(), &["--post", "300ms", "--trigger", "slow-fault>1h"], &known(dir.path()));
    let ring = dir.path().join("svc-ring.mtrace");
    wait_until("the first period leaves the ring", || turns(&ring));
    recorder.signal("-USR1");
    wait_until("the dump is complete", || {
        captures(dir.path(), "-signal.mtrace").iter().any(|c| manifest(c).is_some_and(|m| m["state"] == "complete"))
    });
    assert!(recorder.0.try_wait().unwrap().is_none(), "it goes on");
    let dump = captures(dir.path(), "-signal.mtrace").remove(0);
    let report = analyze(&dump, dir.path());
    assert_replay_is_exact(&report);
    assert_eq!(report["capture"]["trigger"]["trigger"], "signal");
    let markdown = fs::read_to_string(dir.path().join("report/report.md")).unwrap();
    assert!(markdown.contains("**Trigger:** `signal` fired at 20"), "{markdown}");
    assert!(fs::read_to_string(dir.path().join("report/report.html")).unwrap().contains("fired at 20"));

    recorder.signal("-TERM");
    let status = recorder.0.wait().unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(status.success(), "{log}");
    assert!(log.contains("trigger signal: the recorder was asked to; wrote"), "{log}");
    assert!(log.contains("dumps written: 1"), "{log}");
    assert!(!ring.exists());
}

#[test]
fn the_ring_of_a_killed_recorder_analyses_and_makes_room_for_the_next_one() {
    if !can_record() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = known(dir.path());
    let ring = dir.path().join("svc-ring.mtrace");
    for round in 0..2 {
        let mut recorder = Recorder::start(dir.path(), &[], &program);
        // The ring of the one before goes out of the way first.
        wait_until("the first period leaves the ring", || {
            captures(dir.path(), "-killed.mtrace").len() == round && turns(&ring)
        });
        // A second recorder of this name does not take the ring away.
        let out = mtrace(&["record", "-o", dir.path().join("svc").to_str().unwrap(), "--ring", "2s", "--", "true"]);
        assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
        recorder.signal("-KILL");
        recorder.0.wait().unwrap();
        assert_eq!(captures(dir.path(), "-killed.mtrace").len(), round);
    }
    let killed = captures(dir.path(), "-killed.mtrace").remove(0);
    for capture in [killed, ring] {
        let report = analyze(&capture, dir.path());
        assert_eq!(report["capture"]["complete"], false);
        // Of the last period some tables may be closed and others not.
        let charged = |i: usize| report["trust"]["faults_charged"][i].as_f64().unwrap();
        assert!(charged(1) > 10_000.0 && charged(0) >= charged(1) * 0.9, "{}", report["trust"]["faults_charged"]);
    }
}
