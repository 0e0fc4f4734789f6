#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use crate::host::{Capability, SyscallTrial};
use std::collections::BTreeSet;
use std::path::Path;

/// A host on which everything is as it should be.
fn good() -> HostFacts {
    HostFacts {
        capabilities: Some(u64::MAX),
        uid: 0,
        tracefs: Some("/sys/kernel/tracing".into()),
        tracefs_known: Some(true),
        unprivileged_bpf_disabled: Some(2),
        perf_event_paranoid: Some(2),
        kptr_restrict: Some(1),
        ptrace_scope: Some(1),
        bpf_stats_enabled: Some(false),
        memlock_limit_bytes: Some(Some(8 << 20)),
        bpf_map: SyscallTrial::Works,
        bpf_ringbuf: SyscallTrial::Works,
        perf_event: SyscallTrial::Works,
        psi: true,
        smaps_rollup: true,
        initial_pid_namespace: Some(true),
        host: mtrace_formats::capture::Host {
            kernel_release: "6.12.9-amd64".into(),
            arch: "x86_64".into(),
            cgroup_version: Some(2),
            lockdown: Some("integrity".into()),
            btf: Some(true),
            ..Default::default()
        },
        cgroup: Default::default(),
    }
}

/// Name and status of what is not ok after `change`.
fn complaints(change: impl FnOnce(&mut HostFacts)) -> Vec<(String, CheckStatus)> {
    let mut facts = good();
    change(&mut facts);
    let bad = diagnose(&facts).into_iter().filter(|c| c.status != CheckStatus::Ok);
    bad.map(|c| {
        assert!(c.fix.is_some_and(|f| !f.is_empty()), "{} has no fix", c.name);
        (c.name, c.status)
    })
    .collect()
}

fn one(name: &str, status: CheckStatus) -> Vec<(String, CheckStatus)> {
    vec![(name.to_owned(), status)]
}

#[test]
fn a_good_host_has_no_complaints() {
    assert_eq!(complaints(|_| {}), []);
    assert_eq!(worst(&diagnose(&good())), CheckStatus::Ok);
}

#[test]
fn each_fact_has_its_own_complaint() {
    use CheckStatus::{Degraded, Missing};
    assert_eq!(complaints(|f| f.host.kernel_release = "5.10.0".into()).first(), one("kernel", Degraded).first());
    assert_eq!(complaints(|f| f.host.kernel_release = "5.4.0-generic".into())[0], ("kernel".into(), Missing));
    assert_eq!(complaints(|f| f.host.arch = "riscv64".into()), one("architecture", Missing));
    assert_eq!(complaints(|f| f.host.arch = "aarch64".into()), []);
    let old_arm = complaints(|f| (f.host.arch, f.host.kernel_release) = ("aarch64".into(), "6.1.0-56-arm64".into()));
    assert_eq!(old_arm, one("architecture", Degraded));
    assert_eq!(complaints(|f| f.host.lockdown = Some("confidentiality".into())), one("lockdown", Missing));
    assert_eq!(complaints(|f| f.initial_pid_namespace = Some(false)), one("pid namespace", Missing));
    assert_eq!(complaints(|f| f.perf_event = SyscallTrial::Fails(libc::EACCES)), one("perf events", Degraded));
    assert_eq!(complaints(|f| f.kptr_restrict = Some(2)), one("kernel symbols", Degraded));
    assert_eq!(complaints(|f| f.host.cgroup_version = None), one("memory cgroup", Degraded));
    assert_eq!(complaints(|f| f.psi = false), one("PSI", Degraded));
    assert_eq!(complaints(|f| f.smaps_rollup = false), one("smaps_rollup", Degraded));
    assert_eq!(complaints(|f| f.ptrace_scope = Some(3)), one("ptrace", Degraded));
    assert_eq!(complaints(|f| f.ptrace_scope = None), []);
    assert_eq!(complaints(|f| f.tracefs = None), [], "BTF does without it");
    let neither = complaints(|f| {
        f.tracefs = None;
        f.host.btf = Some(false);
    });
    assert_eq!(neither, [one("BTF", Missing), one("tracefs", Degraded)].concat());
}

