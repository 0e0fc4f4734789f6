//! What the kernel does to a process for want of memory or of its lock, against what other sources say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtrace_formats::capture::{Capture, ProbeStatus};
use mtrace_formats::tables::{LockMode, LockWait, MemoryCall, MemoryCallKind, OomKill, OomScope, ProcessEvent};
use mtrace_recorder::{Options, TargetSpec, record};
use record_support::{bpf_works, compile, record_command};

const MIB: u64 = 1 << 20;

/// A memory cgroup with a limit that goes away with the test.
struct Group(PathBuf);

impl Group {
    fn new(name: &str, limit: u64) -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, file) = match v1.join("memory.limit_in_bytes").exists() {
            true => (v1, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let dir = root.join(format!("mtrace-test-{name}-{}", std::process::id()));
        let made = std::fs::create_dir(&dir).and_then(|()| std::fs::write(dir.join(file), limit.to_string()));
        if let Err(e) = made {
            let _ = std::fs::remove_dir(&dir);
            eprintln!("skipped: no memory cgroup can be made at {}: {e}", dir.display());
            return None;
        }
        Some(Self(dir))
    }

    /// A shell command that moves itself there and becomes the program.
    fn argv(&self, program: &Path, args: &[&str]) -> Vec<String> {
        let enter = format!("echo $$ > '{}/cgroup.procs'; exec \"$0\" \"$@\"", self.0.display());
        let mut argv = vec!["-c".to_owned(), enter, program.display().to_string()];
        argv.extend(args.iter().map(|a| (*a).to_owned()));
        argv
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_string_lossy())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Stops a program with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_victim_has_its_memory_its_limit_and_who_wanted_more() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let leak = compile("leak.c", dir.path());
    let Some(group) = Group::new("oom", 32 * MIB) else { return };
    let argv = group.argv(&leak, &["128", "1", "4"]);
    let recording = record_command(Path::new("/bin/sh"), &argv.iter().map(String::as_str).collect::<Vec<_>>(), |_| {});
    recording.assert_nothing_lost();
    let target = &recording.capture.manifest.targets[0];
    assert_eq!(target.exit_status, Some(libc::SIGKILL));

    let kills = recording.rows::<OomKill>();
    let kill = kills.iter().find(|k| k.pid == target.pid).unwrap();
    assert_eq!((kill.comm.as_deref(), kill.by_pid, kill.by_comm.as_str()), (Some("leak"), target.pid, "leak"));
    assert_eq!(kill.scope, Some(OomScope::Memcg));
    assert_eq!((kill.cgroup.as_deref(), kill.limit_bytes), (Some(group.name().as_str()), Some(32 * MIB)));
    // The page that was one too many did not fit: up to a batch of the kernel's charges (64 pages on each CPU).
    let usage = kill.usage_bytes.unwrap();
    assert!(usage <= 32 * MIB && usage + 4 * MIB > 32 * MIB, "{kill:?}");
    let anon = kill.anon_bytes.unwrap();
    assert!(anon <= usage && anon + 6 * MIB > usage, "{kill:?}");
    assert!(kill.total_vm_bytes.unwrap() > anon, "{kill:?}");
    assert_eq!((kill.swap_bytes, kill.oom_score_adj), (Some(0), Some(0)), "{kill:?}");
    let stacks = recording.stacks();
    let functions = &stacks[&kill.stack_id.unwrap()];
    assert!(functions.iter().any(|f| f == "remember_request"), "{functions:?}");
    let death = recording.rows::<ProcessEvent>().into_iter().find(|e| e.pid == kill.pid && e.status.is_some()).unwrap();
    assert!(kill.ts < death.ts, "chosen at {}, dead at {}", kill.ts, death.ts);
}

#[test]
fn a_victim_that_nobody_records_is_seen() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let leak = compile("leak.c", dir.path());
    let Some(group) = Group::new("other", 16 * MIB) else { return };
    let target = Running(Command::new("sleep").arg("60").spawn().unwrap());
    let mut options = Options::new(TargetSpec::Pids(vec![target.0.id()]), dir.path().join("other.mtrace"));
    options.duration = Some(Duration::from_secs(2));
    let mut victim = None;
    record(&options, &AtomicBool::new(false), &mut |_| {
        victim
            .get_or_insert_with(|| Running(Command::new("sh").args(group.argv(&leak, &["64", "1"])).spawn().unwrap()));
    })
    .unwrap();
    let victim = victim.unwrap();
    let capture = Capture::open(&options.output).unwrap();
    let (kills, _) = capture.read::<OomKill>();
    let kill = kills.iter().find(|k| k.pid == victim.0.id()).unwrap();
    assert_eq!((kill.scope, kill.limit_bytes), (Some(OomScope::Memcg), Some(16 * MIB)));
    // Nobody asked for the stack of a process that is no target.
    assert_eq!(kill.stack_id, None);
}

