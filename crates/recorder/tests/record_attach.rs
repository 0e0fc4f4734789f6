//! What a recording knows of a process that was there before: its sleep, the call that it was in, its sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtrace_formats::capture::Capture;
use mtrace_formats::table::Row;
use mtrace_formats::tables::{Fault, IoCall, IoCallKind, OffCpu, OffCpuState, SocketFamily, SocketRole, SocketRow};
use mtrace_recorder::{Options, TargetSpec, record};
use record_support::{bpf_works, compile};

/// A recording of `known wait`, which reads from a connection that came in before, and sleeps in that read until the
/// recording runs.
fn waiting_server() -> (Capture, u32, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut program = Command::new(&known).arg("wait").stdin(Stdio::from(OwnedFd::from(server))).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let mut options = Options::new(TargetSpec::Pids(vec![program.id()]), dir.path().join("wait.mtrace"));
    options.duration = Some(Duration::from_secs(60));
    let mut asked = false;
    let summary = record(&options, &AtomicBool::new(false), &mut |p| {
        if !asked && p.elapsed > Duration::from_millis(400) {
            client.write_all(b"G").unwrap();
            asked = true;
        }
    });
    let pid = program.id();
    let status = program.wait().unwrap();
    assert_eq!(summary.unwrap().end_reason, "target exited");
    assert!(status.success());
    (Capture::open(&options.output).unwrap(), pid, dir)
}

fn rows<R: Row>(capture: &Capture) -> Vec<R> {
    let (rows, skipped) = capture.read::<R>();
    assert!(skipped.is_empty(), "{skipped:?}");
    rows
}

#[test]
fn a_process_that_slept_at_the_attach_is_known_to_have_slept() {
    if !bpf_works() {
        return;
    }
    let (capture, pid, _dir) = waiting_server();
    let window = &capture.manifest.window;
    let faults = rows::<Fault>(&capture);
    let touched = faults.iter().map(|f| f.ts).min().unwrap();

    let sleeps = rows::<OffCpu>(&capture);
    let first = sleeps.iter().filter(|o| o.tid == pid).min_by_key(|o| o.ts).unwrap();
    assert_eq!(first.state, OffCpuState::Sleeping);
    assert!(first.ts >= window.attach_begin_ns.unwrap() && first.ts <= window.start_ns.unwrap(), "{first:?}");
    let woke = first.ts + first.dur;
    assert!(first.dur > 200_000_000 && woke <= touched, "{first:?}, touched at {touched}");

    // The read that it slept in began before there was anybody to see it.
    let calls = rows::<IoCall>(&capture);
    let read = calls.iter().find(|c| c.call == IoCallKind::Read).unwrap();
    assert_eq!((read.fd, read.socket, read.result, read.dur), (Some(0), Some(true), Some(1), 0));
    assert_eq!(read.first_byte, Some(u32::from(b'G')));
    assert!(read.ts >= woke && read.ts <= touched, "{read:?}");
    let account = capture.manifest.accounts.iter().find(|a| a.probe == "io_calls").unwrap();
    assert_eq!(account.incomplete.get("no_start"), Some(&1), "{account:?}");
    assert_eq!(account.seen, account.written, "{account:?}");

    let sockets = rows::<SocketRow>(&capture);
    let of_stdin = sockets.iter().find(|s| s.fd == 0).unwrap();
    assert_eq!((of_stdin.pid, of_stdin.role, of_stdin.family), (pid, SocketRole::Accepted, SocketFamily::Inet));
}
