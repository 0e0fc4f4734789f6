//! Who is recorded: several processes, an executable, control groups, containers, a whole host. And the limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use mtrace_formats::capture::{Capture, State, Target};
use mtrace_formats::table::Row;
use mtrace_formats::tables::{
    Fault, FaultRun, IoCall, MemoryCall, OffCpu, ProcessEvent, ProcessEventKind, Sample, SymbolRow,
};
use mtrace_recorder::{ErrorKind, FaultMode, Options, Progress, TargetSpec, record};
use record_support::{Recording, bpf_works, compile, faults_of};

/// Ends a program when the test does.
struct Running(Child);

impl Running {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, args: &[&str]) -> Running {
    Running(Command::new(program).args(args).stdout(Stdio::null()).spawn().unwrap())
}

/// A control group of the test's own, below the memory controller's hierarchy, v1 or v2.
struct TestGroup(PathBuf);

impl TestGroup {
    /// `None`, said loudly, where none can be made.
    fn make(name: &str) -> Option<Self> {
        let tops = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
        let top = tops.into_iter().find(|t| t.join("cgroup.procs").exists());
        let dir = top.map(|t| t.join(name));
        match dir.as_ref().map(fs::create_dir_all) {
            Some(Ok(())) => dir.map(Self),
            refused => {
                eprintln!("skipped: no control group can be made here: {refused:?}");
                None
            }
        }
    }

    fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        // Those in it need a moment to be gone.
        let until = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err_and(|e| e.kind() != std::io::ErrorKind::NotFound) && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Its group, of the memory controller, as the kernel says.
fn group_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |controller: &str| {
        let line = |l: &str| l.splitn(3, ':').map(str::to_owned).collect::<Vec<_>>();
        text.lines().map(line).find(|l| l[1].split(',').any(|c| c == controller)).map(|l| l[2].clone())
    };
    of("memory").or_else(|| of("")).unwrap()
}

/// Records for so long; `look` is called with each progress.
fn record_for(target: TargetSpec, ms: u64, mut look: impl FnMut(&Progress)) -> (Capture, String, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(target, dir.path().join("test.mtrace"));
    options.duration = Some(Duration::from_millis(ms));
    let summary = record(&options, &AtomicBool::new(false), &mut look).unwrap();
    (Capture::open(&options.output).unwrap(), summary.end_reason, dir)
}

fn rows<R: Row>(capture: &Capture) -> Vec<R> {
    let (rows, skipped) = capture.read::<R>();
    assert!(skipped.is_empty(), "{skipped:?}");
    rows
}

fn faults_by(capture: &Capture, pid: u32) -> usize {
    faults_of(capture).iter().filter(|f| f.pid == pid).count()
}

fn target(capture: &Capture, pid: u32) -> &Target {
    let mut all = capture.manifest.targets.iter();
    all.find(|t| t.pid == pid).unwrap_or_else(|| panic!("{pid} is not in {:?}", capture.manifest.targets))
}

/// Every pid in any table.
fn pids_of(capture: &Capture) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    all.extend(rows::<Fault>(capture).iter().map(|r| r.pid));
    all.extend(rows::<FaultRun>(capture).iter().map(|r| r.pid));
    all.extend(rows::<MemoryCall>(capture).iter().map(|r| r.pid));
    all.extend(rows::<IoCall>(capture).iter().map(|r| r.pid));
    all.extend(rows::<OffCpu>(capture).iter().map(|r| r.pid));
    all.extend(rows::<ProcessEvent>(capture).iter().map(|r| r.pid));
    all.extend(rows::<Sample>(capture).iter().filter_map(|r| r.pid));
    all
}

#[test]
fn several_processes_are_recorded_and_no_other() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let [a, b, c] = [(); 3].map(|()| start(&known, &["loop"]));
    std::thread::sleep(Duration::from_millis(100));
    let wanted = TargetSpec::Pids(vec![a.pid(), b.pid(), a.pid()]);
    let (capture, end, _dir) = record_for(wanted, 700, |_| {});
    assert_eq!(end, "duration");
    assert_eq!(pids_of(&capture), BTreeSet::from([a.pid(), b.pid()]));
    assert!(faults_by(&capture, a.pid()) > 1000 && faults_by(&capture, b.pid()) > 1000);
    let t = target(&capture, a.pid());
    let group = group_of(a.pid());
    assert_eq!((t.how.as_str(), t.ns_pid, t.cgroup.as_ref()), ("pid", Some(a.pid()), Some(&group)));
    assert!(capture.manifest.targets.iter().all(|t| t.pid != c.pid()));
    let attach = rows::<ProcessEvent>(&capture).into_iter().find(|e| e.event == ProcessEventKind::Attach).unwrap();
    assert_eq!((attach.ns_pid, attach.ns_tid, attach.cgroup), (Some(attach.pid), Some(attach.pid), Some(group)));
}

