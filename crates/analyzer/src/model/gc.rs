use serde::Serialize;

use super::finding::{CodeLocation, StackFrame};

/// Where a moment stands in relation to a GC cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GcPhase {
    /// The mark phase's length before a cycle's start (or back to the previous cycle if that is nearer).
    Before,
    /// From the cycle's start to its mark termination.
    During,
    /// The mark phase's length after mark termination (or up to the next cycle if that is nearer).
    After,
    /// None of these, after the first cycle.
    Outside,
    /// Before the first cycle and its `Before`: the program starts up.
    StartUp,
}

/// A GC cycle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GcCycle {
    /// Process.
    pub pid: u32,
    /// Cycle start.
    pub start_ns: i64,
    /// Mark termination; null if the capture ended first.
    pub mark_end_ns: Option<i64>,
    /// Stop-the-world intervals of this cycle: start, end, reason.
    pub stw: Vec<(i64, i64, Option<u32>)>,
}

/// Bytes mapped from one place in the code.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StackBytes {
    /// First frame outside the runtime.
    pub location: Option<CodeLocation>,
    /// Calls.
    pub calls: u64,
    /// Bytes.
    pub bytes: u64,
    /// Full stack, innermost first.
    pub stack: Vec<StackFrame>,
}

/// Memory activity in one phase, over all cycles.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GcPhaseRow {
    /// Process.
    pub pid: u32,
    /// Phase.
    pub phase: GcPhase,
    /// Wall time in this phase.
    pub wall_ns: i64,
    /// mmap calls that made memory usable (read-write; for Go heap growth: sysMap), with their bytes.
    pub mmap_calls: u64,
    /// Bytes of these.
    pub mmap_bytes: u64,
    /// Mean size of these; null if there were none.
    pub mmap_mean_bytes: Option<u64>,
    /// munmap calls.
    pub munmap_calls: u64,
    /// madvise calls.
    pub madvise_calls: u64,
    /// Bytes given back by madvise.
    pub madvise_bytes: u64,
    /// Faults.
    pub faults: u64,
    /// Sum of service times.
    pub fault_ns: i64,
    /// The three stacks that mapped most.
    pub top_stacks: Vec<StackBytes>,
}

/// The GC table.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct GcTable {
    /// Cycles in order; empty if none was seen.
    pub cycles: Vec<GcCycle>,
    /// Stop-the-world in all, ns.
    pub stw_total_ns: i64,
    /// Longest stop-the-world, ns.
    pub stw_max_ns: i64,
    /// By process and phase.
    pub phases: Vec<GcPhaseRow>,
    /// True if a Go target was there and its probes ran: then zero cycles is a measurement.
    pub measured: bool,
}
