//! Carries out what the budget decides: reads what it needs, changes how faults are recorded, and writes it down.

use mtrace_formats::tables::{FaultCountAt, Fidelity};

use super::Session;
use super::budget::{Controller, Prices, Reading, Step};
use super::load::Loaded;
use crate::cost::own_cpu;
use crate::host::monotonic_ns;
use crate::probes;

/// The probe that is degraded.
const FAULTS: &str = "faults";
/// Between readings while faults are recorded, and while they are only counted.
const INTERVAL_NS: i64 = 100_000_000;
const COUNTED_INTERVAL_NS: i64 = 1_000_000_000;
/// Between readings of the targets' CPU time, and of how many of them: a host full of targets must not cost more.
const TARGETS_INTERVAL_NS: i64 = 1_000_000_000;
const MAX_READ: usize = 32;

/// The budget of a recording.
pub(super) struct Keeper {
    controller: Controller,
    due: i64,
    /// Where the interval of the present step began.
    since: i64,
    last: i64,
    own_ns: u64,
    host_faults: u64,
    recorded: u64,
    targets_due: i64,
    targets_ns: Option<(i64, u64)>,
    /// CPUs that the targets keep busy.
    targets_cpus: f64,
}

impl Keeper {
    pub(super) fn new(share: f64, prices: Prices, now: i64) -> Self {
        Self {
            controller: Controller::new(share, prices),
            due: now + INTERVAL_NS,
            since: now,
            last: now,
            own_ns: own_cpu_ns(),
            host_faults: host_faults(),
            recorded: 0,
            targets_due: now,
            targets_ns: None,
            targets_cpus: 0.0,
        }
    }

    /// The interval of the present step up to now.
    fn row(&self, now: i64) -> Fidelity {
        let step = self.controller.step();
        let (added_ns, allowed_ns) = self.controller.spent();
        let (added_ns, allowed_ns) = (Some(added_ns), Some(allowed_ns));
        Fidelity {
            ts: self.since,
            dur: now - self.since,
            step: step.name(),
            weight: step.weight(),
            added_ns,
            allowed_ns,
        }
    }
}

fn own_cpu_ns() -> u64 {
    own_cpu().map_or(0, |(user, system)| user + system)
}

/// Faults of the whole host since its boot (`pgfault` of /proc/vmstat); 0 if it cannot be read.
fn host_faults() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("pgfault ")?.trim().parse().ok()).unwrap_or(0)
}

