//! What of each mapping is resident, and memory that becomes resident without a fault, against what /proc says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mtrace_formats::capture::{Capture, ProbeStatus};
use mtrace_formats::tables::{
    Collapse, CollapsedBy, CollapsedMemory, MemoryCall, MemoryCallKind, Sample, SampleSource, SmapsMoment, SmapsRow,
};
use mtrace_recorder::{FlightOptions, Options, SmapsMode, TargetSpec, record};
use record_support::{Recording, bpf_works, compile, record_command};

const RANGES: u64 = 8;
const HUGE_KB: u64 = 2048;
const MADV_COLLAPSE: u32 = 25;
const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// One test makes khugepaged hurry, and it would take the ranges of the others before they ask.
static KHUGEPAGED: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    KHUGEPAGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A setting of the host that has its old value again after the test.
struct Setting(PathBuf, String);

impl Setting {
    /// `None`, said loudly, if it cannot be written.
    fn write(file: &str, value: &str) -> Option<Self> {
        let path = Path::new(THP).join(file);
        let old = fs::read_to_string(&path).ok().map(|text| chosen(&text).to_owned());
        match old.and_then(|old| fs::write(&path, value).ok().map(|()| old)) {
            Some(old) => Some(Self(path, old)),
            None => {
                eprintln!("skipped: {} cannot be written", path.display());
                None
            }
        }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, &self.1);
    }
}

