use super::FaultKind;
use crate::table;

table! {
    /// A run of page faults of one thread, added up in the kernel: the same instruction, stack and kind of access, on
    /// pages at equal distances, while the mappings of the process stayed as they were.
    ///
    /// Counts, sums and histograms are exact; the single times are not kept: fault *i* of *n* began between `ts` and
    /// `ts + span` (1 ms at most, and a fault). Faults that continue no run, and those slower than `slow_fault_ns` (a
    /// knob in the manifest), are single rows in `faults`; each fault is in exactly one of the two tables.
    pub struct FaultRun("fault_runs", events = count) {
        /// Start of the first fault.
        ts: i64 = Delta,
        /// From the start of the first fault to the end of the last.
        span: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// Faulting address of the first fault.
        addr: u64 = Delta,
        /// Pages from one fault to the next; negative: downwards.
        stride_pages: i32 = Dictionary,
        /// Faults, at least 2.
        count: u64 = Delta,
        /// Instruction that faulted; a kernel address for kernel-mode faults.
        ip: u64 = Dictionary,
        /// As in `faults`.
        error_code: u32 = Dictionary,
        /// Minor or major.
        kind: FaultKind = Dictionary,
        /// User stack, see `frames`; null if it could not be taken (counted in `losses`).
        stack_id: Option<u32> = Dictionary,
        /// Faults that each of these stands for: more than 1 while the recorder sampled them to stay within its budget, see
        /// `fidelity`. Null in captures of older versions: 1.
        weight: Option<u32> = Dictionary,
        /// Sum of the service times.
        dur_sum: i64 = Delta,
        /// The least service time.
        dur_min: i64 = Delta,
        /// The greatest service time.
        dur_max: i64 = Delta,
        /// Faults with a service time below 2^8 ns.
        lt_2p8: u32 = Dictionary,
        /// Below 2^9 ns and not in the column before; so with all that follow.
        lt_2p9: u32 = Dictionary,
        /// Below 2^10 ns.
        lt_2p10: u32 = Dictionary,
        /// Below 2^11 ns.
        lt_2p11: u32 = Dictionary,
        /// Below 2^12 ns.
        lt_2p12: u32 = Dictionary,
        /// Below 2^13 ns.
        lt_2p13: u32 = Dictionary,
        /// Below 2^14 ns.
        lt_2p14: u32 = Dictionary,
        /// Below 2^15 ns.
        lt_2p15: u32 = Dictionary,
        /// Below 2^16 ns.
        lt_2p16: u32 = Dictionary,
        /// Below 2^17 ns.
        lt_2p17: u32 = Dictionary,
        /// Below 2^18 ns.
        lt_2p18: u32 = Dictionary,
        /// Below 2^19 ns.
        lt_2p19: u32 = Dictionary,
        /// Below 2^20 ns.
        lt_2p20: u32 = Dictionary,
        /// Below 2^21 ns.
        lt_2p21: u32 = Dictionary,
        /// Below 2^22 ns.
        lt_2p22: u32 = Dictionary,
        /// 2^22 ns (4.2 ms) or more.
        ge_2p22: u32 = Dictionary,
    }
}

/// Buckets of [`FaultRun::histogram`].
pub const FAULT_BUCKETS: usize = 16;

impl FaultRun {
    /// The histogram of the service times: bucket 0 is below 2^8 ns, bucket *i* below 2^(8+i), the last one the rest.
    pub fn histogram(&self) -> [u32; FAULT_BUCKETS] {
        [
            self.lt_2p8,
            self.lt_2p9,
            self.lt_2p10,
            self.lt_2p11,
            self.lt_2p12,
            self.lt_2p13,
            self.lt_2p14,
            self.lt_2p15,
            self.lt_2p16,
            self.lt_2p17,
            self.lt_2p18,
            self.lt_2p19,
            self.lt_2p20,
            self.lt_2p21,
            self.lt_2p22,
            self.ge_2p22,
        ]
    }
}