#[test]
fn an_executable_is_known_by_its_file_under_any_path_and_by_the_path_it_is_executed_by() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let (same_name, link) = (other.join("known"), dir.path().join("link"));
    fs::copy(&known, &same_name).unwrap();
    std::os::unix::fs::symlink(&known, &link).unwrap();
    let first = start(&known, &["loop"]);
    let namesake = start(&same_name, &["loop"]);
    std::thread::sleep(Duration::from_millis(100));
    let mut later = Vec::new();
    let (capture, end, _dir) = record_for(TargetSpec::Exe(known.clone()), 2500, |p| {
        match (later.len(), p.elapsed.as_millis()) {
            // Through a link; and by the path, when another file has taken it.
            (0, 200..) => later.push(start(&link, &["loop"])),
            (1, 800..) => {
                fs::rename(&known, dir.path().join("old")).unwrap();
                fs::copy(&same_name, &known).unwrap();
                later.push(start(&known, &["loop"]));
            }
            _ => {}
        }
    });
    assert_eq!((end.as_str(), later.len()), ("duration", 2));
    for pid in [first.pid(), later[0].pid(), later[1].pid()] {
        assert!(faults_by(&capture, pid) > 100, "{pid}");
        assert_eq!(target(&capture, pid).how, "exe");
    }
    assert!(!pids_of(&capture).contains(&namesake.pid()));
    // From its first instruction on.
    let events: Vec<_> = rows::<ProcessEvent>(&capture).into_iter().filter(|e| e.pid == later[0].pid()).collect();
    assert_eq!(events[0].event, ProcessEventKind::Exec);
}

#[test]
fn a_process_that_is_moved_into_a_group_is_recorded_from_then_on_with_its_children() {
    if !bpf_works() {
        return;
    }
    let name = format!("mtrace-test-{}/below", std::process::id());
    let Some(below) = TestGroup::make(&name) else { return };
    let group = TestGroup(below.0.parent().unwrap().to_path_buf());
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let (outside, mut mover) = (start(&known, &["loop"]), Some(start(&known, &["loop"])));
    let pid = mover.as_ref().unwrap().pid();
    let mut child = None;
    let mut below = Some(below);
    let mut step = 0;
    // Empty at first: that is no reason to end. When the group is gone nobody can come any more.
    let (capture, end, _dir) = record_for(TargetSpec::Cgroups(vec![group.0.clone()]), 60_000, |p| {
        match (step, p.elapsed.as_millis()) {
            (0, 300..) => below.as_ref().unwrap().take(pid),
            (1, 800..) => {
                // Born in it: the shell moves itself before it executes the program.
                let script = format!("echo $$ > {}/cgroup.procs; exec {} fork 2", group.0.display(), known.display());
                let mut shell = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).spawn().unwrap();
                child = Some(shell.id());
                assert_eq!(shell.wait().unwrap().code(), Some(7));
            }
            (2, 1300..) => drop(mover.take()),
            (3, _) => {
                drop(below.take());
                fs::remove_dir(&group.0).unwrap();
            }
            _ => return,
        }
        step += 1;
    });
    assert_eq!(end, "target exited");
    let events = rows::<ProcessEvent>(&capture);
    let moved = events.iter().find(|e| e.event == ProcessEventKind::Cgroup && e.pid == pid).unwrap();
    assert_eq!(moved.cgroup.as_deref(), Some(format!("/{name}").as_str()));
    let faults: Vec<_> = faults_of(&capture).into_iter().filter(|f| f.pid == pid).collect();
    assert!(faults.len() > 1000);
    // The runs that user space splits up are as exact as their begin.
    assert!(faults[0].ts >= moved.ts, "nothing of the time before");
    let t = target(&capture, pid);
    assert_eq!((t.how.as_str(), t.cgroup.as_deref()), ("cgroup", moved.cgroup.as_deref()));

    let shell = child.unwrap();
    let children: Vec<_> =
        events.iter().filter(|e| e.event == ProcessEventKind::Fork && e.parent == Some(shell)).collect();
    assert_eq!(children.len(), 2);
    let top = name.strip_suffix("/below").unwrap();
    for c in &children {
        assert_eq!(c.cgroup.as_deref(), Some(format!("/{top}").as_str()));
        assert!(faults_by(&capture, c.pid) >= 200, "the child executes `known faults 100`");
    }
    assert!(!pids_of(&capture).contains(&outside.pid()));
}

