use crate::{name_enum, table};

name_enum! {
    /// Who slows the thread down.
    pub enum ThrottleKind {
        /// Its cgroup is above `memory.high`: the kernel reclaims and then lets the thread sleep before it returns to
        /// user mode (`mem_cgroup_handle_over_high`).
        MemoryHigh = "memory_high",
        /// Direct reclaim waits for others to get on (`mm_vmscan_throttled`). Lies within a row of `reclaims`.
        Vmscan = "vmscan",
    }
}

name_enum! {
    /// What reclaim waited for (`enum vmscan_throttle_state`).
    pub enum ThrottleReason {
        /// Pages to be written to disk or swap.
        Writeback = "writeback",
        /// Other threads that hold too many pages for reclaim.
        Isolated = "isolated",
        /// Anything: reclaim found nothing to free.
        NoProgress = "no_progress",
        /// A disk that is congested.
        Congested = "congested",
        /// A reason that this version does not know.
        Other = "other",
    }
}

table! {
    /// One stretch in which the kernel held a thread of a target back because memory is short, written when it was over.
    ///
    /// `memory_high`: from the begin of the handler to its end, so the reclaim that it does first is part of it (and has
    /// rows in `reclaims`, kind `memcg`); with the probe's variant `off-CPU stack` the sleep alone. It is not part of
    /// any page fault or call: it comes at the very end of one, on the way back. `vmscan`: as the kernel measured it,
    /// in ticks of its clock (1 to 10 ms), and zero if shorter.
    pub struct Throttle("throttles") {
        /// Begin.
        ts: i64 = Delta,
        /// Begin to end.
        dur: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// Who.
        kind: ThrottleKind = Dictionary,
        /// `vmscan`: what was waited for; null for `memory_high`.
        reason: Option<ThrottleReason> = Dictionary,
        /// User stack that entered the kernel, see `frames`; null if it could not be taken (counted in `losses`).
        stack_id: Option<u32> = Dictionary,
    }
}
