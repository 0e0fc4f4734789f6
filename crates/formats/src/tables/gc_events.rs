use crate::{name_enum, table};

name_enum! {
    /// What happened in the Go runtime (entry of the function named).
    pub enum GcEventKind {
        /// A cycle starts: `runtime.(*gcControllerState).startCycle`; counts equal gctrace.
        CycleStart = "cycle_start",
        /// Mark termination: `runtime.gcMarkTermination`.
        MarkTermination = "mark_termination",
        /// Sweep begins: `runtime.gcSweep`.
        Sweep = "sweep",
        /// The world is asked to stop: `runtime.stopTheWorldWithSema`.
        StopTheWorld = "stop_the_world",
        /// The world is started again: `runtime.startTheWorldWithSema`.
        StartTheWorld = "start_the_world",
    }
}

table! {
    /// One step of a Go garbage collection, seen by an entry probe in the runtime.
    ///
    /// Entry probes only: a return probe on a Go function corrupts the Go stack.
    pub struct GcEvent("gc_events") {
        /// When the function was entered.
        ts: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread that ran the runtime at this moment.
        tid: u32 = Dictionary,
        /// Which step.
        event: GcEventKind = Dictionary,
        /// `stop_the_world` only: the runtime's stwReason (Go ≥ 1.21: 1 mark termination, 2 sweep termination, others see runtime/proc.go); null elsewhere and for older Go.
        reason: Option<u32> = Dictionary,
    }
}
