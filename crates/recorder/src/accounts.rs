//! Exact accounting: what the kernel side counted against the rows that were written.

use std::collections::BTreeMap;

use mtrace_formats::capture::Account;
use mtrace_formats::tables::{Loss, LossReason};

/// `MT_COUNTERS` and the counters of `enum mt_counter` that mean a loss.
pub(crate) const COUNTERS: usize = 16;
const SEEN: usize = 0;
const OWN: usize = 8;
/// Counter, reason, and whether the row itself is missing.
const REASONS: [(usize, LossReason, bool); 6] = [
    (1, LossReason::RingFull, true),
    (2, LossReason::NoState, true),
    (3, LossReason::OverLimit, true),
    (4, LossReason::StackUnreadable, false),
    (5, LossReason::StackLost, false),
    (6, LossReason::NoStart, false),
];

/// The counters of one probe, summed over the CPUs.
pub(crate) type Counters = [u64; COUNTERS];

/// What user space counted for one probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UserCounts {
    /// Rows that are in the capture, those that no kernel event stands behind included.
    pub(crate) written: u64,
    /// Rows without a kernel event (names and processes found at attach).
    pub(crate) added: u64,
    /// Rows that could not be written.
    pub(crate) write_failed: u64,
    /// Records that could not be decoded.
    pub(crate) undecodable: u64,
    /// Rows whose stack is unknown here.
    pub(crate) stack_lost: u64,
}

/// The account of one probe for the manifest.
pub(crate) fn account(probe: &str, table: &str, ignored: &[&str], c: &Counters, user: UserCounts) -> Account {
    let mut a = Account {
        probe: probe.to_owned(),
        table: table.to_owned(),
        seen: seen(c, user),
        written: user.written,
        ..Account::default()
    };
    for (reason, count, costs_row) in losses_of(c, user) {
        let into = if costs_row { &mut a.lost } else { &mut a.incomplete };
        *into.entry(reason.name().to_owned()).or_default() += count;
    }
    for (name, count) in ignored.iter().zip(&c[OWN..]) {
        if *count > 0 {
            a.ignored.insert((*name).to_owned(), *count);
        }
    }
    a
}

/// Events that were seen, those that user space added itself included.
pub(crate) fn seen(c: &Counters, user: UserCounts) -> u64 {
    c[SEEN] + user.added
}

/// Rows that are missing.
pub(crate) fn lost_rows(c: &Counters, user: UserCounts) -> u64 {
    losses_of(c, user).into_iter().filter(|(_, _, costs_row)| *costs_row).map(|(_, count, _)| count).sum()
}

/// Everything that is missing, without zeros.
fn losses_of(c: &Counters, user: UserCounts) -> Vec<(LossReason, u64, bool)> {
    let kernel = REASONS.iter().map(|(i, reason, costs_row)| (*reason, c[*i], *costs_row));
    let own = [
        (LossReason::WriteFailed, user.write_failed, true),
        (LossReason::Undecodable, user.undecodable, true),
        (LossReason::StackLost, user.stack_lost, false),
    ];
    kernel.chain(own).filter(|(_, count, _)| *count > 0).collect()
}

/// Makes the rows of `losses` from readings one after the other.
#[derive(Debug, Default)]
pub(crate) struct LossMeter {
    since: i64,
    before: BTreeMap<(&'static str, LossReason), u64>,
}

impl LossMeter {
    /// A meter whose first interval begins at `now`.
    pub(crate) fn new(now: i64) -> Self {
        Self { since: now, before: BTreeMap::new() }
    }

    /// The losses since the last reading, for an interval that ends at `now`.
    pub(crate) fn read(&mut self, now: i64, probes: &[(&'static str, Counters, UserCounts)]) -> Vec<Loss> {
        let mut rows = Vec::new();
        for (probe, counters, user) in probes {
            let mut totals: BTreeMap<LossReason, u64> = BTreeMap::new();
            for (reason, count, _) in losses_of(counters, *user) {
                *totals.entry(reason).or_default() += count;
            }
            for (reason, total) in totals {
                let before = self.before.insert((probe, reason), total).unwrap_or(0);
                let count = total.saturating_sub(before);
                if count > 0 {
                    let (ts, dur) = (self.since, now - self.since);
                    rows.push(Loss { ts, dur, probe: (*probe).to_owned(), reason, count });
                }
            }
        }
        self.since = now;
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(pairs: &[(usize, u64)]) -> Counters {
        let mut c = [0; COUNTERS];
        for (i, v) in pairs {
            c[*i] = *v;
        }
        c
    }

    #[test]
    fn seen_is_written_plus_what_cost_a_row() {
        let c = counters(&[(0, 100), (1, 7), (5, 2), (8, 3)]);
        let user = UserCounts { written: 92, added: 4, write_failed: 5, ..UserCounts::default() };
        let a = account("faults", "faults", &["start_without_end"], &c, user);
        assert_eq!(a.seen, 104);
        assert_eq!(a.seen, a.written + a.lost.values().sum::<u64>());
        assert_eq!(a.incomplete["stack_lost"], 2);
        assert_eq!(a.ignored["start_without_end"], 3);
    }

    #[test]
    fn both_sides_of_a_lost_stack_are_added() {
        let user = UserCounts { stack_lost: 3, ..UserCounts::default() };
        let a = account("faults", "faults", &[], &counters(&[(5, 2)]), user);
        assert_eq!(a.incomplete["stack_lost"], 5);
    }

    #[test]
    fn losses_are_differences_and_nothing_lost_is_no_row() {
        let mut meter = LossMeter::new(1000);
        assert!(meter.read(2000, &[("faults", counters(&[(0, 50)]), UserCounts::default())]).is_empty());
        let rows = meter.read(3000, &[("faults", counters(&[(1, 5)]), UserCounts::default())]);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].ts, rows[0].dur, rows[0].count), (2000, 1000, 5));
        let rows = meter.read(4000, &[("faults", counters(&[(1, 8)]), UserCounts::default())]);
        assert_eq!((rows[0].ts, rows[0].count), (3000, 3));
    }
}
