//! A capture written, damaged in the ways in which captures are damaged, and read again.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use mtrace_formats::Error;
use mtrace_formats::capture::{Capture, CaptureWriter, MANIFEST_FILE, Manifest, SCHEMA, State, pack};
use mtrace_formats::table::Row as _;
use mtrace_formats::tables::{Fault, FaultKind, GcEvent, GcEventKind};

fn fault(i: u64) -> Fault {
    Fault {
        ts: 1_000_000 + 1_900 * i as i64,
        dur: (!i.is_multiple_of(7)).then_some(800 + (i % 300) as i64),
        pid: 42,
        tid: 43,
        addr: 0xc0_0000_0000 + i * 4096,
        ip: 0x47_1234,
        error_code: (!i.is_multiple_of(7)).then_some(6),
        kind: if i.is_multiple_of(100) { FaultKind::Major } else { FaultKind::Minor },
        stack_id: (!i.is_multiple_of(50)).then_some(7),
        weight: Some(1),
    }
}

/// Two segments of faults (1,000 and 500 rows) and one of GC events.
fn write(dir: &Path) -> PathBuf {
    let path = dir.join("a.mtrace");
    let mut manifest = Manifest { state: State::Complete, ..Manifest::default() };
    let mut w = CaptureWriter::create(&path).unwrap();
    for i in 0..1_000 {
        w.push(fault(i)).unwrap();
    }
    w.push(GcEvent { ts: 1, pid: 42, tid: 43, event: GcEventKind::StopTheWorld, reason: Some(2) }).unwrap();
    w.roll(&mut manifest).unwrap();
    for i in 1_000..1_500 {
        w.push(fault(i)).unwrap();
    }
    w.roll(&mut manifest).unwrap();
    assert_eq!(w.rows_written()[Fault::NAME], 1_500);
    path
}

#[test]
fn rows_survive_the_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::open(&write(dir.path())).unwrap();
    assert_eq!(capture.problems, Vec::<String>::new());
    let (rows, skipped) = capture.read::<Fault>();
    assert!(skipped.is_empty());
    assert_eq!(rows, (0..1_500).map(fault).collect::<Vec<_>>());
    assert_eq!(capture.read::<GcEvent>().0[0].reason, Some(2));
}

#[test]
fn a_packed_capture_reads_the_same_and_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::open(&write(dir.path())).unwrap();
    let out = dir.path().join("a.pack");
    pack(&capture, &out).unwrap();
    let packed = Capture::open(&out).unwrap();
    assert_eq!(packed.manifest, capture.manifest);
    assert_eq!(packed.read::<Fault>(), capture.read::<Fault>());
    assert!(matches!(pack(&capture, &out), Err(Error::Exists { .. })));
}

#[test]
#[cfg(unix)]
fn a_pack_is_private_and_follows_no_link() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::open(&write(dir.path())).unwrap();
    let out = dir.path().join("a.pack");
    pack(&capture, &out).unwrap();
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the capture and the pack");

    // A link in the place of the output, or of the file that is written first.
    let victim = dir.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    let tmp = format!("link.pack.{}.tmp", std::process::id());
    for name in ["link.pack", &tmp] {
        let link = dir.path().join(name);
        for to in [&victim, &dir.path().join("absent")] {
            std::os::unix::fs::symlink(to, &link).unwrap();
            assert!(pack(&capture, &dir.path().join("link.pack")).is_err(), "{name}");
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{name}: it is not ours to remove");
            assert!(!dir.path().join("absent").exists());
            fs::remove_file(&link).unwrap();
        }
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
}

#[test]
fn a_pack_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path());
    let capture = Capture::open(&path).unwrap();
    fs::remove_file(path.join("gc_events/000001.parquet")).unwrap();
    pack(&capture, &dir.path().join("a.pack")).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the capture alone");
}

#[test]
fn every_truncation_of_a_pack_keeps_what_is_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.pack");
    pack(&Capture::open(&write(dir.path())).unwrap(), &out).unwrap();
    let whole = fs::read(&out).unwrap();
    let cut = dir.path().join("cut.pack");
    let mut best = 0;
    for len in (0..whole.len()).step_by(97) {
        fs::write(&cut, &whole[..len]).unwrap();
        if let Ok(c) = Capture::open(&cut) {
            let rows = c.read::<Fault>().0.len();
            assert!(rows >= best, "{len}: {rows} rows after {best}");
            assert!(rows == 1_500 || !c.problems.is_empty() || !c.missing_segments().is_empty());
            best = best.max(rows);
        }
    }
    assert_eq!(best, 1_500);
}

#[test]
fn a_cut_segment_is_skipped_with_its_rows_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path());
    let segment = path.join("faults/000001.parquet");
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() / 2]).unwrap();
    let (rows, skipped) = Capture::open(&path).unwrap().read::<Fault>();
    assert_eq!(rows.len(), 500);
    assert_eq!((skipped[0].segment.as_str(), skipped[0].rows), ("faults/000001.parquet", Some(1_000)));
}

