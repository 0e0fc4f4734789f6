use crate::{name_enum, table};

name_enum! {
    /// Why something is missing.
    pub enum LossReason {
        /// The ring buffer was full: the row is missing.
        RingFull = "ring_full",
        /// Per-thread state could not be allocated: the row is missing.
        NoState = "no_state",
        /// Over a documented per-process limit: the row is missing, by intention.
        OverLimit = "over_limit",
        /// The stack could not be read: the row is there, its stack is null.
        StackUnreadable = "stack_unreadable",
        /// The stack's frames could not be sent: the row is there, its stack is null.
        StackLost = "stack_lost",
        /// The start was not seen: the row is there, its duration is null (`io_calls`: 0).
        NoStart = "no_start",
        /// The row could not be written (disk full).
        WriteFailed = "write_failed",
        /// The recorder could not read a record.
        Undecodable = "undecodable",
    }
}

table! {
    /// What is missing, by probe, reason and interval (about one second). No row: nothing was lost.
    pub struct Loss("losses") {
        /// Start of the interval.
        ts: i64 = Delta,
        /// Length of the interval.
        dur: i64 = Delta,
        /// Probe, as in the manifest.
        probe: String = Dictionary,
        /// Why.
        reason: LossReason = Dictionary,
        /// How many.
        count: u64 = Plain,
    }
}
