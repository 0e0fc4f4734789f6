//! What faults cost beyond their service time: charged with the recorder's own measurement of this host.
//!
//! A row's `dur` ends before the way back to user mode, and the probes run after it. Left alone, both would pass as the
//! program's own computing, and a fault storm would look half as expensive as it is. The recorder measured, in a loop
//! that does nothing but fault, the wall time per fault untraced and recorded; per fault on the critical path
//! `untraced − service` is moved to the faults and `recorded − untraced` to the recorder, never more than the window
//! holds of on-CPU time.

use mtrace_formats::capture::FaultCost;

use super::ledger::Split;
use crate::model::{LedgerCategory, LedgerRow};
use crate::units;

/// More than this, per fault, is no measurement of entering and leaving the kernel but of a busy host.
const MAX_AROUND_NS: i64 = 1_500;
/// Likewise for recording a fault.
const MAX_RECORDING_NS: i64 = 5_000;

/// Moves on-CPU time of a window to its faults and to the recorder.
pub(crate) fn charge(split: &mut Split, cost: FaultCost) {
    let faults = row(split, LedgerCategory::Faults).and_then(|r| r.count).unwrap_or(0);
    let on_cpu = split.ledger.wall_ns(LedgerCategory::OnCpu);
    let faults_signed = i64::try_from(faults).unwrap_or(i64::MAX);
    let around = cost.untraced_ns.saturating_sub(cost.service_ns).clamp(0, MAX_AROUND_NS).saturating_mul(faults_signed);
    let recording = cost.recorded_ns.saturating_sub(cost.untraced_ns.max(cost.service_ns)).clamp(0, MAX_RECORDING_NS);
    let sampled = i64::try_from(split.sampled_faults.min(faults)).unwrap_or(i64::MAX);
    let passed_by = cost.passed_by_ns.map_or(recording, |ns| ns.clamp(0, recording));
    let recording = recording.saturating_mul(faults_signed - sampled).saturating_add(passed_by.saturating_mul(sampled));
    // Of those with a row of their own the difference comes on top.
    let singles = i64::try_from(split.single_faults.min(faults)).unwrap_or(i64::MAX);
    let single_adds = cost.single_adds_ns.map_or(0, |ns| {
        let adds = cost.recorded_ns.saturating_sub(cost.untraced_ns).max(0);
        ns.saturating_sub(adds).clamp(0, MAX_RECORDING_NS).saturating_mul(singles)
    });
    let recording = recording.saturating_add(single_adds);
    let all = around.saturating_add(recording);
    if faults == 0 || on_cpu <= 0 || all == 0 {
        return;
    }
    let moved = all.min(on_cpu);
    let to_faults = (around as f64 * moved as f64 / all as f64) as i64;
    let to_recorder = moved - to_faults;
    add(split, LedgerCategory::OnCpu, -moved);
    add(split, LedgerCategory::Faults, to_faults);
    add(split, LedgerCategory::Recorder, to_recorder);
    spread(split, to_faults, faults);
    split.ledger.rows.retain(|r| r.wall_ns > 0);
    split.ledger.rows.sort_by(|a, b| b.wall_ns.cmp(&a.wall_ns).then(a.category.cmp(&b.category)));
    split.ledger.window.assumptions.push(format!(
        "beside its service time each fault is charged {} for entering and leaving the kernel, and the recorder {} for recording it: measured on this host before the recording",
        units::duration(to_faults / faults_signed.max(1)),
        units::duration(to_recorder / faults_signed.max(1)),
    ));
}

fn row(split: &Split, category: LedgerCategory) -> Option<&LedgerRow> {
    split.ledger.rows.iter().find(|r| r.category == category)
}

fn add(split: &mut Split, category: LedgerCategory, wall_ns: i64) {
    match split.ledger.rows.iter_mut().find(|r| r.category == category) {
        Some(row) => row.wall_ns += wall_ns,
        None => split.ledger.rows.push(LedgerRow { category, wall_ns, count: None, top: None }),
    }
    if let Some(share) = split.shares.iter_mut().find(|s| s.category == category && category == LedgerCategory::OnCpu) {
        share.wall_ns += wall_ns;
    }
}

