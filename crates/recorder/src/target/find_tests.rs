#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use std::process::{Child, Command};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sleeping process with this name.
fn sleeper(name: &str) -> (tempfile::TempDir, Killed) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join(name);
    fs::copy("/bin/sleep", &program).unwrap();
    let child = Killed(Command::new(&program).arg("30").spawn().unwrap());
    let named = || comm(child.0.id()).is_some_and(|c| c.as_bytes() == &name.as_bytes()[..name.len().min(15)]);
    while !named() || fs::read_link(format!("/proc/{}/exe", child.0.id())).ok().as_deref() != Some(&program) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    (dir, child)
}

#[test]
fn a_pid_has_its_facts() {
    let (dir, child) = sleeper("mtfactual");
    let pid = child.0.id();
    let found = by_pid(pid).unwrap();
    assert_eq!(found.note, None);
    let f = found.facts;
    assert_eq!((f.pid, f.comm.as_str(), f.parent), (pid, "mtfactual", std::process::id()));
    assert_eq!(f.exe.as_deref(), Some(dir.path().join("mtfactual").as_path()));
    assert_eq!(f.threads, [(pid, "mtfactual".to_owned())]);
    let target = f.to_target("pid");
    assert_eq!((target.pid, target.how.as_str(), target.comm.as_deref()), (pid, "pid", Some("mtfactual")));
}

#[test]
fn limits_are_finite_or_absent() {
    let child = Killed(
        Command::new("sh").args(["-c", "ulimit -S -v 1000000; ulimit -S -d unlimited; exec sleep 30"]).spawn().unwrap(),
    );
    let pid = child.0.id();
    while comm(pid).as_deref() != Some("sleep") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let limits = ProcessFacts::read(pid).unwrap().limits_bytes;
    assert_eq!(limits.get("RLIMIT_AS"), Some(&(1_000_000 * 1024)));
    assert_eq!(limits.get("RLIMIT_DATA"), None);
}

#[test]
fn a_thread_id_leads_to_its_process() {
    // In a child: a thread of this process would be refused as ourselves.
    let child = Killed(
        Command::new("python3")
            .args([
                "-c",
                "import threading,time\nthreading.Thread(target=time.sleep,args=(30,)).start()\ntime.sleep(30)",
            ])
            .spawn()
            .unwrap_or_else(|_| Command::new("sleep").arg("30").spawn().unwrap()),
    );
    let pid = child.0.id();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let tid = loop {
        if let Some((tid, _)) = threads(pid).into_iter().find(|(tid, _)| *tid != pid) {
            break tid;
        }
        if comm(pid).as_deref() == Some("sleep") || std::time::Instant::now() > until {
            eprintln!("skipped: no python3 for a process with two threads");
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let found = by_pid(tid).unwrap();
    assert_eq!(found.facts.pid, pid);
    assert!(found.note.unwrap().contains(&format!("thread of process {pid}")));
    assert_eq!(found.facts.threads.len(), 2);
}

#[test]
fn what_cannot_be_a_target_says_why() {
    assert!(matches!(by_pid(u32::MAX), Err(FindError::NoSuchPid { .. })));
    assert!(matches!(by_pid(std::process::id()), Err(FindError::Ourselves { .. })));
    // SAFETY: no pointers.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
    assert!(matches!(by_pid(tid), Err(FindError::Ourselves { .. })));
    if fs::read_to_string("/proc/2/comm").is_ok_and(|c| c == "kthreadd\n") {
        assert!(matches!(by_pid(2), Err(FindError::KernelThread { .. })));
    } else {
        eprintln!("skipped: no kernel threads in this pid namespace");
    }
    let mut zombie = Killed(Command::new("true").spawn().unwrap());
    while read_stat(zombie.0.id()).is_some_and(|s| s.state != 'Z') {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(matches!(by_pid(zombie.0.id()), Err(FindError::Zombie { .. })));
    zombie.0.wait().unwrap();
}

#[test]
fn a_name_finds_all_its_processes() {
    let (_dir, one) = sleeper("mtcommtest");
    let two =
        Killed(Command::new(fs::read_link(format!("/proc/{}/exe", one.0.id())).unwrap()).arg("30").spawn().unwrap());
    while comm(two.0.id()).as_deref() != Some("mtcommtest") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut pids: Vec<u32> = by_comm("mtcommtest").unwrap().iter().map(|f| f.pid).collect();
    pids.sort_unstable();
    let mut expected = [one.0.id(), two.0.id()];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    let e = by_comm("mtcommtes").unwrap_err().to_string();
    assert!(e.contains("mtcommtest"), "no hint: {e}");
    assert!(by_comm("no\u{1b}[31msuch").unwrap_err().to_string().contains("\\u{1b}"));
}

#[test]
fn long_names_compare_by_what_the_kernel_keeps() {
    let (_dir, child) = sleeper("a-name-longer-than-fifteen-bytes");
    let found = by_comm("a-name-longer-than-fifteen-bytes").unwrap();
    assert!(found.iter().any(|f| f.pid == child.0.id()));
}

#[test]
fn descendants_reach_grandchildren() {
    let child = Killed(Command::new("sh").args(["-c", "sh -c 'sleep 3; :' ; :"]).spawn().unwrap());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let found = loop {
        let found = descendants(child.0.id());
        if found.len() == 2 && found.iter().any(|p| comm(*p).as_deref() == Some("sleep")) {
            break found;
        }
        assert!(std::time::Instant::now() < until, "{found:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(!found.contains(&child.0.id()));
    assert!(descendants(std::process::id()).contains(&found[0]));
}
