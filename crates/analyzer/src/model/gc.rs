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

/// A GC cycle: of Go, or a collection of a JVM.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct GcCycle {
    /// Process.
    pub pid: u32,
    /// Cycle start.
    pub start_ns: i64,
    /// Go: mark termination; null if the capture ended first. JVM: end of the collection.
    pub mark_end_ns: Option<i64>,
    /// Stop-the-world intervals of this cycle: start, end, reason.
    pub stw: Vec<(i64, i64, Option<u32>)>,
    /// JVM: the memory manager that collected; null for Go.
    pub collector: Option<String>,
    /// JVM: bytes used in the heap before and after; null for Go and if not seen.
    pub heap_bytes: Option<(u64, u64)>,
    /// JVM: the limits of the heap's pools together, which is about -Xmx; null for Go and if none has one.
    pub heap_max_bytes: Option<u64>,
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
    /// True if a Go target or a JVM was there and its probes ran: then zero cycles is a measurement.
    pub measured: bool,
}