/// Spreads what was charged to the faults over those behind them, by their number; the sums stay equal.
fn spread(split: &mut Split, to_faults: i64, faults: u64) {
    let mut left = to_faults;
    let mut last = None;
    for (i, share) in split.shares.iter_mut().enumerate().filter(|(_, s)| s.category == LedgerCategory::Faults) {
        let part = (to_faults as f64 * share.count as f64 / faults as f64) as i64;
        share.wall_ns += part.min(left);
        left -= part.min(left);
        last = Some(i);
    }
    if let Some(share) = last.and_then(|i| split.shares.get_mut(i)) {
        share.wall_ns += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::LedgerShare;
    use crate::model::{Ledger, LedgerWindow};
    use std::collections::BTreeMap;

    const COST: FaultCost = FaultCost {
        untraced_ns: 2_000,
        recorded_ns: 3_000,
        service_ns: 1_200,
        single_adds_ns: None,
        passed_by_ns: None,
    };

    fn split(on_cpu: i64) -> Split {
        let row = |category, wall_ns, count| LedgerRow { category, wall_ns, count, top: None };
        let share = |category, wall_ns, count| LedgerShare {
            pid: 1,
            window: "w".to_owned(),
            category,
            kind: None,
            who: None,
            mapper: None,
            wall_ns,
            count,
        };
        let window = LedgerWindow {
            name: "w".to_owned(),
            start_ns: 0,
            end_ns: 120_000 + on_cpu,
            begins_with: String::new(),
            ends_with: String::new(),
            assumptions: Vec::new(),
            request: None,
        };
        let rows = vec![row(LedgerCategory::OnCpu, on_cpu, None), row(LedgerCategory::Faults, 120_000, Some(100))];
        Split {
            single_faults: 100,
            sampled_faults: 0,
            overlays: BTreeMap::new(),
            ledger: Ledger { window, pid: 1, rows, path_measured_ns: None, critical_threads: Vec::new() },
            shares: vec![
                share(LedgerCategory::Faults, 90_000, 75),
                share(LedgerCategory::Faults, 30_000, 25),
                share(LedgerCategory::OnCpu, on_cpu, 1),
            ],
            refaults: BTreeMap::new(),
        }
    }

    fn walls(s: &Split) -> [i64; 3] {
        [LedgerCategory::Faults, LedgerCategory::Recorder, LedgerCategory::OnCpu].map(|c| s.ledger.wall_ns(c))
    }

    #[test]
    fn entry_and_exit_go_to_the_faults_and_probes_to_the_recorder() {
        let mut s = split(500_000);
        charge(&mut s, COST);
        assert_eq!(walls(&s), [200_000, 100_000, 320_000]);
        assert_eq!((s.shares[0].wall_ns, s.shares[1].wall_ns), (150_000, 50_000));
        assert_eq!(s.ledger.rows.iter().map(|r| r.wall_ns).sum::<i64>(), s.ledger.total_ns());
        assert_eq!(s.ledger.window.assumptions.len(), 1);
    }

    #[test]
    fn no_more_is_moved_than_there_is() {
        let mut s = split(90_000);
        charge(&mut s, COST);
        assert_eq!(walls(&s), [160_000, 50_000, 0]);
        assert_eq!(s.ledger.rows.iter().map(|r| r.wall_ns).sum::<i64>(), s.ledger.total_ns());
    }

    #[test]
    fn faults_that_were_not_chosen_cost_less() {
        let mut s = split(500_000);
        s.single_faults = 0;
        s.sampled_faults = 100;
        charge(&mut s, FaultCost { passed_by_ns: Some(300), ..COST });
        assert_eq!(s.ledger.wall_ns(LedgerCategory::Recorder), 100 * 300);
    }

    #[test]
    fn faults_with_a_row_of_their_own_cost_the_recorder_more() {
        let mut s = split(900_000);
        s.single_faults = 10;
        charge(&mut s, FaultCost { single_adds_ns: Some(1_500), ..COST });
        // 100 faults at 1,000 ns, and 500 ns more for ten of them.
        assert_eq!(s.ledger.wall_ns(LedgerCategory::Recorder), 105_000);
    }

    #[test]
    fn a_measurement_that_makes_no_sense_moves_nothing() {
        let mut s = split(90_000);
        charge(
            &mut s,
            FaultCost {
                untraced_ns: 1_000,
                recorded_ns: 900,
                service_ns: 1_200,
                single_adds_ns: None,
                passed_by_ns: None,
            },
        );
        assert_eq!(walls(&s), [120_000, 0, 90_000]);
        assert!(s.ledger.window.assumptions.is_empty());
    }
}
