#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use std::process::Command;

fn said(program: &str, args: &[&str]) -> String {
    String::from_utf8(Command::new(program).args(args).output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn facts_agree_with_other_programs() {
    let f = HostFacts::gather();
    assert_eq!(f.host.kernel_release, said("uname", &["-r"]));
    assert_eq!(f.host.arch, said("uname", &["-m"]));
    assert_eq!(f.host.cpus.unwrap().to_string(), said("getconf", &["_NPROCESSORS_ONLN"]));
    assert_eq!(f.host.page_size_bytes.unwrap().to_string(), said("getconf", &["PAGESIZE"]));
    assert_eq!(f.uid.to_string(), said("id", &["-u"]));
    assert!(f.host.memory_bytes.unwrap() > 16 << 20);
    assert!(f.host.max_map_count.unwrap() > 0);
    assert_eq!(f.host.btf, Some(Path::new("/sys/kernel/btf/vmlinux").exists()));
    // A mount is named only if it is one.
    assert!(f.tracefs.is_none_or(|p| p.join("events").is_dir()));
}

#[test]
fn system_calls_are_really_tried() {
    let f = HostFacts::gather();
    if f.has(Capability::SysAdmin) != Some(true) {
        eprintln!("skipped: needs CAP_SYS_ADMIN; bpf(2) said {:?}", f.bpf_map);
        assert!(!f.bpf_map.works() || f.has(Capability::Bpf) == Some(true) || f.unprivileged_bpf_disabled == Some(0));
        return;
    }
    eprintln!("bpf map {:?}, ring buffer {:?}, perf event {:?}", f.bpf_map, f.bpf_ringbuf, f.perf_event);
    // EINVAL would mean that the attributes are laid out wrongly; a refusal is EPERM or ENOSYS.
    for trial in [f.bpf_map, f.bpf_ringbuf, f.perf_event] {
        assert!(
            trial.works() || matches!(trial, SyscallTrial::Fails(libc::EPERM | libc::EACCES | libc::ENOSYS)),
            "{trial:?}"
        );
    }
    // The trial tells a refusal from a success.
    assert_eq!(try_map(0xffff, 4, 4, 1), SyscallTrial::Fails(libc::EINVAL));
}

#[test]
fn trials_leave_no_descriptor_open() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests open files meanwhile: a leak would show as many times this.
    let before = count();
    for _ in 0..100 {
        try_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1);
        try_perf_event();
    }
    assert!(count() < before + 100);
}

#[test]
fn the_clocks_are_read_together() {
    let pair = clock_pair();
    let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    assert!((0..5_000_000_000).contains(&(system - pair.realtime_ns)), "{pair:?}");
    assert!((0..5_000_000_000).contains(&(monotonic_ns() - pair.monotonic_ns)), "{pair:?}");
    assert!((0..1_000_000).contains(&pair.error_ns), "{pair:?}");
    assert!(monotonic_ns() <= monotonic_ns());
}

#[test]
fn the_chosen_word_stands_in_brackets() {
    assert_eq!(bracketed("always [madvise] never\n").as_deref(), Some("madvise"));
    assert_eq!(bracketed("none [integrity] confidentiality").as_deref(), Some("integrity"));
    assert_eq!(bracketed("always madvise"), None);
    assert_eq!(bracketed("[open"), None);
}
