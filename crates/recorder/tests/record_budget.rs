//! Sampling and the budget: what is left out is known, and counts stay exact.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use mtrace_formats::tables::{Fault, FaultCount, FaultCountAt, Fidelity, FidelityStep};
use mtrace_recorder::FaultMode;
use record_support::{Recording, bpf_works, compile, record_command};

/// The readings of the launched process at its exec and at its exit.
fn begin_and_exit(r: &Recording) -> (FaultCount, FaultCount) {
    let pid = r.capture.manifest.targets[0].pid;
    let rows: Vec<FaultCount> = r.rows::<FaultCount>().into_iter().filter(|c| c.pid == pid).collect();
    let at = |at| rows.iter().find(|c| c.at == at).cloned().expect("a reading");
    (at(FaultCountAt::Begin), at(FaultCountAt::Exit))
}

fn assert_counts_are_rusages(r: &Recording) {
    let target = &r.capture.manifest.targets[0];
    let (begin, exit) = begin_and_exit(r);
    assert_eq!((Some(exit.minor), Some(exit.major)), (target.rusage_minor_faults, target.rusage_major_faults));
    assert!(begin.minor < exit.minor);
}

#[test]
fn a_sample_is_unbiased_and_the_kernels_counts_are_exact() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let known = compile("known.c", dir.path());
    for (mode, weight) in [(FaultMode::Runs, 16), (FaultMode::Every, 4)] {
        let r = record_command(&known, &["faults", "40000"], |o| (o.faults, o.fault_weight) = (mode, weight));
        r.assert_nothing_lost();
        assert_counts_are_rusages(&r);
        let said = &r.said[0];
        let n = |key: &str| said[key].as_u64().unwrap();
        let faults = r.faults();
        assert!(faults.iter().all(|f| f.weight == Some(weight)));
        let (a, b) = (n("a")..n("a") + n("pages") * 4096, n("b")..n("b") + n("pages") * 4096);
        for region in [a, b] {
            let chosen = faults.iter().filter(|f: &&Fault| region.contains(&f.addr)).count() as f64;
            let (estimate, w) = (chosen * f64::from(weight), f64::from(weight));
            // Each fault is chosen with probability 1/w: the estimate's deviation is √(n·(w−1)).
            let deviation = (n("pages") as f64 * (w - 1.0)).sqrt();
            let off = (estimate - n("pages") as f64) / deviation;
            assert!(off.abs() < 5.0, "{estimate} of {}: {off} standard deviations", n("pages"));
        }
        let rows = r.rows::<Fidelity>();
        assert_eq!(
            rows.iter().map(|f| (f.step, f.weight)).collect::<Vec<_>>(),
            [(FidelityStep::Sampled, Some(weight))]
        );
    }
}

#[test]
fn a_budget_that_is_too_small_for_the_faults_leaves_them_to_the_kernels_counters() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let faultloop = compile("faultloop.c", dir.path());
    let r = record_command(&faultloop, &["64", "60"], |o| o.budget = Some(0.001));
    r.assert_nothing_lost();
    assert_counts_are_rusages(&r);
    let mut rows = r.rows::<Fidelity>();
    rows.sort_by_key(|f| f.ts);
    let steps: Vec<FidelityStep> = rows.iter().map(|f| f.step).collect();
    assert_eq!((steps[0], steps[1]), (FidelityStep::Full, FidelityStep::Counted), "{rows:?}");
    assert!(rows[0].added_ns > rows[0].allowed_ns, "{rows:?}");
    // The intervals follow each other: at no time it is unknown how faults were recorded.
    for pair in rows.windows(2) {
        let gap = pair[1].ts - (pair[0].ts + pair[0].dur);
        assert!((-1_000_000..1_000_000).contains(&gap), "{rows:?}");
    }
    // Of what was only counted nothing is recorded: everything lies in the other intervals, and changing takes a moment.
    let counted: Vec<&Fidelity> = rows.iter().filter(|f| f.step == FidelityStep::Counted).collect();
    let within = |f: &&Fault| counted.iter().any(|c| f.ts > c.ts && f.ts < c.ts + c.dur);
    let faults = r.faults();
    assert!(!faults.is_empty());
    assert_eq!(faults.iter().filter(within).count(), 0);
    // The kernel's count at the change and at the exit tell how many there were meanwhile.
    let (_, exit) = begin_and_exit(&r);
    let change = r.rows::<FaultCount>().into_iter().find(|c| c.at == FaultCountAt::Step).expect("a reading");
    let left_out = exit.minor - change.minor;
    eprintln!("{} recorded, {left_out} counted, of {}", faults.len(), exit.minor);
    assert!(left_out > 100_000, "{left_out}");
}
