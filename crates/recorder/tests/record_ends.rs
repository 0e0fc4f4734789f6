//! How recordings begin and end: a duration, a running process, bad arguments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtrace_formats::capture::{Capture, ProbeStatus};
use mtrace_formats::tables::{MapRow, ProcessEvent, ProcessEventKind, SnapshotReason, SymbolRow};
use mtrace_recorder::{ErrorKind, Options, TargetSpec, record};
use record_support::{bpf_works, compile, faults_of, record_command};

/// Ends a program when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, args: &[&str]) -> Running {
    Running(Command::new(program).args(args).spawn().unwrap())
}

fn no_stop() -> AtomicBool {
    AtomicBool::new(false)
}

#[test]
fn a_running_process_is_recorded_for_a_duration_and_left_alone() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let mut program = start(&known, &["loop"]);
    std::thread::sleep(Duration::from_millis(100));
    let mut options = Options::new(TargetSpec::Pids(vec![program.0.id()]), dir.path().join("pid.mtrace"));
    options.duration = Some(Duration::from_millis(600));
    let summary = record(&options, &no_stop(), &mut |_| {}).unwrap();
    assert_eq!(summary.end_reason, "duration");
    assert!(program.0.try_wait().unwrap().is_none(), "it still runs");

    let capture = Capture::open(&options.output).unwrap();
    let faults = faults_of(&capture);
    assert!(faults.len() > 1000);
    let (events, _) = capture.read::<ProcessEvent>();
    assert_eq!(events[0].event, ProcessEventKind::Attach);
    assert_eq!(events[0].path.as_deref(), known.to_str());
    let (maps, _) = capture.read::<MapRow>();
    for reason in [SnapshotReason::Attach, SnapshotReason::End] {
        assert!(maps.iter().any(|m| m.reason == reason), "{reason}");
    }
    let (symbols, _) = capture.read::<SymbolRow>();
    assert!(symbols.iter().any(|s| s.function.as_deref() == Some("leaf_touch")));
}

#[test]
fn a_process_that_takes_the_name_later_is_recorded_too() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let named = dir.path().join("mtrace-later");
    std::fs::rename(&known, &named).unwrap();
    let _first = start(&named, &["loop"]);
    std::thread::sleep(Duration::from_millis(100));
    let mut options = Options::new(TargetSpec::Comm("mtrace-later".to_owned()), dir.path().join("comm.mtrace"));
    options.duration = Some(Duration::from_millis(1500));
    let mut later = None;
    record(&options, &no_stop(), &mut |p| {
        if p.targets == 1 && later.is_none() {
            later = Some(start(&named, &["loop"]));
        }
    })
    .unwrap();
    let second = later.as_ref().unwrap().0.id();
    let capture = Capture::open(&options.output).unwrap();
    let faults = faults_of(&capture);
    assert!(faults.iter().filter(|f| f.pid == second).count() > 1000);
    assert!(capture.manifest.targets.iter().any(|t| t.pid == second && t.how == "comm"));
}

#[test]
fn a_launched_command_can_be_left_running() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let target = TargetSpec::Launch { argv: vec![known.into(), "loop".into()] };
    let mut options = Options::new(target, dir.path().join("left.mtrace"));
    options.duration = Some(Duration::from_millis(300));
    options.leave_running = true;
    let summary = record(&options, &no_stop(), &mut |_| {}).unwrap();
    assert_eq!((summary.end_reason.as_str(), summary.exit_status), ("duration", None));
    let capture = Capture::open(&options.output).unwrap();
    let pid = nix::unistd::Pid::from_raw(capture.manifest.targets[0].pid.cast_signed());
    // Our child: it is alive, and ours to end.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
}

#[test]
fn a_launched_command_is_ended_with_the_recording_and_its_end_is_recorded() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let r = record_command(&known, &["loop"], |o| o.duration = Some(Duration::from_millis(500)));
    assert_eq!((r.summary.end_reason.as_str(), r.summary.exit_status), ("duration", Some(15)));
    r.assert_nothing_lost();
    let events = r.rows::<ProcessEvent>();
    assert_eq!(events.last().unwrap().status, Some(15));
    assert!(r.rows::<MapRow>().iter().any(|m| m.reason == SnapshotReason::End));
    // It is a C program.
    let gc = r.capture.manifest.probes.iter().find(|p| p.name == "gc_events").unwrap();
    assert_eq!((gc.status, &gc.hides), (ProbeStatus::NotApplicable, &None), "{gc:?}");
}

#[test]
fn bad_targets_are_one_clear_error_and_leave_no_capture_behind() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("bad.mtrace");
    let try_it = |target| record(&Options::new(target, output.clone()), &no_stop(), &mut |_| {}).unwrap_err();
    let argv = |s: &str| TargetSpec::Launch { argv: vec![s.into()] };

    assert_eq!(try_it(TargetSpec::Pids(vec![u32::MAX - 1])).kind(), ErrorKind::NoSuchTarget);
    assert_eq!(try_it(TargetSpec::Comm("no-such-name".to_owned())).kind(), ErrorKind::NoSuchTarget);
    assert_eq!(try_it(argv("no-such-command")).kind(), ErrorKind::CannotExecute);
    // Passes every check before the exec, and fails there.
    let broken = dir.path().join("broken");
    std::fs::write(&broken, b"\x7fELF\x02garbage\0\0").unwrap();
    std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(try_it(argv(broken.to_str().unwrap())).kind(), ErrorKind::CannotExecute);
    assert!(!output.exists());

    std::fs::create_dir(&output).unwrap();
    assert_eq!(try_it(argv("/bin/true")).kind(), ErrorKind::Output);
    assert!(output.exists(), "what was there before is not touched");
}