#[test]
fn a_thread_that_waits_for_another_one_names_it() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let maplock = compile("maplock.c", dir.path());
    let recording = record_command(&maplock, &["192", "1", "reprotect"], |_| {});
    recording.assert_nothing_lost();
    let pid = recording.capture.manifest.targets[0].pid;
    let waits = recording.rows::<LockWait>();
    let calls = recording.rows::<MemoryCall>();
    let of_own: Vec<&LockWait> = waits
        .iter()
        .filter(|w| w.tid == pid && w.holder_mode == Some(LockMode::Write) && w.holder_pid == Some(pid))
        .collect();
    assert!(of_own.len() >= 5, "{waits:?}");
    for wait in &of_own {
        assert_ne!(wait.holder_tid, Some(wait.tid), "{wait:?}");
        assert_eq!(wait.holder_is_recorder, Some(false), "{wait:?}");
    }
    // The holder was in its mprotect, and the wait lies within a call or a fault of the one that waited.
    let held = |w: &LockWait| {
        let of_holder = calls.iter().filter(|c| Some(c.tid) == w.holder_tid && c.call == MemoryCallKind::Mprotect);
        of_holder.into_iter().any(|c| c.ts <= w.ts && w.ts <= c.ts + c.dur)
    };
    let explained = of_own.iter().filter(|w| held(w)).count();
    assert!(explained * 10 >= of_own.len() * 9, "{explained} of {}", of_own.len());
    let writers: Vec<&&LockWait> = of_own.iter().filter(|w| w.mode == LockMode::Write).collect();
    let within = |w: &LockWait| {
        let of_waiter = calls.iter().filter(|c| c.tid == w.tid);
        of_waiter.into_iter().any(|c| c.ts <= w.ts && w.ts + w.dur <= c.ts + c.dur)
    };
    assert!(!writers.is_empty() && writers.iter().all(|w| within(w)), "{writers:?}");
    let stacks = recording.stacks();
    assert!(
        writers.iter().all(|w| stacks[&w.stack_id.unwrap()].iter().any(|f| f == "map_buffer" || f == "unmap_buffer"))
    );
}

#[test]
fn a_foreign_reader_of_smaps_is_named() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let maplock = compile("maplock.c", dir.path());
    let target = Command::new(&maplock).args(["192", "60", "alone"]).stdout(Stdio::null()).spawn().unwrap();
    let target = Running(target);
    std::thread::sleep(Duration::from_millis(500));
    let mut options = Options::new(TargetSpec::Pids(vec![target.0.id()]), dir.path().join("reader.mtrace"));
    options.duration = Some(Duration::from_secs(2));
    let mut reader = None;
    record(&options, &AtomicBool::new(false), &mut |_| {
        reader.get_or_insert_with(|| {
            let pid = target.0.id().to_string();
            Running(Command::new(&maplock).args(["read", "60", &pid]).stdout(Stdio::null()).spawn().unwrap())
        });
    })
    .unwrap();
    let reader = reader.unwrap().0.id();
    let capture = Capture::open(&options.output).unwrap();
    let probe = capture.manifest.probes.iter().find(|p| p.name == "lock_waits").unwrap();
    assert_eq!(probe.status, ProbeStatus::Ran, "{probe:?}");
    let (waits, _) = capture.read::<LockWait>();
    let named = waits.iter().filter(|w| w.holder_pid == Some(reader)).collect::<Vec<_>>();
    assert!(named.len() >= 5, "{waits:?}");
    for w in named {
        assert_eq!((w.pid, w.mode, w.holder_mode), (target.0.id(), LockMode::Write, Some(LockMode::Read)), "{w:?}");
        assert_eq!(w.holder_comm.as_deref(), Some("smaps-agent"), "{w:?}");
    }
}
