#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn argv(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn wait(launched: &mut Launched) -> Exit {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(exit) = launched.try_wait().unwrap() {
            return exit;
        }
        assert!(Instant::now() < until, "the command did not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Prepares, stops and resumes; `None` where ptrace is refused, which is said.
fn stopped(words: &[&str]) -> Option<Launched> {
    let (launched, stop) = Launched::spawn(&argv(words)).unwrap();
    if !stop.exact {
        eprintln!("skipped: {}", stop.note.unwrap_or_default());
        return None;
    }
    Some(launched)
}

fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn proc_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Entry point of an ELF file (64-bit, host byte order).
fn elf_entry(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    u64::from_ne_bytes(bytes[24..32].try_into().unwrap())
}

fn auxv(pid: u32, key: u64) -> u64 {
    let bytes = fs::read(format!("/proc/{pid}/auxv")).unwrap();
    let word = |b: &[u8]| u64::from_ne_bytes(b.try_into().unwrap());
    bytes.chunks(16).find(|c| word(&c[..8]) == key).map(|c| word(&c[8..16])).unwrap()
}

#[test]
fn a_waiting_child_holds_no_files_of_the_recorder() {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut launched = Launched::prepare(&argv(&["true"]), &ResourceLimits::current()).unwrap();
    // The child may not have come to it yet.
    let fds = format!("/proc/{}/fd", launched.pid());
    let own = fs::read_link(format!("/proc/self/fd/{}", write.as_raw_fd())).unwrap();
    let holds = || fs::read_dir(&fds).unwrap().flatten().any(|e| fs::read_link(e.path()).is_ok_and(|l| l == own));
    let until = Instant::now() + Duration::from_secs(20);
    while holds() {
        assert!(Instant::now() < until, "it holds the pipe");
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(write);
    assert_eq!(fs::File::from(read).read(&mut [0]).unwrap(), 0, "end of file");
    // And it still waits, and runs when it is let.
    launched.exec_stopped().unwrap();
    launched.resume().unwrap();
    assert_eq!(wait(&mut launched).status, 0);
}

#[test]
fn a_command_inherits_what_exec_leaves_open() {
    let dir = tempfile::tempdir().unwrap();
    let out = fs::File::create(dir.path().join("out")).unwrap();
    // SAFETY: the descriptor is new and closed below.
    let kept = unsafe { libc::fcntl(out.as_raw_fd(), libc::F_DUPFD, 100) };
    assert!(kept >= 100);
    let script = format!("echo kept > /proc/self/fd/{kept}");
    let launched = stopped(&["sh", "-c", &script]);
    // SAFETY: as above; nobody else uses it.
    unsafe { libc::close(kept) };
    let Some(mut launched) = launched else { return };
    launched.resume().unwrap();
    wait(&mut launched);
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "kept\n");
}

#[test]
fn pid_is_known_and_waits_before_the_exec() {
    let mut l = Launched::prepare(&argv(&["true"]), &ResourceLimits::current()).unwrap();
    let before = fs::read_link(format!("/proc/{}/exe", l.pid())).unwrap();
    assert_eq!(before, fs::read_link("/proc/self/exe").unwrap());
    let pid = l.pid();
    l.exec_stopped().unwrap();
    assert_eq!(l.pid(), pid);
    l.resume().unwrap();
    assert_eq!(wait(&mut l).status, 0);
    assert!(!proc_exists(pid), "left a zombie");
}

#[test]
fn stops_before_the_first_instruction() {
    let Some(mut l) = stopped(&["/bin/true"]) else { return };
    // "NR args… sp pc" of a process stopped in a system call: pc is where it will begin.
    let text = fs::read_to_string(format!("/proc/{}/syscall", l.pid())).unwrap();
    let pc = u64::from_str_radix(text.split_whitespace().last().unwrap().trim_start_matches("0x"), 16).unwrap();
    const AT_BASE: u64 = 7;
    let base = auxv(l.pid(), AT_BASE);
    let rows = crate::snapshots::take_stopped(l.pid()).unwrap();
    let loader = rows.iter().find(|r| r.start_addr == base).expect("the loader is mapped at AT_BASE");
    assert_eq!(pc, base + elf_entry(Path::new(loader.path.as_deref().unwrap())));
    // Nothing but what exec itself maps: the program, its loader, stack and the kernel's pages; no libc yet.
    assert!(rows.iter().all(|r| !r.path.as_deref().unwrap_or("").contains("libc")), "{rows:?}");
    assert!(rows.iter().any(|r| r.path.as_deref() == Some("[stack]")));
    assert!(rows.iter().all(|r| r.ts == r.ts_end));
    l.resume().unwrap();
    assert_eq!(wait(&mut l).status, 0);
}

#[test]
fn faults_before_the_exec_are_told_apart() {
    // Nothing but exit(2): what it faults itself is little and the same, whatever the recorder's size.
    let run = || {
        let (mut l, stop) = Launched::spawn(&argv(&["/bin/true"])).unwrap();
        l.resume().unwrap();
        Some(wait(&mut l).minor_faults - stop.minor_faults_before?)
    };
    let Some(small) = run() else {
        eprintln!("skipped: ptrace is refused");
        return;
    };
    let (l, stop) = Launched::spawn(&argv(&["/bin/true"])).unwrap();
    assert!(stop.minor_faults_before.unwrap() > 0, "{stop:?}");
    drop(l);
    let again = run().unwrap();
    assert!((20..400).contains(&small), "{small}");
    assert!(small.abs_diff(again) <= 10, "{small} {again}");
}

#[test]
fn nothing_traces_it_after_resume() {
    let Some(mut l) = stopped(&["sleep", "20"]) else { return };
    let tracer = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|s| s.strip_prefix("TracerPid:")).unwrap().trim().parse::<u32>().unwrap()
    };
    assert_ne!(tracer(l.pid()), 0);
    l.resume().unwrap();
    assert_eq!(tracer(l.pid()), 0);
    let exit = l.terminate(Duration::from_secs(5)).unwrap();
    assert_eq!(libc::WTERMSIG(exit.status), libc::SIGTERM);
}

