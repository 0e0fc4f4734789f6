//! Keeps what recording adds under a bound (`--budget`): the steps are all faults, one of 4, of 16, of 64, none (only the
//! kernel's own counts).
//!
//! The bound is a share of the CPU time that the targets use, and of one CPU where they use less. What is added is the
//! recorder's own CPU time, and by calibration and measured BPF run times that of its probes; loading the probes before
//! and resolving names after the recording are not in it.

use mtrace_formats::capture::FaultCost;
use mtrace_formats::tables::FidelityStep;

/// log2 of the faults that a recorded one stands for, by step.
const SHIFTS: [u32; 4] = [0, 2, 4, 6];
/// A step must be expected to need at most this part of the budget, to be taken downwards and upwards.
const DOWN_TO: f64 = 0.9;
const UP_TO: f64 = 0.6;
/// How long a better step must have been affordable; doubled each time that it turns out not to be.
const HOLD_NS: i64 = 5_000_000_000;
const MAX_HOLD_NS: i64 = 80_000_000_000;
/// What was not spent may be spent for so long.
const CREDIT_NS: f64 = 2e9;

/// How faults are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// One of `1 << shift`; all for 0.
    OneOf(u32),
    Counted,
}

impl Step {
    fn at(index: usize) -> Self {
        SHIFTS.get(index).map_or(Self::Counted, |s| Self::OneOf(*s))
    }

    pub(super) fn name(self) -> FidelityStep {
        match self {
            Self::OneOf(0) => FidelityStep::Full,
            Self::OneOf(_) => FidelityStep::Sampled,
            Self::Counted => FidelityStep::Counted,
        }
    }

    pub(super) fn weight(self) -> Option<u32> {
        match self {
            Self::OneOf(shift) => Some(1 << shift),
            Self::Counted => None,
        }
    }
}

/// Nanoseconds that recording adds to a fault, by calibration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prices {
    /// One of all.
    full: f64,
    /// One that was chosen.
    chosen: f64,
    /// One that was not, or of somebody else.
    passed_by: f64,
}

impl Prices {
    /// Where calibration failed, what it costs on a slow machine.
    pub(super) fn new(cost: Option<FaultCost>) -> Self {
        let Some(c) = cost else { return Self { full: 1500.0, chosen: 2000.0, passed_by: 500.0 } };
        let full = (c.recorded_ns - c.untraced_ns).max(1) as f64;
        let passed_by = c.passed_by_ns.map_or(full, |n| (n.max(0) as f64).min(full));
        Self { full, chosen: (c.single_adds_ns.unwrap_or(0) as f64).max(full), passed_by }
    }

    /// CPU time for so many faults on the host, of which so many are the targets'.
    fn of(&self, step: Step, targets: f64, host: f64) -> f64 {
        let others = (host - targets).max(0.0) * self.passed_by;
        match step {
            Step::Counted => 0.0,
            Step::OneOf(0) => targets * self.full + others,
            Step::OneOf(shift) => {
                let chosen = targets / f64::from(1_u32 << shift);
                chosen * self.chosen + (targets - chosen) * self.passed_by + others
            }
        }
    }
}

/// What happened since the last reading.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) elapsed_ns: f64,
    /// CPU time of the recorder.
    pub(super) own_ns: f64,
    /// CPU time in the programs of the other probes.
    pub(super) other_bpf_ns: f64,
    /// CPU time of the targets.
    pub(super) targets_ns: f64,
    /// Faults of the targets that were recorded, and of the whole host.
    pub(super) recorded: f64,
    pub(super) host: f64,
}

/// Decides when to step down and up.
#[derive(Debug)]
pub(super) struct Controller {
    share: f64,
    prices: Prices,
    index: usize,
    now_ns: f64,
    /// Spent beyond what was allowed; below zero: left over.
    debt: f64,
    affordable_since: Option<f64>,
    raised_at: Option<f64>,
    hold: i64,
    /// In the present step.
    added: f64,
    allowed: f64,
    /// In the step before.
    closed: (i64, i64),
}

impl Controller {
    /// `share`: 0.03 for 3 %.
    pub(super) fn new(share: f64, prices: Prices) -> Self {
        Self {
            share,
            prices,
            index: 0,
            now_ns: 0.0,
            debt: 0.0,
            affordable_since: None,
            raised_at: None,
            hold: HOLD_NS,
            added: 0.0,
            allowed: 0.0,
            closed: (0, 0),
        }
    }

    pub(super) fn step(&self) -> Step {
        Step::at(self.index)
    }

    /// CPU time added and allowed in the present step, ns.
    pub(super) fn spent(&self) -> (i64, i64) {
        (self.added as i64, self.allowed as i64)
    }

    /// The same of the step before.
    pub(super) fn closed(&self) -> (i64, i64) {
        self.closed
    }

