//! Facts and arguments → which probes to load, and why others not. Decides only; [`crate::session`] does it.

use mtrace_formats::capture::{ProbeReport, ProbeStatus};

use crate::FaultMode;
use crate::error::Error;
use crate::host::{Capability, HostFacts, SyscallTrial};
use crate::probes::{self, Attach, Probe};

/// The probe that [`FaultMode`] is about.
const FAULTS: &str = "faults";

/// What to load, and what is absent from the start.
pub(crate) struct Plan {
    pub(crate) load: Vec<&'static dyn Probe>,
    pub(crate) absent: Vec<ProbeReport>,
}

impl Plan {
    /// The probe whose cost per event is measured beforehand, if it is to run.
    pub(crate) fn fault_probe(&self) -> Option<&'static dyn Probe> {
        self.load.iter().copied().find(|p| p.name() == FAULTS)
    }
}

/// Decides.
///
/// # Errors
/// If nothing at all can be recorded here, or a name in `without` is not a probe's.
pub(crate) fn plan(facts: &HostFacts, without: &[String], faults: FaultMode) -> Result<Plan, Error> {
    check_names(without)?;
    check_host(facts)?;
    let mut plan = Plan { load: Vec::new(), absent: Vec::new() };
    for probe in probes::ALL {
        match objection(*probe, facts, without, faults) {
            None => plan.load.push(*probe),
            Some(reason) => plan.absent.push(absent(*probe, reason)),
        }
    }
    Ok(plan)
}

/// The report of a probe that does not run.
pub(crate) fn absent(probe: &dyn Probe, reason: String) -> ProbeReport {
    ProbeReport {
        name: probe.name().to_owned(),
        status: ProbeStatus::Absent,
        variant: None,
        reason: Some(reason),
        hides: Some(probe.hides().to_owned()),
    }
}

fn check_names(without: &[String]) -> Result<(), Error> {
    match without.iter().find(|n| !probes::ALL.iter().any(|p| p.name() == n.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::NoSuchProbe { name: name.clone(), known: probe_names() }),
    }
}

/// The names of all probes, for messages and help.
pub(crate) fn probe_names() -> String {
    probes::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ")
}

fn check_host(facts: &HostFacts) -> Result<(), Error> {
    if facts.host.btf == Some(false) {
        return Err(Error::NoBtf { release: facts.host.kernel_release.clone() });
    }
    if let SyscallTrial::Fails(errno) = facts.bpf_map {
        return Err(Error::NotPermitted {
            what: format!("bpf(2) is refused: {}", std::io::Error::from_raw_os_error(errno)),
            next: "run as root (sudo), or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, outside a container that \
                   forbids it; see `mtrace doctor`",
        });
    }
    if let SyscallTrial::Fails(errno) = facts.bpf_ringbuf {
        return Err(Error::Kernel {
            action: "create a BPF ring buffer (Linux 5.8 or later is needed)",
            source: std::io::Error::from_raw_os_error(errno),
        });
    }
    Ok(())
}

fn objection(probe: &dyn Probe, facts: &HostFacts, without: &[String], faults: FaultMode) -> Option<String> {
    let off = probe.name() == FAULTS && faults == FaultMode::Off;
    if off || without.iter().any(|n| n == probe.name()) {
        return Some("switched off".to_owned());
    }
    if let Some(reason) = probe.objection(facts) {
        return Some(reason);
    }
    let needs_perf = |a: &Attach| matches!(a, Attach::SoftwareEvent(_)) || a.runtime().is_some();
    let always = probe.variants(faults).iter().all(|v| v.programs.iter().any(|p| needs_perf(&p.attach)));
    match facts.perf_event {
        SyscallTrial::Fails(errno) if always => Some(format!(
            "perf_event_open is refused ({}); {}",
            std::io::Error::from_raw_os_error(errno),
            perf_advice(facts)
        )),
        _ => None,
    }
}