#[test]
fn privileges_are_judged_by_capability_and_not_by_uid() {
    let bit = |c: Capability| 1u64 << c as u8;
    let with = |caps: u64| {
        complaints(|f| {
            f.uid = 1000;
            f.capabilities = Some(caps);
        })
    };
    let fine =
        bit(Capability::Bpf) | bit(Capability::Perfmon) | bit(Capability::SysPtrace) | bit(Capability::DacReadSearch);
    assert_eq!(with(fine | bit(Capability::Syslog)), []);
    assert_eq!(
        with(bit(Capability::Bpf) | bit(Capability::Perfmon) | bit(Capability::Syslog)),
        one("privileges", CheckStatus::Degraded)
    );
    assert_eq!(with(0)[0], ("privileges".to_owned(), CheckStatus::Missing));
}

#[test]
fn a_refused_bpf_names_the_likely_refuser() {
    let fix = |caps| {
        let mut f = good();
        f.capabilities = Some(caps);
        f.bpf_map = SyscallTrial::Fails(libc::EPERM);
        f.bpf_ringbuf = SyscallTrial::Fails(libc::EPERM);
        let check = diagnose(&f).into_iter().find(|c| c.name == "bpf(2)").unwrap();
        assert_eq!(check.status, CheckStatus::Missing);
        assert!(check.found.contains("EPERM"), "{}", check.found);
        check.fix.unwrap()
    };
    assert!(fix(u64::MAX).contains("seccomp"));
    assert!(fix(0).contains("sudo"));
}

#[test]
fn locked_memory_matters_before_5_11_only() {
    let old = |limit, caps| {
        complaints(|f| {
            f.host.kernel_release = "5.8.0".into();
            f.memlock_limit_bytes = Some(limit);
            f.capabilities = Some(caps);
        })
    };
    let without = !(1 << Capability::SysResource as u8);
    let named = |c: Vec<(String, CheckStatus)>| c.iter().any(|c| c.0 == "locked memory");
    assert!(named(old(Some(64 << 10), without)));
    assert!(!named(old(Some(64 << 10), u64::MAX)));
    assert!(!named(old(None, without)));
    assert_eq!(complaints(|f| f.memlock_limit_bytes = Some(Some(0))), []);
}

#[test]
fn names_are_unique_and_texts_are_one_line() {
    let checks = diagnose(&good());
    let names: BTreeSet<_> = checks.iter().map(|c| c.name.clone()).collect();
    assert_eq!(names.len(), checks.len());
    for c in &checks {
        assert!(
            !c.found.is_empty() && !c.means.is_empty() && !format!("{}{}", c.found, c.means).contains('\n'),
            "{c:?}"
        );
    }
}

#[test]
fn this_host_is_judged() {
    let facts = HostFacts::gather();
    for c in diagnose(&facts) {
        eprintln!(
            "{:9} {:16} {}: {}{}",
            c.status,
            c.name,
            c.found,
            c.means,
            c.fix.map_or(String::new(), |f| format!("; {f}"))
        );
    }
    let checks = diagnose(&facts);
    let bpf = checks.iter().find(|c| c.name == "bpf(2)").unwrap();
    assert_eq!(bpf.status == CheckStatus::Ok, facts.bpf_map.works());
}

#[test]
fn a_probe_that_did_not_load_says_what_it_hides() {
    let mut report = ProbeReport {
        name: "faults".into(),
        status: ProbeStatus::Absent,
        variant: None,
        reason: Some("load with BTF".into()),
        hides: Some("page faults".into()),
    };
    let check = Check::of_probe(&report);
    assert_eq!((check.status, check.fix.as_deref()), (CheckStatus::Degraded, Some("load with BTF")));
    assert!(check.means.contains("page faults"));
    report.status = ProbeStatus::Ran;
    report.variant = Some("tp_btf".into());
    let check = Check::of_probe(&report);
    assert_eq!((check.status, check.found.as_str(), check.fix), (CheckStatus::Ok, "tp_btf", None));
}

#[test]
fn the_output_is_judged_at_its_nearest_folder() {
    let t = tempfile::tempdir().unwrap();
    let check = check_output(&t.path().join("not/yet/there.mtrace"));
    assert!(check.found.contains(t.path().to_str().unwrap()), "{check:?}");
    assert_ne!(check.status, CheckStatus::Missing);
    assert_ne!(check_output(Path::new("name.mtrace")).status, CheckStatus::Missing);
    // Root may write everywhere, and yet there is no room.
    assert_eq!(check_output(Path::new("/proc/x.mtrace")).status, CheckStatus::Missing);
    assert!(free_bytes(t.path()).unwrap() > 0);
    assert_eq!(free_bytes(&t.path().join("absent")), None);
}