#[test]
fn a_container_is_found_by_the_begin_of_its_id() {
    if !bpf_works() {
        return;
    }
    let own = format!("{:08x}", std::process::id());
    let id = |last: char| own.chars().chain("c0ffee".chars()).chain(std::iter::repeat_n(last, 50)).collect::<String>();
    let Some(one) = TestGroup::make(&format!("mtrace-docker/{}", id('1'))) else { return };
    let two = TestGroup::make(&format!("mtrace-docker/cri-containerd-{}.scope", id('2'))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let [a, b] = [(); 2].map(|()| start(&known, &["loop"]));
    one.take(a.pid());
    two.take(b.pid());
    let by = |id: String| TargetSpec::Containers(vec![id]);
    // As in a pod: a cgroup namespace in which the groups of others have no names. Of this thread only.
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }, 0);
    assert!(fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap().contains("/.."));
    let (capture, _, _dir) = record_for(by(format!("containerd://{}", &id('2')[..20])), 500, |_| {});
    assert_eq!(pids_of(&capture), BTreeSet::from([b.pid()]));
    let t = target(&capture, b.pid());
    assert_eq!((t.how.as_str(), t.cgroup.as_ref()), ("container", Some(&group_of(b.pid()))));
    assert!(t.cgroup.as_ref().unwrap().contains(&id('2')));

    let refused = |id: String| {
        let e = record(&Options::new(by(id), dir.path().join("x")), &AtomicBool::new(false), &mut |_| {}).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NoSuchTarget);
        e.to_string()
    };
    let ambiguous = refused(id('1')[..14].to_owned());
    assert!(ambiguous.contains(&id('1')) && ambiguous.contains(&id('2')), "{ambiguous}");
    assert!(refused(id('3')).contains(&id('3')));
    assert!(refused("web-1".to_owned()).contains("web-1"));
    drop((a, b, one, two));
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup/memory/mtrace-docker"));
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup/mtrace-docker"));
}

/// Its root is a tmpfs that only its mount namespace has: when it ends, nothing leads to its files any more.
const CONTAINER: &str = r#"
    set -e; root=$1
    mkdir "$root"; mount -t tmpfs none "$root"
    mkdir -p "$root/app" "$root/lib64" "$root/lib/x86_64-linux-gnu"
    cp "$0" "$root/app/known"
    cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
    cp -L /lib/x86_64-linux-gnu/libc.so.6 "$root/lib/x86_64-linux-gnu/"
    mkdir "$root/old" "$root/proc"; cp "$(command -v chroot)" "$root/app/chroot"
    cd "$root"; pivot_root . old
    exec /app/chroot . /app/known fork 5"#;

fn record_container() -> Option<Recording> {
    let allowed = Command::new("unshare").args(["--mount", "--pid", "--fork", "true"]).output();
    if !allowed.as_ref().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no namespaces: {allowed:?}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let root = dir.path().join("root");
    let args = ["--mount", "--pid", "--fork", "sh", "-c", CONTAINER, known.to_str()?, root.to_str()?];
    Some(record_support::record_command(Path::new("unshare"), &args, |_| {}))
}

#[test]
fn a_container_that_has_ended_is_symbolised_through_its_root_and_both_pids_are_known() {
    if !bpf_works() {
        return;
    }
    let Some(r) = record_container() else { return };
    r.assert_nothing_lost();
    assert!(!Path::new("/app/known").exists());
    // What each process took for its own pid, by its own word.
    let said: BTreeSet<u32> = r.said.iter().map(|s| s["pid"].as_u64().unwrap() as u32).collect();
    assert_eq!(said.len(), 5);
    let events = r.rows::<ProcessEvent>();
    let inside: Vec<_> = events
        .iter()
        .filter(|e| e.event == ProcessEventKind::Exec && e.path.as_deref().is_some_and(|p| p.ends_with("/app/known")))
        .collect();
    let ns_pids: BTreeSet<u32> = inside.iter().filter_map(|e| e.ns_pid).collect();
    assert_eq!(ns_pids, said.into_iter().chain([1]).collect());
    assert!(inside.iter().all(|e| e.ns_tid == e.ns_pid && e.pid != e.ns_pid.unwrap()), "{inside:?}");
    let first = inside.iter().find(|e| e.ns_pid == Some(1)).unwrap();
    assert_eq!(first.cgroup, Some(group_of(std::process::id())));
    assert!(inside.iter().all(|e| e.cgroup == first.cgroup), "{inside:?}");
    let t = target(&r.capture, first.pid);
    assert_eq!((t.ns_pid, t.exe.as_deref()), (Some(1), Some("/app/known")));

    let stacks = r.stacks();
    let pids: BTreeSet<u32> = inside.iter().filter(|e| e.ns_pid != Some(1)).map(|e| e.pid).collect();
    let faults = r.faults();
    for pid in pids {
        for way in ["a_outer", "b_outer"] {
            let named = |f: &&Fault| {
                let stack = f.stack_id.and_then(|s| stacks.get(&s));
                f.pid == pid && stack.is_some_and(|s| s.iter().any(|f| f == way) && s.iter().any(|f| f == "main"))
            };
            assert!(faults.iter().filter(named).count() >= 100, "{pid} {way}");
        }
    }
    // The host has its libc under the same name, and the container another file.
    let symbols = r.rows::<SymbolRow>();
    let of_libc = |s: &&SymbolRow| s.module.as_deref() == Some("/lib/x86_64-linux-gnu/libc.so.6");
    assert!(symbols.iter().filter(of_libc).any(|s| s.function.is_some()));
}

