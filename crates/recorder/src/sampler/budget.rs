//! What sampling may cost, and what it did cost.

/// How much of the time the rare readings may take together: one part in this many.
pub(super) const RARE_SHARE: i64 = 100;
/// At most this often even where they are cheap: nothing that matters changes faster than `statm` shows it.
pub(super) const RARE_INTERVAL_NS: i64 = 1_000_000_000;

/// What sampling itself cost, for the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SamplerCost {
    /// Ticks.
    pub ticks: u64,
    /// Time in all ticks, ns.
    pub total_ns: u64,
    /// Readings of smaps_rollup (mmap_lock of the target is held meanwhile).
    pub rollups: u64,
    /// Time in them, ns.
    pub rollup_ns: u64,
    /// The longest of them, ns.
    pub rollup_max_ns: u64,
}

/// Limits what expensive readings take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Not before, CLOCK_MONOTONIC ns.
    pub(super) next: i64,
}

impl Budget {
    pub(super) fn allows(self, now: i64) -> bool {
        now >= self.next
    }

    /// `took` ns were spent until `now`: wait so long that they are one part in [`RARE_SHARE`].
    pub(super) fn spend(&mut self, now: i64, took: i64) {
        self.next = now.saturating_add(took.saturating_mul(RARE_SHARE - 1).max(RARE_INTERVAL_NS));
    }
}
