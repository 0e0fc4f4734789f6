use crate::{name_enum, table};

name_enum! {
    /// How faithfully page faults were recorded.
    pub enum FidelityStep {
        /// All of them.
        Full = "full",
        /// One of `weight`, by a throw of the dice for each fault; the rows say what they stand for.
        Sampled = "sampled",
        /// None; only the kernel's own counts, see `fault_counts`.
        Counted = "counted",
    }
}

table! {
    /// How page faults were recorded, by interval. Only where a budget or a sample was asked for (`--budget`,
    /// `--sample-faults`); else all of them were recorded all the time.
    pub struct Fidelity("fidelity") {
        /// Start of the interval.
        ts: i64 = Delta,
        /// Length of the interval.
        dur: i64 = Delta,
        /// How.
        step: FidelityStep = Dictionary,
        /// Faults that each recorded one stands for; null where none was recorded.
        weight: Option<u32> = Dictionary,
        /// CPU time that recording added in the interval: the recorder's own, and by calibration and sampled BPF run
        /// times that of the probes. Null without a budget.
        added_ns: Option<i64> = Plain,
        /// CPU time that the budget allowed for the interval. Null without a budget.
        allowed_ns: Option<i64> = Plain,
    }
}
