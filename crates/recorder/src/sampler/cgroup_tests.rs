#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use std::collections::BTreeMap;

fn mount(root: &str, at: &Path, fs_type: &str, options: &str) -> Mount {
    Mount {
        root: root.into(),
        mount_point: at.to_path_buf(),
        fs_type: fs_type.into(),
        super_options: options.split(',').map(str::to_owned).collect(),
    }
}

fn values(rows: &[Sample]) -> BTreeMap<&str, Option<u64>> {
    rows.iter().map(|r| (r.key.as_str(), r.value)).collect()
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).unwrap();
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
}

#[test]
fn hybrid_hierarchies_are_found() {
    let t = tempfile::tempdir().unwrap();
    let (v1, v2) = (t.path().join("memory"), t.path().join("unified"));
    fs::create_dir_all(v1.join("pod/app")).unwrap();
    fs::create_dir_all(v2.join("pod/app")).unwrap();
    let mounts = [
        mount("/", &t.path().join("cpu"), "cgroup", "rw,cpu"),
        mount("/", &v1, "cgroup", "rw,memory"),
        mount("/", &v2, "cgroup2", "rw"),
    ];
    let found = CgroupPaths::find(b"5:cpu:/\n4:memory:/pod/app\n0::/pod/app\n", &mounts);
    assert_eq!(found.v1_memory, Some(v1.join("pod/app")));
    assert_eq!(found.v2, Some(v2.join("pod/app")));
    assert_eq!(found.name.as_deref(), Some("/pod/app"));
    assert_eq!(found.memory_version(), Some(1));
}

#[test]
fn a_container_sees_its_own_group_as_the_root_of_the_mount() {
    let t = tempfile::tempdir().unwrap();
    fs::create_dir_all(t.path().join("child")).unwrap();
    let mounts = [mount("/docker/abc", t.path(), "cgroup2", "rw")];
    assert_eq!(CgroupPaths::find(b"0::/docker/abc\n", &mounts).v2.as_deref(), Some(t.path()));
    assert_eq!(CgroupPaths::find(b"0::/docker/abc/child\n", &mounts).v2, Some(t.path().join("child")));
    // Another container's, a longer name that only begins alike, and one outside the namespace.
    for other in ["0::/docker/xyz\n", "0::/docker/abcd\n", "0::/../other\n"] {
        assert_eq!(CgroupPaths::find(other.as_bytes(), &mounts).v2, None, "{other}");
    }
}

#[test]
fn v1_files_become_rows() {
    let t = tempfile::tempdir().unwrap();
    write(
        t.path(),
        &[
            ("memory.usage_in_bytes", "7000\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.limit_in_bytes", "8192\n"),
            ("memory.failcnt", "3\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            (
                "memory.stat",
                "cache 1\ntotal_inactive_file 4096\nhierarchical_memory_limit 8192\ntotal_pgmajfault 9\nnonsense\n",
            ),
        ],
    );
    let paths = CgroupPaths { v1_memory: Some(t.path().to_path_buf()), ..CgroupPaths::default() };
    let mut rows = Vec::new();
    counters(&paths, 5, &mut rows);
    stat(&paths, 5, &mut rows);
    let v = values(&rows);
    assert_eq!(v["memory.usage_in_bytes"], Some(7000));
    assert_eq!(v["memory.limit_in_bytes"], None, "no limit is null");
    assert_eq!(v["memory.memsw.limit_in_bytes"], Some(8192));
    assert_eq!(v["memory.failcnt"], Some(3));
    assert_eq!(v["memory.oom_control.oom_kill"], Some(2));
    assert_eq!(v["memory.stat.total_inactive_file_bytes"], Some(4096));
    assert_eq!(v["memory.stat.hierarchical_memory_limit_bytes"], Some(8192));
    assert_eq!(v["memory.stat.total_pgmajfault"], Some(9));
    assert!(!v.contains_key("memory.max_usage_in_bytes"), "absent is absent");
    assert!(rows.iter().all(|r| r.pid == Some(5) && r.source == SampleSource::CgroupMemory));
}

#[test]
fn v2_files_become_rows_and_limits_hold_from_above() {
    let t = tempfile::tempdir().unwrap();
    let (pod, app) = (t.path().join("pod"), t.path().join("pod/app"));
    write(t.path(), &[]);
    write(&pod, &[("memory.max", "4096\n"), ("memory.high", "max\n")]);
    write(
        &app,
        &[
            ("memory.current", "700\n"),
            ("memory.max", "max\n"),
            ("memory.high", "max\n"),
            ("memory.events", "low 0\nhigh 12\nmax 0\noom 0\noom_kill 1\n"),
            ("memory.stat", "anon 10\npgmajfault 9\nworkingset_refault_file 4\nzswap 1\n"),
        ],
    );
    let paths = CgroupPaths::find(b"0::/pod/app\n", &[mount("/", t.path(), "cgroup2", "rw")]);
    assert_eq!(paths.memory_version(), Some(2));
    let mut rows = Vec::new();
    counters(&paths, 5, &mut rows);
    stat(&paths, 5, &mut rows);
    let v = values(&rows);
    assert_eq!(v["memory.current_bytes"], Some(700));
    assert_eq!(v["memory.max_bytes"], None);
    assert_eq!(v["memory.events.high"], Some(12));
    assert_eq!(v["memory.stat.anon_bytes"], Some(10));
    assert_eq!(v["memory.stat.workingset_refault_file"], Some(4));
    assert_eq!(v["memory.max.hierarchical_bytes"], Some(4096));
    assert_eq!(v["memory.high.hierarchical_bytes"], None);
    assert!(!v.contains_key("memory.swap.current_bytes"), "absent is absent");
    assert!(!v.contains_key("memory.stat.zswap"));
}

#[test]
fn a_v2_hierarchy_without_the_controller_has_no_memory() {
    let t = tempfile::tempdir().unwrap();
    write(t.path(), &[("cpu.stat", "")]);
    let paths = CgroupPaths::find(b"0::/\n", &[mount("/", t.path(), "cgroup2", "rw")]);
    assert_eq!(paths.memory_version(), None);
    let mut rows = Vec::new();
    counters(&paths, 5, &mut rows);
    stat(&paths, 5, &mut rows);
    assert_eq!(rows, []);
}

/// On a real v1 memory controller: a group of its own with a limit, and a process in it.
#[test]
fn a_real_group_reports_its_limit_and_usage() {
    let own = CgroupPaths::of(std::process::id());
    let Some(parent) = own.v1_memory else {
        eprintln!("skipped: no cgroup v1 memory controller here");
        return;
    };
    let dir = parent.join(format!("sampler-test-{}", std::process::id()));
    if let Err(e) = fs::create_dir(&dir) {
        eprintln!("skipped: cannot make a cgroup ({e})");
        return;
    }
    fs::write(dir.join("memory.limit_in_bytes"), "64M").unwrap();
    let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    let paths = CgroupPaths::of(child.id());
    let mut rows = Vec::new();
    counters(&paths, child.id(), &mut rows);
    stat(&paths, child.id(), &mut rows);
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel lets go of a group a moment after its last process.
    while fs::remove_dir(&dir).is_err() && dir.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(paths.v1_memory, Some(dir));
    let v = values(&rows);
    assert_eq!(v["memory.limit_in_bytes"], Some(64 << 20));
    assert_eq!(v["memory.stat.hierarchical_memory_limit_bytes"], Some(64 << 20));
    assert!(v["memory.usage_in_bytes"].is_some());
    assert_eq!(v["memory.failcnt"], Some(0));
}