#[test]
fn a_whole_host_is_recorded_with_the_right_pids_and_without_the_recorder() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let [a, b] = [(); 2].map(|()| start(&known, &["loop"]));
    std::thread::sleep(Duration::from_millis(100));
    let mut said = None;
    let (capture, end, _dir) = record_for(TargetSpec::All, 2000, |p| {
        if said.is_none() && p.elapsed > Duration::from_millis(400) {
            // A child of the recorder is not recorded at its birth; one that a shell starts is.
            let shell = Command::new("sh").args(["-c", &format!("{} faults 200; true", known.display())]).output();
            said = Some(String::from_utf8(shell.unwrap().stdout).unwrap());
        }
    });
    assert_eq!((end.as_str(), capture.manifest.state), ("duration", State::Complete));
    for p in [&a, &b] {
        assert!(faults_by(&capture, p.pid()) > 1000);
        let t = target(&capture, p.pid());
        assert_eq!((t.how.as_str(), t.cgroup.as_ref()), ("all", Some(&group_of(p.pid()))));
        assert_eq!(t.exe.as_deref(), known.to_str());
    }
    let me = std::process::id();
    assert!(!pids_of(&capture).contains(&me) && capture.manifest.targets.iter().all(|t| t.pid != me));
    // One that came later, counted by getrusage.
    let said: serde_json::Value = serde_json::from_str(&said.unwrap()).unwrap();
    let number = |key: &str| said[key].as_i64().unwrap();
    let pid = number("pid") as u32;
    let window = number("from")..=number("to");
    let all = faults_of(&capture);
    let seen = all.iter().filter(|f| f.pid == pid && window.contains(&f.ts)).count() as i64;
    let account = capture.manifest.accounts.iter().find(|a| a.probe == "faults").unwrap();
    let lost: u64 = account.lost.values().sum();
    assert_eq!(account.seen, account.written + lost, "{account:?}");
    if lost == 0 {
        assert_eq!(seen, number("minflt"));
    }
    assert!(seen >= 350, "{seen}");
}

/// What a capture takes on disk.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let of = |e: fs::DirEntry| match e.metadata().unwrap() {
        m if m.is_dir() => disk_bytes(&e.path()),
        m => m.blocks() * 512,
    };
    fs::read_dir(dir).unwrap().map(|e| of(e.unwrap())).sum()
}

#[test]
fn a_recording_ends_below_its_size_and_at_its_number_of_events() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let program = start(&known, &["loop"]);
    let try_it = |name: &str, tweak: fn(&mut Options)| {
        let mut options = Options::new(TargetSpec::Pids(vec![program.pid()]), dir.path().join(name));
        options.duration = Some(Duration::from_secs(120));
        options.faults = FaultMode::Every;
        tweak(&mut options);
        let summary = record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
        let capture = Capture::open(&options.output).unwrap();
        assert_eq!(capture.manifest.state, State::Complete);
        assert_eq!(capture.manifest.window.end_reason.as_deref(), Some(summary.end_reason.as_str()));
        for a in &capture.manifest.accounts {
            assert_eq!(a.seen, a.written + a.lost.values().sum::<u64>(), "{a:?}");
        }
        (summary.end_reason, capture, options.output)
    };
    let (end, _, output) = try_it("size.mtrace", |o| o.max_bytes = Some(1 << 20));
    let bytes = disk_bytes(&output);
    assert_eq!(end, "max size");
    assert!(((1 << 19)..=(1 << 20)).contains(&bytes), "{bytes}");

    let (end, capture, _) = try_it("events.mtrace", |o| o.max_events = Some(5000));
    assert_eq!(end, "max events");
    let written: u64 = capture.manifest.accounts.iter().map(|a| a.written).sum();
    let window = &capture.manifest.window;
    let took = window.end_ns.unwrap() - window.start_ns.unwrap();
    assert!(written >= 5000 && took < 10_000_000_000, "{written} in {took} ns");
}