#[test]
fn exit_status_signal_and_faults_are_reported() {
    let (mut l, _) = Launched::spawn(&argv(&["sh", "-c", "exit 7"])).unwrap();
    l.resume().unwrap();
    let exit = wait(&mut l);
    assert_eq!((exit.status, exit.describe().as_str()), (7 << 8, "exit code 7"));
    assert!(exit.minor_faults > 20, "{exit:?}");
    assert!(exit.rss_peak_bytes > 100_000, "{exit:?}");
    assert_eq!(l.try_wait().unwrap(), Some(exit), "asked again");

    let (mut l, _) = Launched::spawn(&argv(&["sh", "-c", "kill -SEGV $$"])).unwrap();
    l.resume().unwrap();
    assert!(wait(&mut l).describe().starts_with("signal 11 (SIGSEGV"));
}

#[test]
fn terminate_kills_what_ignores_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let body = format!("trap '' TERM; : > {}; while :; do sleep 0.05; done", ready.display());
    let (mut l, _) = Launched::spawn(&argv(&["sh", "-c", &body])).unwrap();
    l.resume().unwrap();
    while !ready.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let begin = Instant::now();
    let exit = l.terminate(Duration::from_millis(150)).unwrap();
    assert_eq!(libc::WTERMSIG(exit.status), libc::SIGKILL);
    assert!(begin.elapsed() >= Duration::from_millis(150));
}

#[test]
fn drop_kills_and_reaps_what_never_ran() {
    let waiting = Launched::prepare(&argv(&["sleep", "20"]), &ResourceLimits::current()).unwrap();
    let pid = waiting.pid();
    assert!(proc_exists(pid));
    drop(waiting);
    assert!(!proc_exists(pid));

    let Some(at_exec) = stopped(&["sleep", "20"]) else { return };
    let pid = at_exec.pid();
    drop(at_exec);
    assert!(!proc_exists(pid));
}