/// How to get perf events. Debian's and Ubuntu's kernels know levels of `kernel.perf_event_paranoid` above 2, where
/// CAP_PERFMON does not suffice.
pub(crate) fn perf_advice(facts: &HostFacts) -> &'static str {
    if facts.has(Capability::Perfmon) == Some(true) {
        "lower kernel.perf_event_paranoid to 2 or give CAP_SYS_ADMIN: above 2 CAP_PERFMON does not suffice"
    } else {
        "run with sudo or give CAP_PERFMON, with kernel.perf_event_paranoid at most 2"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn good_host() -> HostFacts {
        let mut facts = HostFacts::gather();
        facts.host.btf = Some(true);
        facts.host.thp_enabled = Some("madvise".to_owned());
        facts.bpf_map = SyscallTrial::Works;
        facts.bpf_ringbuf = SyscallTrial::Works;
        facts.perf_event = SyscallTrial::Works;
        facts
    }

    fn names(plan: &Plan) -> Vec<&'static str> {
        plan.load.iter().map(|p| p.name()).collect()
    }

    #[test]
    fn a_good_host_gets_all_probes() {
        let plan = plan(&good_host(), &[], FaultMode::Runs).unwrap();
        assert_eq!(plan.load.len(), probes::ALL.len());
        assert!(plan.absent.is_empty());
    }

    #[test]
    fn a_probe_that_is_switched_off_is_reported_with_what_it_hides() {
        let plan = plan(&good_host(), &["faults".to_owned()], FaultMode::Every).unwrap();
        assert!(!names(&plan).contains(&"faults"));
        assert_eq!(plan.absent.len(), 1);
        assert_eq!(plan.absent[0].reason.as_deref(), Some("switched off"));
        assert!(plan.absent[0].hides.is_some());
    }

    #[test]
    fn faults_can_be_switched_off_by_their_mode() {
        let plan = plan(&good_host(), &[], FaultMode::Off).unwrap();
        assert_eq!(plan.absent.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["faults"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_the_known_ones() {
        let e = plan(&good_host(), &["fault".to_owned()], FaultMode::Runs).err().unwrap();
        assert!(e.to_string().contains("memory_calls"), "{e}");
    }

    #[test]
    fn without_perf_events_the_probes_that_need_them_are_absent() {
        let facts = HostFacts { perf_event: SyscallTrial::Fails(1), ..good_host() };
        let plan = plan(&facts, &[], FaultMode::Runs).unwrap();
        assert_eq!(
            plan.absent.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
            ["faults", "gc_events", "go_memory", "jvm_events"]
        );
        assert!(names(&plan).contains(&"memory_calls"));
    }

    #[test]
    fn without_huge_pages_nothing_is_collapsed_and_that_is_said() {
        let mut facts = good_host();
        facts.host.thp_enabled = None;
        let plan = plan(&facts, &[], FaultMode::Runs).unwrap();
        let [report] = &plan.absent[..] else { panic!("{:?}", plan.absent) };
        assert_eq!(report.name, "collapses");
        assert!(report.reason.as_ref().unwrap().contains("no transparent huge pages") && report.hides.is_some());
    }

    #[test]
    fn the_advice_about_perf_events_knows_what_is_there_already() {
        let with = |capabilities| HostFacts { capabilities: Some(capabilities), ..good_host() };
        assert!(perf_advice(&with(1 << Capability::Perfmon as u8)).contains("paranoid to 2 or give CAP_SYS_ADMIN"));
        assert!(perf_advice(&with(0)).contains("give CAP_PERFMON"));
    }

    #[test]
    fn without_btf_or_permission_there_is_nothing_to_plan() {
        use crate::error::ErrorKind;
        let mut facts = good_host();
        facts.host.btf = Some(false);
        assert_eq!(plan(&facts, &[], FaultMode::Runs).err().unwrap().kind(), ErrorKind::NoBtf);
        let facts = HostFacts { bpf_map: SyscallTrial::Fails(1), ..good_host() };
        assert_eq!(plan(&facts, &[], FaultMode::Runs).err().unwrap().kind(), ErrorKind::NotPermitted);
    }
}
