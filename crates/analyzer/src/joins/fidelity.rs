//! The intervals in which page faults were sampled or only counted, and how many there were by the kernel's own count.

use std::collections::BTreeMap;

use mtrace_formats::tables::{FaultCount, Fidelity, FidelityStep};

use crate::model::FidelityFact;

/// `counts` sorted by process and time, `steps` by time.
pub(crate) fn intervals(steps: &[Fidelity], counts: &[FaultCount]) -> Vec<FidelityFact> {
    let by_pid: BTreeMap<u32, &[FaultCount]> =
        counts.chunk_by(|a, b| a.pid == b.pid).map(|of_pid| (of_pid[0].pid, of_pid)).collect();
    let degraded = steps.iter().filter(|s| s.step != FidelityStep::Full);
    degraded
        .map(|s| {
            let (from, to) = (s.ts, s.ts + s.dur);
            let in_interval = by_pid.values().map(|c| at(c, to).saturating_sub(at(c, from)));
            let faults = in_interval.fold(0_u64, u64::saturating_add);
            FidelityFact { from, to, weight: s.weight, faults: (!counts.is_empty()).then_some(faults) }
        })
        .collect()
}

/// A process's faults up to a moment, by its last reading until then (the counts are read right before a step ends);
/// before its first one: none, it was forked later.
fn at(readings: &[FaultCount], ts: i64) -> u64 {
    let until = readings.partition_point(|c| c.ts <= ts);
    until.checked_sub(1).map_or(0, |i| readings[i].minor.saturating_add(readings[i].major))
}

#[cfg(test)]
mod tests {
    use mtrace_formats::tables::FaultCountAt::{self, Begin, Exit, Step};

    use super::*;

    fn count(ts: i64, pid: u32, at: FaultCountAt, minor: u64) -> FaultCount {
        FaultCount { ts, pid, at, minor, major: 0 }
    }

    fn step(ts: i64, dur: i64, step: FidelityStep, weight: Option<u32>) -> Fidelity {
        Fidelity { ts, dur, step, weight, added_ns: None, allowed_ns: None }
    }

    #[test]
    fn the_kernels_counts_fill_the_intervals() {
        let counts = [
            count(0, 1, Begin, 5),
            count(999, 1, Step, 105),
            count(1999, 1, Step, 305),
            count(2400, 1, Exit, 405),
            // Forked within the second interval.
            count(1990, 2, Exit, 40),
        ];
        let steps = [
            step(0, 1000, FidelityStep::Full, Some(1)),
            step(1000, 1000, FidelityStep::Counted, None),
            step(2000, 1000, FidelityStep::Sampled, Some(4)),
        ];
        let found = intervals(&steps, &counts);
        let short: Vec<_> = found.iter().map(|f| (f.from, f.to, f.weight, f.faults)).collect();
        assert_eq!(short, [(1000, 2000, None, Some(240)), (2000, 3000, Some(4), Some(100))]);
        assert_eq!(intervals(&steps[1..2], &[])[0].faults, None);
    }
}