    /// The step to change to.
    pub(super) fn read(&mut self, r: &Reading) -> Option<Step> {
        if r.elapsed_ns <= 0.0 {
            return None;
        }
        self.now_ns += r.elapsed_ns;
        let step = self.step();
        // Of the host's faults at most all are the targets'; with none recorded it is the only thing known.
        let targets = step.weight().map_or(r.host, |w| r.recorded * f64::from(w));
        let host = r.host.max(targets);
        let rest = r.own_ns + r.other_bpf_ns;
        let added = rest + self.prices.of(step, targets, host);
        let allowed = self.share * r.elapsed_ns.max(r.targets_ns);
        self.added += added;
        self.allowed += allowed;
        self.debt = (self.debt + added - allowed).max(-allowed / r.elapsed_ns * CREDIT_NS);
        let expected = |index| rest + self.prices.of(Step::at(index), targets, host);
        let next = if self.debt > 0.0 && added > allowed {
            let lower = (self.index + 1..SHIFTS.len()).find(|i| expected(*i) <= DOWN_TO * allowed);
            lower.unwrap_or(SHIFTS.len())
        } else {
            self.better(expected(self.index.saturating_sub(1)) <= UP_TO * allowed)
        };
        if next == self.index {
            return None;
        }
        self.moved_to(next);
        Some(self.step())
    }

    /// One step up if it has been affordable for long enough and nothing is owed.
    fn better(&mut self, affordable: bool) -> usize {
        if self.index == 0 || !affordable || self.debt > 0.0 {
            self.affordable_since = None;
            return self.index;
        }
        let since = *self.affordable_since.get_or_insert(self.now_ns);
        if self.now_ns - since >= self.hold as f64 { self.index - 1 } else { self.index }
    }

    fn moved_to(&mut self, next: usize) {
        if next < self.index {
            self.raised_at = Some(self.now_ns);
        } else if let Some(raised) = self.raised_at.take() {
            // It was raised too soon, unless it lasted.
            let lasted = self.now_ns - raised > 2.0 * self.hold as f64;
            self.hold = if lasted { HOLD_NS } else { (self.hold * 2).min(MAX_HOLD_NS) };
        }
        self.index = next;
        self.affordable_since = None;
        self.closed = self.spent();
        (self.added, self.allowed) = (0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: f64 = 1e8;

    fn controller(share: f64) -> Controller {
        let cost = FaultCost {
            untraced_ns: 1000,
            recorded_ns: 1700,
            service_ns: 800,
            single_adds_ns: Some(1000),
            passed_by_ns: Some(300),
        };
        Controller::new(share, Prices::new(Some(cost)))
    }

    /// Readings of 100 ms with so many faults of the targets in each.
    fn steps(c: &mut Controller, faults: f64, ticks: usize) -> Vec<Step> {
        let mut all = Vec::new();
        for _ in 0..ticks {
            let recorded = c.step().weight().map_or(0.0, |w| faults / f64::from(w));
            let r = Reading { elapsed_ns: TICK, own_ns: 1e5, recorded, host: faults, ..Reading::default() };
            all.extend(c.read(&r));
        }
        all
    }

    #[test]
    fn what_fits_is_recorded_in_full() {
        let mut c = controller(0.03);
        // 3 ms allowed; 4,000 faults cost 2.8 ms and the recorder 0.1.
        assert_eq!(steps(&mut c, 4000.0, 100), []);
        assert_eq!(c.step(), Step::OneOf(0));
    }

    #[test]
    fn as_much_is_left_out_as_must_be() {
        // 1 of 4: 1,500 × 1,000 + 4,500 × 300 is too much; 1 of 16: 375 and 5,625 fits.
        let mut c = controller(0.03);
        assert_eq!(steps(&mut c, 6000.0, 5).first(), Some(&Step::OneOf(4)));
        // Being passed by is too much already.
        let mut c = controller(0.03);
        assert_eq!(steps(&mut c, 20_000.0, 5), [Step::Counted]);
    }

    #[test]
    fn it_comes_back_after_a_while_and_waits_longer_when_that_was_too_soon() {
        let mut c = controller(0.03);
        steps(&mut c, 20_000.0, 20);
        assert_eq!(steps(&mut c, 10.0, 45), [], "not at once");
        let up = steps(&mut c, 10.0, 180);
        assert_eq!(up, [Step::OneOf(6), Step::OneOf(4), Step::OneOf(2), Step::OneOf(0)]);
        // What was left over carries it for a moment.
        assert_eq!(steps(&mut c, 20_000.0, 10), [Step::Counted]);
        assert_eq!(steps(&mut c, 10.0, 70), [], "the hold has doubled");
    }

    #[test]
    fn a_busy_target_is_allowed_more() {
        let mut c = controller(0.03);
        let r = Reading {
            elapsed_ns: TICK,
            targets_ns: 8.0 * TICK,
            own_ns: 1e5,
            recorded: 20_000.0,
            host: 20_000.0,
            ..Reading::default()
        };
        assert_eq!(c.read(&r), None);
    }

    #[test]
    fn over_a_long_time_the_bound_holds() {
        let mut c = controller(0.01);
        let (mut added, mut allowed) = (0.0, 0.0);
        for i in 0..6000 {
            // Bursts of a second, quiet for two.
            let faults = if i % 30 < 10 { 30_000.0 } else { 50.0 };
            let recorded = c.step().weight().map_or(0.0, |w| faults / f64::from(w));
            added += 1e5 + c.prices.of(c.step(), faults, faults);
            allowed += 0.01 * TICK;
            let _ = c.read(&Reading { elapsed_ns: TICK, own_ns: 1e5, recorded, host: faults, ..Reading::default() });
        }
        assert!(added <= allowed * 1.02, "{added} of {allowed}");
    }
}