/// The word in brackets, or all there is.
fn chosen(text: &str) -> &str {
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
    word.unwrap_or(text).trim()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// True if the probe can be there; says loudly if not.
fn huge_pages_work() -> bool {
    let enabled = fs::read_to_string(Path::new(THP).join("enabled")).unwrap_or_default();
    match chosen(&enabled) {
        "" | "never" => {
            eprintln!("skipped: no transparent huge pages (`{}`)", enabled.trim());
            false
        }
        _ => bpf_works(),
    }
}

fn vmstat(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap();
    let found = text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {key}"))
}

/// How much a number that the program has printed twice grew.
fn grown(recording: &Recording, key: &str) -> u64 {
    let pair = &recording.said[0][key];
    pair[1].as_u64().unwrap() - pair[0].as_u64().unwrap()
}

fn succeeded(rows: &[Collapse]) -> Vec<&Collapse> {
    rows.iter().filter(|r| r.result == "succeed").collect()
}

fn new_kb(rows: &[&Collapse]) -> u64 {
    rows.iter().map(|r| r.new_pages.unwrap() * 4).sum()
}

#[test]
fn what_a_program_collapses_is_a_row_each_and_the_growth_is_known() {
    if !huge_pages_work() {
        return;
    }
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let thp = compile("thp.c", dir.path());
    let before = vmstat("thp_collapse_alloc ");
    let recording = record_command(&thp, &["madvise", &RANGES.to_string()], |_| {});
    let counted = vmstat("thp_collapse_alloc ") - before;
    if recording.said[0]["errno"] == libc::EINVAL {
        eprintln!("skipped: the kernel has no MADV_COLLAPSE (before 6.1)");
        return;
    }
    recording.assert_nothing_lost();
    let rows = recording.rows::<Collapse>();
    let done = succeeded(&rows);
    assert_eq!(done.len() as u64, RANGES, "{rows:?}");
    // The whole host's count: khugepaged may have had something else to do.
    assert!(counted >= RANGES, "{counted}");
    assert_eq!(grown(&recording, "huge_kb"), RANGES * HUGE_KB);
    assert_eq!(new_kb(&done), grown(&recording, "anon_kb"));
    let calls = recording.rows::<MemoryCall>();
    let asked = calls.iter().filter(|c| c.call == MemoryCallKind::Madvise && c.prot_or_advice == Some(MADV_COLLAPSE));
    let asked = asked.collect::<Vec<_>>();
    // It comes by itself now and then, too.
    let own: Vec<_> = done.iter().filter(|r| r.by != CollapsedBy::Khugepaged).collect();
    assert!(own.len() as u64 >= RANGES / 2, "{rows:?}");
    for row in own {
        assert_eq!((row.by, row.memory, row.tid, row.addr), (CollapsedBy::Own, CollapsedMemory::Anon, row.pid, None));
        let begin = row.ts - row.copy_ns.unwrap();
        assert!(asked.iter().any(|c| c.ts < begin && begin < row.ts && row.ts < c.ts + c.dur), "{row:?} {asked:?}");
    }
}

#[test]
fn what_khugepaged_collapses_is_charged_to_whose_memory_it_is() {
    if !huge_pages_work() {
        return;
    }
    let _alone = alone();
    let (Some(_scan), Some(_alloc)) = (
        Setting::write("khugepaged/scan_sleep_millisecs", "10"),
        Setting::write("khugepaged/alloc_sleep_millisecs", "10"),
    ) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let thp = compile("thp.c", dir.path());
    let recording = record_command(&thp, &["khugepaged", &RANGES.to_string()], |_| {});
    recording.assert_nothing_lost();
    let rows = recording.rows::<Collapse>();
    let done = succeeded(&rows);
    assert_eq!(grown(&recording, "huge_kb"), RANGES * HUGE_KB, "khugepaged did not come");
    assert_eq!(done.len() as u64, RANGES, "{rows:?}");
    assert_eq!(new_kb(&done), grown(&recording, "anon_kb"));
    let program = recording.said[0]["pid"].as_u64();
    for row in done {
        assert_eq!((row.by, Some(u64::from(row.pid))), (CollapsedBy::Khugepaged, program));
        assert_eq!(fs::read_to_string(format!("/proc/{}/comm", row.tid)).unwrap(), "khugepaged\n");
    }
}

#[test]
fn shared_memory_grows_in_the_page_cache() {
    if !huge_pages_work() {
        return;
    }
    let _alone = alone();
    let Some(_shared) = Setting::write("shmem_enabled", "advise") else { return };
    let dir = tempfile::tempdir().unwrap();
    let thp = compile("thp.c", dir.path());
    let recording = record_command(&thp, &["shared", &RANGES.to_string()], |_| {});
    let probe = recording.capture.manifest.probes.iter().find(|p| p.name == "collapses").unwrap();
    if recording.said[0]["errno"] != 0 || probe.status != ProbeStatus::Ran {
        eprintln!("skipped: this kernel does not collapse shared memory: {} {probe:?}", recording.said[0]);
        return;
    }
    recording.assert_nothing_lost();
    let rows = recording.rows::<Collapse>();
    let done = succeeded(&rows);
    assert_eq!(done.len() as u64, RANGES, "{rows:?}");
    assert!(done.iter().all(|r| r.memory == CollapsedMemory::File && r.copy_ns.is_none()), "{rows:?}");
    assert_eq!(new_kb(&done), RANGES * (HUGE_KB - 4));
    // Where the kernel tells addresses they are those of the ranges.
    let told = done.iter().filter_map(|r| r.addr).collect::<Vec<_>>();
    assert!(told.is_empty() || told.windows(2).all(|w| w[1] - w[0] == HUGE_KB << 10), "{told:?}");
}

/// The readings of a capture in order of time.
fn readings(capture: &Capture) -> Vec<Vec<SmapsRow>> {
    let (rows, skipped) = capture.read::<SmapsRow>();
    assert!(skipped.is_empty(), "{skipped:?}");
    let mut by_time: BTreeMap<(i64, u32), Vec<SmapsRow>> = BTreeMap::new();
    rows.into_iter().for_each(|r| by_time.entry((r.ts, r.pid)).or_default().push(r));
    by_time.into_values().collect()
}

fn sum(rows: &[SmapsRow], of: fn(&SmapsRow) -> Option<u64>) -> u64 {
    rows.iter().map(|r| of(r).unwrap()).sum()
}

fn kb(pid: u32, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}

#[test]
fn readings_add_up_to_what_the_kernel_says_of_the_process() {
    if !huge_pages_work() {
        return;
    }
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let thp = compile("thp.c", dir.path());
    let said = fs::File::create(dir.path().join("said")).unwrap();
    // Sparse for 4 s, then huge.
    let target = Command::new(&thp).args(["madvise", &RANGES.to_string(), "60", "4"]).stdout(said).spawn().unwrap();
    let target = Running(target);
    std::thread::sleep(Duration::from_millis(300));
    let pid = target.0.id();
    let mut options = Options::new(TargetSpec::Pids(vec![pid]), dir.path().join("grows.mtrace"));
    options.duration = Some(Duration::from_secs(6));
    options.smaps = SmapsMode::Every(Duration::from_secs(1));
    record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let capture = Capture::open(&options.output).unwrap();
    let all = readings(&capture);
    let moments: Vec<SmapsMoment> = all.iter().map(|r| r[0].moment).collect();
    assert_eq!((moments[0], moments[moments.len() - 1]), (SmapsMoment::Begin, SmapsMoment::End));
    assert!(
        moments.len() >= 4 && moments[1..moments.len() - 1].iter().all(|m| *m == SmapsMoment::Periodic),
        "{moments:?}"
    );
    assert_eq!(capture.manifest.knobs["smaps"], 1_000_000_000);

    // The rollup before it is the sum of the same numbers. The program sleeps in between, but once.
    let (samples, _) = capture.read::<Sample>();
    let rollup = |ts: i64, key: &str| {
        let of_key = samples.iter().filter(|s| s.source == SampleSource::SmapsRollup && s.key == key && s.ts <= ts);
        of_key.max_by_key(|s| s.ts).unwrap().value.unwrap()
    };
    for reading in [&all[0], &all[all.len() - 1]] {
        let ts = reading[0].ts;
        for (key, of) in [
            ("Rss_bytes", (|r| r.rss_bytes) as fn(&SmapsRow) -> Option<u64>),
            ("Anonymous_bytes", |r| r.anon_bytes),
            ("AnonHugePages_bytes", |r| r.anon_huge_bytes),
            ("Private_Dirty_bytes", |r| r.private_dirty_bytes),
            ("Referenced_bytes", |r| r.referenced_bytes),
            ("Swap_bytes", |r| r.swap_bytes),
            ("Locked_bytes", |r| r.locked_bytes),
        ] {
            assert_eq!(sum(reading, of), rollup(ts, key), "{key} at {ts}");
        }
        // Each mapping's share is rounded down to a KiB of its own.
        let pss = sum(reading, |r| r.pss_bytes);
        assert!(pss.abs_diff(rollup(ts, "Pss_bytes")) <= (reading.len() as u64) << 10, "{pss}");
    }
    let (begin, end) = (&all[0], &all[all.len() - 1]);
    // It sleeps still. VmRSS is of counters whose parts per CPU are added up now and then, smaps of the page tables.
    assert!(sum(end, |r| r.rss_bytes).abs_diff(kb(pid, "status", "VmRSS") << 10) < 512 << 10);
    assert_eq!(sum(end, |r| r.rss_bytes), kb(pid, "smaps_rollup", "Rss") << 10);
    assert_eq!((sum(begin, |r| r.anon_huge_bytes), sum(end, |r| r.anon_huge_bytes)), (0, (RANGES * HUGE_KB) << 10));
    // What was collapsed, and a page or two for printing.
    let grown = sum(end, |r| r.rss_bytes) - sum(begin, |r| r.rss_bytes);
    let (rows, _) = capture.read::<Collapse>();
    let collapsed = new_kb(&succeeded(&rows)) << 10;
    assert!((collapsed..collapsed + (256 << 10)).contains(&grown), "{grown} {collapsed}");
    // The maps are as exact as without it: the same mappings, read for themselves.
    assert!(end.iter().any(|r| r.path.as_deref() == Some("[stack]")) && end.iter().any(|r| r.path.is_none()));
}

#[test]
fn a_launched_program_is_read_from_its_exec_on_and_never_if_nobody_wants_it() {
    if !bpf_works() {
        return;
    }
    let only_begin = record_command(Path::new("/bin/sleep"), &["0.3"], |_| {});
    let all = readings(&only_begin.capture);
    // sh, stopped at its exec, and what it executes; both ended by themselves.
    assert_eq!(all.len(), 2, "{:?}", all.iter().map(|r| r[0].ts).collect::<Vec<_>>());
    assert!(all.iter().flatten().all(|r| r.moment == SmapsMoment::Begin));
    assert!(all[1].iter().any(|r| r.path.as_deref().is_some_and(|p| p.ends_with("/sleep"))));
    let off = record_command(Path::new("/bin/sleep"), &["0.3"], |o| o.smaps = SmapsMode::Off);
    assert!(readings(&off.capture).is_empty());
    assert_eq!(off.capture.manifest.knobs["smaps"], "off");
}

#[test]
fn a_dump_has_a_reading_of_its_own() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Running(Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap());
    let mut options = Options::new(TargetSpec::Pids(vec![target.0.id()]), dir.path().join("fly"));
    let mut flight = FlightOptions::new(Duration::from_secs(60));
    flight.post = Duration::ZERO;
    let (ask, stop, began) = (flight.ask.clone(), AtomicBool::new(false), Instant::now());
    options.flight = Some(flight);
    let mut asked = false;
    let summary = record(&options, &stop, &mut |p| {
        if !asked && p.elapsed > Duration::from_millis(500) {
            ask.store(true, Ordering::Relaxed);
            asked = true;
        }
        if !p.dumps.is_empty() || began.elapsed() > Duration::from_secs(30) {
            stop.store(true, Ordering::Relaxed);
        }
    })
    .unwrap();
    let capture = Capture::open(&summary.dumps[0].path).unwrap();
    let moments: Vec<SmapsMoment> = readings(&capture).iter().map(|r| r[0].moment).collect();
    assert_eq!(moments, [SmapsMoment::Begin, SmapsMoment::Dump]);
}