#[test]
fn a_recorder_that_is_killed_leaves_nothing_behind() {
    // The recorder is a fork of this test that is killed at either point.
    for at_exec in [false, true] {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        // SAFETY: the child uses what it forked with and ends in _exit or SIGKILL.
        let recorder = unsafe { libc::fork() };
        if recorder == 0 {
            let mut l = Launched::prepare(&argv(&["sleep", "20"]), &ResourceLimits::current()).unwrap();
            if at_exec {
                l.exec_stopped().unwrap();
            }
            fs::File::from(write).write_all(&l.pid().to_ne_bytes()).unwrap();
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        drop(write);
        let mut pid = [0; 4];
        fs::File::from(read).read_exact(&mut pid).unwrap();
        let pid = u32::from_ne_bytes(pid);
        kill(Pid::from_raw(recorder), Signal::SIGKILL).unwrap();
        waitpid(Pid::from_raw(recorder), None).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        // Its new parent may be slow to reap it: a zombie is dead too.
        while crate::sampler::read_stat(pid).is_some_and(|s| s.state != 'Z' && s.state != 'X') {
            assert!(Instant::now() < until, "the child outlived its recorder (at exec: {at_exec})");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn signals_and_descriptors_are_as_from_a_shell() {
    let (mut l, _) = Launched::spawn(&argv(&["sleep", "20"])).unwrap();
    l.resume().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", l.pid())).unwrap();
    let mask = |name: &str| {
        let text = status.lines().find_map(|s| s.strip_prefix(name)).unwrap().trim();
        u64::from_str_radix(text, 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0);
    assert_eq!(mask("SigIgn:") & 1 << (libc::SIGPIPE - 1), 0, "SIGPIPE is ignored in the command");
    assert_eq!(mask("SigCgt:"), 0);
    let mut fds: Vec<u32> = fs::read_dir(format!("/proc/{}/fd", l.pid()))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .filter(|fd| !inherited_by_everybody(*fd))
        .collect();
    fds.sort_unstable();
    assert_eq!(fds, [0, 1, 2], "the recorder's descriptors leaked into the command");
    l.terminate(Duration::from_secs(2)).unwrap();
}

/// Descriptors without close-on-exec that the test process itself was started with.
fn inherited_by_everybody(fd: u32) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd as i32, libc::F_GETFD) };
    fd > 2 && flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

#[test]
fn limits_are_those_given() {
    let mut limits = ResourceLimits::current();
    for (resource, value) in &mut limits.0 {
        if *resource == libc::RLIMIT_NOFILE as i32 {
            value.rlim_cur = 77;
        }
    }
    let mut l = Launched::prepare(&argv(&["sh", "-c", "test $(ulimit -S -n) = 77"]), &limits).unwrap();
    l.exec_stopped().unwrap();
    l.resume().unwrap();
    assert_eq!(wait(&mut l).status, 0);
}

#[test]
fn scripts_run_with_and_without_an_interpreter_line() {
    let dir = tempfile::tempdir().unwrap();
    let with = script(dir.path(), "with", "#!/bin/sh\ntest \"$1\" = 'a b' || exit 3\nexit 5\n");
    let without = script(dir.path(), "without", "test \"$1\" = 'a b' || exit 3\nexit 6\n");
    for (path, code) in [(with, 5), (without, 6)] {
        let (mut l, _) = Launched::spawn(&argv(&[path.to_str().unwrap(), "a b"])).unwrap();
        l.resume().unwrap();
        assert_eq!(wait(&mut l).status, code << 8, "{}", path.display());
    }
}

#[test]
fn each_way_of_not_starting_has_its_message() {
    let dir = tempfile::tempdir().unwrap();
    let message = |words: &[&str]| match Launched::spawn(&argv(words)) {
        Ok(_) => panic!("started {words:?}"),
        Err(e) => e.to_string(),
    };
    assert!(message(&[]).contains("no command"));
    assert!(message(&["a\0b"]).contains("NUL") || message(&["a\0b"]).contains("not found"));
    assert!(message(&["/nonexistent/x"]).contains("not found"));
    assert!(message(&["no-such-command-here"]).contains("not in PATH"));
    assert!(message(&[dir.path().to_str().unwrap()]).contains("directory"));

    let plain = dir.path().join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    assert!(message(&[plain.to_str().unwrap()]).contains("chmod +x"));

    let orphan = script(dir.path(), "orphan", "#!/nonexistent/interpreter\n");
    assert!(message(&[orphan.to_str().unwrap()]).contains("interpreter"));

    let foreign = script(dir.path(), "foreign", "\u{7f}ELF\u{2}\u{1}\u{1}\0 and then nonsense");
    assert!(message(&[foreign.to_str().unwrap()]).contains("format"));
    let empty = script(dir.path(), "empty", "");
    assert!(message(&[empty.to_str().unwrap()]).contains("format"));
}

#[test]
fn a_command_killed_at_its_stop_is_reported() {
    let Some(mut l) = stopped(&["sleep", "20"]) else { return };
    kill(l.pid, Signal::SIGKILL).unwrap();
    l.resume().unwrap();
    assert_eq!(libc::WTERMSIG(wait(&mut l).status), libc::SIGKILL);
}

#[test]
fn without_ptrace_it_runs_and_says_so() {
    // A process that is traced already refuses a second tracer: that is how ptrace is refused under strace -f.
    let mut l = Launched::prepare(&argv(&["sh", "-c", "exit 4"]), &ResourceLimits::current()).unwrap();
    l.open_gate().unwrap();
    let stop = l.wait_for_exec(Errno::EPERM).unwrap();
    assert!(!stop.exact);
    assert!(stop.note.unwrap().contains("ptrace was refused"));
    l.resume().unwrap();
    assert_eq!(wait(&mut l).status, 4 << 8);

    let dir = tempfile::tempdir().unwrap();
    let orphan = script(dir.path(), "orphan", "#!/nonexistent/interpreter\n");
    let mut l = Launched::prepare(&[orphan.into_os_string()], &ResourceLimits::current()).unwrap();
    l.open_gate().unwrap();
    let e = l.wait_for_exec(Errno::EPERM).unwrap_err().to_string();
    assert!(e.contains("interpreter"), "{e}");
    assert!(!proc_exists(l.pid()), "left a zombie");
}
