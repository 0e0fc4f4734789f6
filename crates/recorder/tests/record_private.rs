//! A capture is for the user who recorded it: what it says of a process is not for everybody on the host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtrace_recorder::{ErrorKind, FaultMode, Options, TargetSpec, record};
use record_support::{bpf_works, compile};

/// Everything below a directory, itself included, with its mode.
fn modes(dir: &Path, into: &mut BTreeSet<(PathBuf, u32)>) {
    let Ok(meta) = std::fs::symlink_metadata(dir) else { return };
    into.insert((dir.to_path_buf(), meta.permissions().mode()));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        modes(&entry.path(), into);
    }
}

#[test]
fn a_capture_is_private_while_it_is_written_and_afterwards() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    let output = dir.path().join("private.mtrace");
    let mut options = Options::new(TargetSpec::Launch { argv: vec![known.into(), "loop".into()] }, output.clone());
    options.duration = Some(Duration::from_millis(1200));
    // So that segments are open, and on disk, when it is looked at.
    options.faults = FaultMode::Every;
    // Nothing may depend on it.
    // SAFETY: a number; the other test of this file creates nothing that it matters to.
    unsafe { libc::umask(0) };
    let mut seen = BTreeSet::new();
    record(&options, &AtomicBool::new(false), &mut |_| modes(&output, &mut seen)).unwrap();
    modes(&output, &mut seen);
    for (path, mode) in &seen {
        let expected = if mode & 0o170_000 == 0o040_000 { 0o700 } else { 0o600 };
        assert_eq!(mode & 0o7777, expected, "{}", path.display());
    }
    let ends = |suffix: &str| seen.iter().any(|(p, _)| p.to_string_lossy().ends_with(suffix));
    for kind in ["manifest.json", "reserve.tmp", ".parquet", ".parquet.tmp"] {
        assert!(ends(kind), "none was seen: {kind} in {seen:?}");
    }
}

#[test]
fn a_link_that_somebody_else_planted_is_not_followed() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (shared, victim) = (dir.path().join("shared"), dir.path().join("victim"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::create_dir(&victim).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let try_it = |output: PathBuf| {
        let argv = vec!["/bin/true".into()];
        let options = Options::new(TargetSpec::Launch { argv }, output);
        record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap_err()
    };

    symlink(&victim, shared.join("folder")).unwrap();
    if lchown(shared.join("folder"), Some(12345), Some(12345)).is_err() {
        eprintln!("skipped: only root can give a link away");
        return;
    }
    assert_eq!(try_it(shared.join("folder/x.mtrace")).kind(), ErrorKind::Output);
    // In the place of the capture itself, leading to a directory or to nothing.
    for to in [victim.clone(), dir.path().join("absent")] {
        symlink(&to, shared.join("x.mtrace")).unwrap();
        assert_eq!(try_it(shared.join("x.mtrace")).kind(), ErrorKind::Output);
        assert!(std::fs::symlink_metadata(shared.join("x.mtrace")).unwrap().is_symlink());
        std::fs::remove_file(shared.join("x.mtrace")).unwrap();
        assert!(!dir.path().join("absent").exists());
    }
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
}
