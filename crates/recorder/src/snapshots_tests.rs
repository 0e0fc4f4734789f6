#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use std::fs;
use std::path::Path;

use procfs_core::FromRead as _;
use procfs_core::process::{MMapPath, MemoryMaps};

const STAMP: Stamp = Stamp { ts: 1, ts_end: 2, reason: SnapshotReason::Attach, pid: 7 };

fn one(line: &str) -> MapRow {
    let mut rows = parse(line.as_bytes(), STAMP);
    assert_eq!(rows.len(), 1, "{line}");
    rows.remove(0)
}

/// `corpus` is kept beside the checkout and not in it.
fn corpus(name: &str) -> Option<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/procfs");
    let found = fs::read(dir.join(name)).ok();
    if found.is_none() {
        eprintln!("skipped: corpus absent ({})", dir.join(name).display());
    }
    found
}

fn agrees(text: &[u8]) -> usize {
    let rows = parse(text, STAMP);
    let maps = MemoryMaps::from_read(text).unwrap();
    assert_eq!(rows.len(), maps.len());
    for (row, map) in rows.iter().zip(&maps) {
        assert_eq!((row.start_addr, row.end_addr), map.address);
        assert_eq!((row.offset_bytes, row.inode), (map.offset, map.inode));
        assert_eq!(row.dev, libc::makedev(map.dev.0 as u32, map.dev.1 as u32));
        let perms: String = row.perms.chars().collect();
        assert_eq!(perms, map.perms.as_str());
        match &map.pathname {
            MMapPath::Path(p) => assert_eq!(row.path.as_deref(), p.to_str()),
            MMapPath::Anonymous => assert_eq!(row.path, None),
            MMapPath::Heap => assert_eq!(row.path.as_deref(), Some("[heap]")),
            MMapPath::Stack => assert_eq!(row.path.as_deref(), Some("[stack]")),
            _ => assert!(row.path.is_some()),
        }
    }
    rows.len()
}

#[test]
fn agrees_with_procfs_core_on_a_large_real_file() {
    let Some(text) = corpus("proc-maps-large") else { return };
    // 7,066 lines by wc -l.
    assert_eq!(agrees(&text), 7066);
}

#[test]
fn agrees_with_procfs_core_on_this_process() {
    let text = fs::read("/proc/self/maps").unwrap();
    assert!(agrees(&text) > 10);
}

#[test]
fn a_live_snapshot_brackets_its_time_and_shows_this_program() {
    let before = monotonic_ns();
    let rows = take(std::process::id(), SnapshotReason::Attach).unwrap();
    let after = monotonic_ns();
    assert!(rows.iter().all(|r| before <= r.ts && r.ts < r.ts_end && r.ts_end <= after));
    let exe = fs::read_link("/proc/self/exe").unwrap();
    let here = a_live_snapshot_brackets_its_time_and_shows_this_program as *const () as u64;
    let mappings = executable_mappings(&rows);
    let own = mappings.iter().find(|m| m.start_addr <= here && here < m.end_addr).unwrap();
    assert_eq!((&own.path, own.deleted), (&exe, false));
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(&exe).unwrap();
    assert_eq!((own.inode, own.dev), (meta.ino(), meta.dev()));
    assert!(mappings.iter().any(|m| m.path == Path::new("[vdso]")));
    if nix::unistd::geteuid().is_root() {
        assert_eq!(fs::read_link(own.live_path(std::process::id())).unwrap(), exe);
    } else {
        eprintln!("skipped: map_files needs root");
    }
    assert!(own.path_in_root(std::process::id()).exists());
}

#[test]
fn odd_names_survive() {
    let base = "7f00-8f00 r-xp 0000a000 08:01 42";
    assert_eq!(one("7f00-8f00 rw-p 00000000 00:00 0 ").path, None);
    // A pasted file has lost its trailing blanks.
    assert_eq!(one("7f00-8f00 rw-p 00000000 00:00 0").path, None);
    assert_eq!(one(&format!("{base}    /a b  c (deleted)")).path.as_deref(), Some("/a b  c (deleted)"));
    assert_eq!(one(&format!("{base}    /ends in blank ")).path.as_deref(), Some("/ends in blank "));
    assert_eq!(one(&format!("{base}    [anon: Go: heap]")).path.as_deref(), Some("[anon: Go: heap]"));
    assert_eq!(one(base).dev, 0x801);
    let row = parse(b"1000-2000 r-xp 00000000 08:01 42  /caf\xe9", STAMP).remove(0);
    assert_eq!(row.path.as_deref(), Some("/caf\u{fffd}"));
}

#[test]
fn executable_files_lose_their_marks_and_keep_their_newlines() {
    let text = b"1000-2000 r-xp 0000a000 08:01 42  /new\\012line (deleted)\n\
        3000-4000 r--p 00000000 08:01 42  /data\n\
        5000-6000 rwxp 00000000 00:00 0 \n\
        7000-8000 r-xp 00000000 00:00 0  [vdso]\n";
    let found = executable_mappings(&parse(text, STAMP));
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].path.as_path(), found[0].deleted), (Path::new("/new\nline"), true));
    assert_eq!(found[0].offset_bytes, 0xa000);
    assert_eq!(found[1].path, Path::new("[vdso]"));
}

#[test]
fn a_deleted_program_still_has_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy of sleep\nin two lines");
    fs::copy("/bin/sleep", &copy).unwrap();
    let mut child = std::process::Command::new(&copy).arg("20").spawn().unwrap();
    fs::remove_file(&copy).unwrap();
    // spawn() returns inside the child's exec, when its address space is still being filled.
    let mapping = loop {
        let rows = take(child.id(), SnapshotReason::Attach).unwrap_or_default();
        if let Some(m) = executable_mappings(&rows).into_iter().find(|m| m.path == copy) {
            break m;
        }
        assert!(child.try_wait().unwrap().is_none(), "sleep ended: {rows:?}");
    };
    assert!(mapping.deleted);
    if nix::unistd::geteuid().is_root() {
        let live = fs::read(mapping.live_path(child.id())).unwrap();
        assert_eq!(live, fs::read("/bin/sleep").unwrap());
    } else {
        eprintln!("skipped: map_files needs root");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_has_no_address_space_has_no_snapshot() {
    assert_eq!(take(u32::MAX, SnapshotReason::End), None);
    assert_eq!(take_stopped(u32::MAX), None);
    // kthreadd, where this pid namespace shows it.
    if fs::read_to_string("/proc/2/comm").is_ok_and(|c| c == "kthreadd\n") {
        assert_eq!(take(2, SnapshotReason::Attach), None);
    } else {
        eprintln!("skipped: no kernel threads in this pid namespace");
    }
    let mut zombie = std::process::Command::new("true").spawn().unwrap();
    while crate::sampler::read_stat(zombie.id()).is_some_and(|s| s.state != 'Z') {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(take(zombie.id(), SnapshotReason::End), None);
    zombie.wait().unwrap();
}

#[test]
fn nonsense_is_left_out() {
    for bad in ["", "x", "1-2", "zz-yy r--p 0 0:0 0 /x", "1000-2000 r--p 0 0801 0 /x", "1000-2000 r--p 0 8:1 inode"] {
        assert_eq!(parse(bad.as_bytes(), STAMP), [], "{bad}");
    }
}
