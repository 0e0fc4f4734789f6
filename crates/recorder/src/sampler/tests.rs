#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::parse::{flat_keyed, parse_mountinfo};
use super::*;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

fn value(rows: &[Sample], source: SampleSource, key: &str) -> Option<u64> {
    rows.iter().find(|r| r.source == source && r.key == key).and_then(|r| r.value)
}

/// Text of one file of the archive of /proc files that is kept beside the checkout.
fn fixture(path: &str) -> Option<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/procfs/fixtures.ttar");
    let Ok(archive) = fs::read_to_string(&file) else {
        eprintln!("skipped: corpus absent ({})", file.display());
        return None;
    };
    let (_, rest) = archive.split_once(&format!("Path: fixtures/proc/{path}\nLines: ")).expect(path);
    let (count, rest) = rest.split_once('\n').unwrap();
    let lines: Vec<&str> = rest.lines().take(count.parse().unwrap()).collect();
    Some(lines.join("\n") + "\n")
}

/// A single-threaded process that touches 32 MiB when told to: this one has other tests in it.
struct Grower {
    pid: libc::pid_t,
    go: fs::File,
    done: fs::File,
}

const GROWTH: usize = 32 << 20;

impl Grower {
    fn start() -> Self {
        let (go_read, go) = nix::unistd::pipe().unwrap();
        let (done, done_write) = nix::unistd::pipe().unwrap();
        // SAFETY: the child makes system calls and touches its own memory only.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let mut byte = 0u8;
                libc::read(go_read.as_raw_fd(), (&raw mut byte).cast(), 1);
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let at = libc::mmap(std::ptr::null_mut(), GROWTH, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                (0..GROWTH).step_by(4096).for_each(|i| at.cast::<u8>().add(i).write_volatile(1));
                libc::write(done_write.as_raw_fd(), (&raw const byte).cast(), 1);
                loop {
                    libc::pause();
                }
            }
            pid
        };
        Self { pid, go: go.into(), done: done.into() }
    }

    fn grow(&mut self) {
        self.go.write_all(b"g").unwrap();
        self.done.read_exact(&mut [0]).unwrap();
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        // SAFETY: a child of ours that was not waited for yet.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

#[test]
fn a_process_is_sampled() {
    let child = Grower::start();
    let pid = child.pid as u32;
    let mut s = Sampler::new([pid]);
    let before = monotonic_ns();
    let rows = s.tick_all(before, SmapsMoment::End);
    let after = monotonic_ns();
    assert!(rows.iter().all(|r| before <= r.ts && r.ts <= after));
    // Two files and two ways of counting: alike within the per-CPU counters' error, not equal.
    let resident = value(&rows, SampleSource::Statm, "resident_bytes").unwrap();
    let rss = value(&rows, SampleSource::SmapsRollup, "Rss_bytes").unwrap();
    assert!(resident.abs_diff(rss) < 2 << 20, "{resident} {rss}");
    assert_eq!(value(&rows, SampleSource::Stat, "num_threads"), Some(1));
    let total = value(&rows, SampleSource::Meminfo, "MemTotal_bytes").unwrap();
    assert_eq!(Some(total), crate::host::HostFacts::gather().host.memory_bytes);
    let own = |r: &&Sample| matches!(r.source, SampleSource::Statm | SampleSource::Stat | SampleSource::SmapsRollup);
    assert!(rows.iter().filter(own).all(|r| r.pid == Some(pid)));
    assert_eq!(s.cost().rollups, 1);
}

#[test]
fn faults_and_memory_grow_when_they_grow() {
    let mut child = Grower::start();
    let mut s = Sampler::new([child.pid as u32]);
    let before = s.tick_all(monotonic_ns(), SmapsMoment::End);
    child.grow();
    let after = s.tick_all(monotonic_ns(), SmapsMoment::End);
    let grown = |source, key| value(&after, source, key).unwrap() - value(&before, source, key).unwrap();
    let rollup = grown(SampleSource::SmapsRollup, "Anonymous_bytes") as usize;
    assert!((GROWTH..GROWTH + (1 << 20)).contains(&rollup), "{rollup}");
    let statm = grown(SampleSource::Statm, "resident_bytes") as usize;
    assert!(statm.abs_diff(GROWTH) < 4 << 20, "{statm}");
    assert!(grown(SampleSource::Statm, "size_bytes") as usize >= GROWTH);
    // One fault a page, or one a huge page.
    let faults = grown(SampleSource::Stat, "minflt") as usize;
    assert!((GROWTH >> 21..=(GROWTH >> 12) + 200).contains(&faults), "{faults}");
}

#[test]
fn pressure_is_there_or_its_absence_is_said_once() {
    let mut s = Sampler::new([]);
    let first = s.tick(monotonic_ns());
    let said = s.take_problems();
    if Path::new("/proc/pressure/memory").exists() {
        assert!(value(&first, SampleSource::HostPressure, "memory.some.total_us").is_some());
        assert!(first.iter().filter(|r| r.source == SampleSource::HostPressure).all(|r| r.pid.is_none()));
    } else {
        assert!(said.iter().any(|p| p.contains("/proc/pressure")));
    }
    s.tick(monotonic_ns());
    assert_eq!(s.take_problems(), Vec::<String>::new());
}

#[test]
fn a_process_that_ended_drops_out() {
    let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    let mut s = Sampler::new([child.id()]);
    assert!(s.tick(monotonic_ns()).iter().any(|r| r.pid == Some(child.id()) && r.source == SampleSource::Statm));
    child.kill().unwrap();
    child.wait().unwrap();
    // Its cgroup is looked at once more: an OOM kill is counted there when the process is gone.
    let last = s.tick_all(monotonic_ns(), SmapsMoment::End);
    let of_cgroup = |r: &&Sample| matches!(r.source, SampleSource::CgroupMemory | SampleSource::CgroupPressure);
    assert!(last.iter().filter(|r| !of_cgroup(r)).all(|r| r.pid.is_none()));
    let counted = last.iter().filter(of_cgroup).filter(|r| r.pid == Some(child.id())).count();
    let visible = CgroupPaths::of(std::process::id()).memory_version().is_some();
    assert_eq!(counted > 0, visible, "{last:?}");
    assert!(s.tick_all(monotonic_ns(), SmapsMoment::End).iter().all(|r| r.pid.is_none()));
    assert_eq!(s.pids().count(), 0);
    assert_eq!(s.take_problems(), Vec::<String>::new());
}

#[test]
fn processes_in_one_cgroup_share_its_rows() {
    let mut a = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    let mut b = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    let rows = Sampler::new([a.id(), b.id()]).tick(monotonic_ns());
    for child in [&mut a, &mut b] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let of = |source| rows.iter().filter(move |r| r.source == source);
    assert_eq!(of(SampleSource::Statm).filter(|r| r.key == "resident_bytes").count(), 2);
    let usage = ["memory.usage_in_bytes", "memory.current_bytes"];
    let n = of(SampleSource::CgroupMemory).filter(|r| usage.contains(&r.key.as_str())).count();
    if CgroupPaths::of(std::process::id()).memory_version().is_none() {
        eprintln!("skipped: no memory cgroup visible here");
        return;
    }
    assert!(n <= 1, "{n} rows for one group");
}

#[test]
fn rare_readings_take_their_share_and_no_more() {
    let mut budget = Budget { next: i64::MIN };
    assert!(budget.allows(0));
    // Cheap: once a second. 50 ms: 1 % is once in 5 s.
    budget.spend(1_000, 1_000_000);
    assert!(!budget.allows(1_000 + RARE_INTERVAL_NS - 1) && budget.allows(1_000 + RARE_INTERVAL_NS));
    budget.spend(0, 50_000_000);
    assert!(!budget.allows(4_949_999_999) && budget.allows(4_950_000_000));
    budget.spend(i64::MAX - 1, i64::MAX);
    assert!(!budget.allows(0));
}

#[test]
fn ticks_read_the_rollup_rarely_and_all_processes_in_turn() {
    let mut children: Vec<_> = (0..3).map(|_| std::process::Command::new("sleep").arg("30").spawn().unwrap()).collect();
    let mut s = Sampler::new(children.iter().map(std::process::Child::id));
    let begin = monotonic_ns();
    let mut read = BTreeMap::<u32, u32>::new();
    // Two seconds of ticks in no time: the clock is given.
    for i in 0..20 {
        for row in s.tick(begin + i * 100_000_000) {
            if row.source == SampleSource::SmapsRollup && row.key == "Rss_bytes" {
                *read.entry(row.pid.unwrap()).or_default() += 1;
            }
        }
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(read.len(), 3, "{read:?}");
    assert!(read.values().all(|n| (1..=2).contains(n)), "{read:?}");
}

#[test]
fn a_tick_is_cheap() {
    let mut s = Sampler::new([std::process::id()]);
    s.tick_all(monotonic_ns(), SmapsMoment::End);
    let begin = Instant::now();
    let n = 50;
    for _ in 0..n {
        // The rare readings are not due any more.
        s.tick(monotonic_ns());
    }
    let each = begin.elapsed() / n;
    eprintln!("one tick: {each:?}");
    // Ten a second; a generous bound for a machine that is busy with other things.
    assert!(each < Duration::from_millis(20), "{each:?}");
}

#[test]
fn fixtures_of_other_kernels_parse() {
    if let Some(text) = fixture("meminfo") {
        let v = parse_kb_lines(&text);
        assert_eq!(v["MemTotal"], 15_666_184 * 1024);
        assert!(!v.contains_key("HugePages_Total"), "a count, not bytes");
    }
    if let Some(text) = fixture("26231/smaps_rollup") {
        let v = parse_kb_lines(&text);
        assert_eq!((v["Rss"], v["Pss"], v["SwapPss"]), (29_948 * 1024, 29_944 * 1024, 1_940 * 1024));
    }
    if let Some(text) = fixture("pressure/memory") {
        assert_eq!(pressure_totals(&text), [("some", 15), ("full", 25)]);
    }
    if let Some(text) = fixture("pressure/cpu") {
        assert!(pressure_totals(&text).contains(&("some", 15)), "{text}");
    }
    if let Some(text) = fixture("26231/mountinfo") {
        assert_eq!(parse_mountinfo(text.as_bytes()).len(), text.lines().count());
    }
    if let Some(text) = fixture("26231/stat") {
        let stat = Stat::from_read(text.as_bytes()).unwrap();
        assert_eq!((stat.comm.as_str(), stat.minflt, stat.majflt, stat.num_threads), ("vim", 32533, 26, 1));
    }
}

#[test]
fn damaged_lines_are_left_out() {
    assert_eq!(parse_kb_lines("Rss: kB\nPss: x kB\nKey 1 kB\n: 3\nBig: 99999999999999999999 kB\n").len(), 0);
    assert_eq!(parse_kb_lines(&format!("Over: {} kB\n", u64::MAX)).len(), 0);
    assert_eq!(pressure_totals("some avg10=1 total=x\nfull\n\nsome total=5"), [("some", 5)]);
    assert_eq!(flat_keyed("a 1\nb\nc x\n d 2").collect::<Vec<_>>(), [("a", 1)]);
    assert_eq!(parse_mountinfo(b"1 2 3:4 /\n\n1 2 3:4 / /x rw - \n"), []);
}

#[test]
fn mount_paths_lose_their_escapes() {
    let line = b"31 23 0:28 /a\\040b /mnt/c\\134d\\0 rw shared:1 master:2 - cgroup x rw,memory,cpu\n";
    let m = parse_mountinfo(line).remove(0);
    assert_eq!((m.root.to_str(), m.mount_point.to_str()), (Some("/a b"), Some("/mnt/c\\d\\0")));
    assert_eq!((m.fs_type.as_str(), m.super_options), ("cgroup", vec!["rw".into(), "memory".into(), "cpu".into()]));
}

#[test]
fn of_many_processes_each_has_its_turn_and_it_is_said() {
    let mut sampler = Sampler::new(1..=500);
    let turns: Vec<Vec<u32>> = (0..3).map(|_| sampler.turn(false)).collect();
    assert!(turns.iter().all(|t| t.len() == MAX_PER_TICK));
    assert_eq!(turns.concat().into_iter().collect::<BTreeSet<_>>().len(), 500);
    assert_eq!(sampler.turn(true).len(), 500);
    assert!(sampler.take_problems()[0].contains("turns"));
}