#[test]
fn flipped_bytes_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path());
    let segment = path.join("faults/000002.parquet");
    let bytes = fs::read(&segment).unwrap();
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 0x5a;
        fs::write(&segment, &bad).unwrap();
        let (rows, skipped) = Capture::open(&path).unwrap().read::<Fault>();
        assert!(rows.len() >= 1_000, "byte {i}: {skipped:?}");
    }
}

#[test]
fn missing_unfinished_and_unlisted_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path());
    fs::rename(path.join("faults/000002.parquet"), path.join("faults/000003.parquet")).unwrap();
    fs::write(path.join("faults/000004.parquet.tmp"), b"PAR1").unwrap();
    let capture = Capture::open(&path).unwrap();
    assert_eq!(capture.missing_segments()[0].segment, "faults/000002.parquet");
    assert!(capture.problems[0].contains("000004.parquet.tmp"));
    assert_eq!(capture.read::<Fault>().0.len(), 1_500);
}

#[test]
fn manifests_that_lie() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path());
    let manifest = path.join(MANIFEST_FILE);
    let text = fs::read_to_string(&manifest).unwrap();

    let (major, minor) = (format!("\"major\": {}", SCHEMA.major), format!("\"minor\": {}", SCHEMA.minor));
    fs::write(&manifest, text.replace(&major, "\"major\": 999")).unwrap();
    let e = Capture::open(&path).unwrap_err();
    assert!(matches!(e, Error::Version { .. }) && e.to_string().contains("newer mtrace"), "{e}");

    fs::write(&manifest, text.replace(&minor, "\"minor\": 77, \"news\": [1]")).unwrap();
    assert!(Capture::open(&path).is_ok(), "a newer minor version is readable");

    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    let capture = Capture::open(&path).unwrap();
    assert!(capture.problems[0].contains("damaged"), "{:?}", capture.problems);
    assert_eq!(capture.read::<Fault>().0.len(), 1_500);

    fs::remove_file(&manifest).unwrap();
    assert_eq!(Capture::open(&path).unwrap().read::<Fault>().0.len(), 1_500);
}

#[test]
fn a_capture_begins_with_a_manifest_and_never_takes_the_place_of_something() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mtrace");
    let manifest = Manifest { mtrace_version: "first".to_owned(), ..Manifest::default() };
    let mut w = CaptureWriter::create_with(&path, &manifest).unwrap();
    let capture = Capture::open(&path).unwrap();
    assert_eq!(capture.manifest, manifest);
    assert!(capture.problems[0].contains("did not come to its end"), "{:?}", capture.problems);
    w.push(fault(1)).unwrap();
    w.roll(&mut Manifest::default()).unwrap();
    assert_eq!(Capture::open(&path).unwrap().read::<Fault>().0, vec![fault(1)]);

    assert!(matches!(CaptureWriter::create_with(&path, &manifest), Err(Error::Exists { .. })));
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(matches!(CaptureWriter::create_with(&file, &manifest), Err(Error::Exists { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert!(CaptureWriter::create_with(&dir.path().join("absent/a.mtrace"), &manifest).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn what_is_no_capture_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Capture::open(dir.path()), Err(Error::NotACapture { .. })));
    assert!(matches!(Capture::open(&dir.path().join("absent")), Err(Error::Io { .. })));
    let file = dir.path().join("file");
    fs::write(&file, vec![0_u8; 4096]).unwrap();
    assert!(matches!(Capture::open(&file), Err(Error::NotACapture { .. })));
    assert!(matches!(CaptureWriter::create(dir.path()), Err(Error::Exists { .. })));
}

#[test]
#[cfg(unix)]
fn a_full_disk_costs_the_open_segment_only() {
    // /dev/full answers every write with ENOSPC: the writer's file is replaced by a link to it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.mtrace");
    let mut manifest = Manifest::default();
    let mut w = CaptureWriter::create(&path).unwrap();
    w.push(fault(1)).unwrap();
    w.roll(&mut manifest).unwrap();
    std::os::unix::fs::symlink("/dev/full", path.join("faults/000002.parquet.tmp")).unwrap();
    w.push(fault(2)).unwrap();
    let e = w.roll(&mut manifest).unwrap_err();
    assert!(e.is_disk_full() && e.to_string().contains("free some space"), "{e}");
    assert_eq!((w.rows_written()[Fault::NAME], w.rows_failed()[Fault::NAME]), (1, 1));
    assert_eq!(Capture::open(&path).unwrap().read::<Fault>().0, vec![fault(1)]);
}

#[test]
fn schema_md_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../SCHEMA.md");
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        committed,
        mtrace_formats::schema_markdown(),
        "SCHEMA.md is stale: cargo run -p mtrace -- schema > SCHEMA.md"
    );
}