impl Session<'_> {
    /// Begins as the options say; before the target runs.
    pub(super) fn begin_fidelity(&mut self) {
        let shift = self.options.fault_weight.ilog2();
        if let Some(probe) = self.fault_probe() {
            probes::set_fault_sampling(probe, Some(shift));
        }
    }

    /// From here on the budget is kept.
    pub(super) fn open_budget(&mut self) {
        let prices = Prices::new(self.cost.fault);
        self.keeper = self.options.budget.map(|share| Keeper::new(share, prices, monotonic_ns()));
    }

    /// Looks at the budget if it is time.
    pub(super) fn keep_budget(&mut self, now: i64) {
        let Some(mut keeper) = self.keeper.take() else { return };
        if now >= keeper.due {
            let reading = self.budget_reading(&mut keeper, now);
            let before = keeper.row(now);
            if let Some(step) = keeper.controller.read(&reading) {
                let (added_ns, allowed_ns) = keeper.controller.closed();
                let before = Fidelity { added_ns: Some(added_ns), allowed_ns: Some(allowed_ns), ..before };
                self.change_step(&mut keeper, before, step);
            }
            let counted = keeper.controller.step() == Step::Counted;
            keeper.due = now + if counted { COUNTED_INTERVAL_NS } else { INTERVAL_NS };
        }
        self.keeper = Some(keeper);
    }

    fn budget_reading(&mut self, keeper: &mut Keeper, now: i64) -> Reading {
        if now >= keeper.targets_due {
            keeper.targets_due = now + TARGETS_INTERVAL_NS;
            self.read_targets(keeper, now);
        }
        let recorded = self.fault_probe().map_or(0, |p| p.counters()[0]);
        let (own, host) = (own_cpu_ns(), host_faults());
        let elapsed_ns = (now - keeper.last) as f64;
        let reading = Reading {
            elapsed_ns,
            own_ns: own.saturating_sub(keeper.own_ns) as f64,
            other_bpf_ns: elapsed_ns * self.bpf_time.share_of_others(&self.probes, FAULTS, now),
            targets_ns: elapsed_ns * keeper.targets_cpus,
            recorded: recorded.saturating_sub(keeper.recorded) as f64,
            host: host.saturating_sub(keeper.host_faults) as f64,
        };
        (keeper.last, keeper.own_ns, keeper.host_faults, keeper.recorded) = (now, own, host, recorded);
        reading
    }

    fn read_targets(&self, keeper: &mut Keeper, now: i64) {
        let ticks_per_second = crate::host::clock_ticks().unwrap_or(100);
        let pids = self.processes.alive();
        let stats = pids.iter().take(MAX_READ).filter_map(|p| crate::sampler::read_stat(*p));
        let ns: u64 = stats.map(|s| (s.utime + s.stime) * 1_000_000_000 / ticks_per_second).sum();
        if let Some((then, before)) = keeper.targets_ns.replace((now, ns)) {
            keeper.targets_cpus = ns.saturating_sub(before) as f64 / (now - then).max(1) as f64;
        }
    }

    fn fault_probe(&self) -> Option<&Loaded> {
        self.probes.iter().find(|p| p.probe.name() == FAULTS)
    }

    fn change_step(&mut self, keeper: &mut Keeper, before: Fidelity, step: Step) {
        let from_counted = before.weight.is_none();
        let Some(probe) = self.probes.iter_mut().find(|p| p.probe.name() == FAULTS) else { return };
        let mut done = Ok(());
        match step {
            Step::Counted => {
                // Else the ends would outlive the starts.
                probes::set_fault_sampling(probe, None);
                probe.detach();
                // What the programs held back is in the capture before the interval that has none.
                done = probe.flush();
            }
            Step::OneOf(shift) => {
                if from_counted {
                    done = probe.flush();
                    probes::forget_fault_starts(probe);
                    done = done.and(probe.attach());
                }
                probes::set_fault_sampling(probe, Some(shift));
            }
        }
        if let Err(what) = done {
            self.problem(format!(
                "the probe of faults could not be changed to `{:?}` for the budget: {what}",
                step.name()
            ));
        }
        self.drain();
        self.note_fault_counts(FaultCountAt::Step);
        let now = monotonic_ns();
        self.sink.borrow_mut().push(Fidelity { dur: now - before.ts, ..before });
        keeper.since = now;
    }

    /// Writes the interval that the recording ends with.
    pub(super) fn end_fidelity(&mut self) {
        let now = monotonic_ns();
        let fixed = || {
            let shift = self.options.fault_weight.ilog2();
            let ts = self.manifest.window.start_ns.filter(|_| shift > 0 && self.fault_probe().is_some())?;
            let step = Step::OneOf(shift);
            let (step, weight) = (step.name(), step.weight());
            Some(Fidelity { ts, dur: now - ts, step, weight, added_ns: None, allowed_ns: None })
        };
        if let Some(row) = self.keeper.as_ref().map(|k| k.row(now)).or_else(fixed) {
            self.sink.borrow_mut().push(row);
        }
    }

    /// Writes the kernel's own counts of all targets that live.
    pub(super) fn note_fault_counts(&mut self, at: FaultCountAt) {
        let mut sink = self.sink.borrow_mut();
        self.processes.alive().into_iter().filter_map(|p| probes::fault_count(p, at)).for_each(|r| sink.push_added(r));
    }
}
