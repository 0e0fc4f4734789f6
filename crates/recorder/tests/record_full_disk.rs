//! Recordings on a disk that fills up: they end in order, whatever its size and whoever else wants its space.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mtrace_formats::capture::{Capture, MANIFEST_FILE, State};
use mtrace_recorder::{ErrorKind, FaultMode, Options, Summary, TargetSpec, record};
use record_support::{bpf_works, compile, faults_of};

/// A small filesystem that goes away with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at).status();
        if !done.is_ok_and(|s| s.success()) {
            eprintln!("skipped: mount was refused");
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a child of another test may still hold a descriptor of it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn options(disk: &SmallDisk, program: &Path, segment_interval: Duration) -> Options {
    let target = TargetSpec::Launch { argv: vec![program.into(), "loop".into()] };
    let mut options = Options::new(target, disk.0.join("full.mtrace"));
    options.segment_interval = segment_interval;
    // What fills a disk fast.
    options.faults = FaultMode::Every;
    options.duration = Some(Duration::from_secs(60));
    options
}

/// The recording ended because of the disk, in order, and the books balance with what can be read.
fn assert_ended_in_order(summary: &Summary, case: &str) -> Capture {
    assert_eq!(summary.end_reason, "disk full", "{case}: {:?}", summary.problems);
    assert!(summary.problems.iter().any(|p| p.what.contains("recording ended early")), "{case}");
    let capture = Capture::open(&summary.output).unwrap();
    assert_eq!(capture.problems, Vec::<String>::new(), "{case}");
    assert_eq!(capture.manifest.state, State::Complete, "{case}");
    let faults = faults_of(&capture);
    for a in &capture.manifest.accounts {
        assert_eq!(a.seen, a.written + a.lost.values().sum::<u64>(), "{case}: {a:?}");
    }
    let account = capture.manifest.accounts.iter().find(|a| a.probe == "faults").unwrap();
    assert_eq!(faults.len() as u64, account.written, "{case}");
    let left: Vec<_> = std::fs::read_dir(&summary.output).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.iter().all(|p| p.is_dir() || p.ends_with(MANIFEST_FILE)), "{case}: {left:?}");
    capture
}

#[test]
fn a_full_disk_ends_the_recording_in_order_and_what_was_closed_is_readable() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let mut with_losses = 0;
    for (i, (size, ms)) in
        [("300k", 50), ("300k", 5000), ("600k", 100), ("600k", 20), ("1M", 300), ("2M", 100)].into_iter().enumerate()
    {
        let Some(disk) = SmallDisk::mount(dir.path().join(format!("small{i}")), size) else { return };
        let options = options(&disk, &known, Duration::from_millis(ms));
        let summary = record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
        let case = format!("{size}, {ms} ms");
        let capture = assert_ended_in_order(&summary, &case);
        let lost = capture.manifest.accounts.iter().any(|a| a.lost.contains_key("write_failed"));
        with_losses += u32::from(lost);
        if size == "2M" {
            assert!(faults_of(&capture).len() > 1000, "{case}");
        }
    }
    assert!(with_losses > 0, "a full disk costs rows");
}

/// Lets a thread do something over and over for as long as this lives.
struct Meanwhile(std::sync::Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Meanwhile {
    fn repeat(mut what: impl FnMut() + Send + 'static) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                what();
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// A forked child holds every file of its parent until its exec: removing a file then frees nothing.
#[test]
fn children_that_inherit_the_files_of_a_capture_do_not_cost_its_manifest() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let Some(disk) = SmallDisk::mount(dir.path().join("small"), "600k") else { return };
    let _holders: Vec<Meanwhile> = (0..2)
        .map(|_| {
            Meanwhile::repeat(|| {
                let mut command = Command::new("true");
                let wait = || {
                    std::thread::sleep(Duration::from_millis(400));
                    Ok(())
                };
                // SAFETY: between fork and exec it only sleeps.
                let _ = unsafe { command.pre_exec(wait) }.status();
            })
        })
        .collect();
    let options = options(&disk, &known, Duration::from_millis(100));
    let summary = record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_ended_in_order(&summary, "with children");
}

/// Whoever filled the disk goes on writing and takes what is given back.
#[test]
fn a_log_that_takes_all_free_space_does_not_cost_the_manifest() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let Some(disk) = SmallDisk::mount(dir.path().join("small"), "1M") else { return };
    let options = options(&disk, &known, Duration::from_millis(100));
    let mut log = std::fs::File::create(disk.0.join("log")).unwrap();
    let rows = options.output.join("maps/000001.parquet");
    let _log = Meanwhile::repeat(move || {
        // Once the recording is under way: a disk that is full before is an error.
        if rows.exists() {
            let _ = log.write(&[b'x'; 4096]);
        }
        std::thread::sleep(Duration::from_micros(200));
    });
    let summary = record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_ended_in_order(&summary, "with a log");
}

#[test]
fn a_disk_without_room_for_a_manifest_is_an_error_and_leaves_nothing() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path().join("small"), "32k") else { return };
    let options = options(&disk, Path::new("/bin/true"), Duration::from_millis(100));
    let e = record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Output);
    assert!(e.to_string().contains("free some space"), "{e}");
    assert!(!options.output.exists());
}
