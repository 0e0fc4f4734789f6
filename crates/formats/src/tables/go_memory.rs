use crate::{name_enum, table};

name_enum! {
    /// What Go's memory management did (the runtime's function from entry to return).
    pub enum GoMemoryKind {
        /// A goroutine that allocates had to mark first: `runtime.gcAssistAlloc1`; what gctrace counts as assist time.
        MarkAssist = "mark_assist",
        /// A goroutine that allocates had to wait for the collector: `runtime.gcParkAssist`. It may end on another thread.
        ParkAssist = "park_assist",
        /// The heap took address space into use: `runtime.(*mheap).grow`.
        HeapGrowth = "heap_growth",
        /// Free heap was given back to the kernel: `runtime.(*pageAlloc).scavenge`.
        Scavenge = "scavenge",
        /// The program called debug.SetGCPercent.
        SetGcPercent = "set_gc_percent",
        /// The program called debug.SetMemoryLimit; a negative limit only asks for it.
        SetMemoryLimit = "set_memory_limit",
    }
}

table! {
    /// What Go's memory management did to the program: assists, growth, scavenging, settings.
    ///
    /// Probes on entry and on every return instruction (amd64, Go 1.17 and later). Assists shorter than the knob
    /// `off_cpu_min_ns` write no row; their number and sum are in the manifest's account (`below_minimum`,
    /// `below_minimum_ns`), like scavenger calls that found nothing (`scavenged_nothing`).
    pub struct GoMemory("go_memory") {
        /// Entry of the function (its return if `dur` is null).
        ts: i64 = Delta,
        /// Time until it returned; null for settings, and if the entry was not seen.
        dur: Option<i64> = Plain,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread that returned from the function (settings: entered it).
        tid: u32 = Dictionary,
        /// Which.
        event: GoMemoryKind = Dictionary,
        /// Heap growth: asked for, in whole 4 MiB as the runtime takes them. Scavenge: given back. Memory limit: the limit (2^63-1 is none). Null elsewhere, and for growth whose entry was not seen.
        bytes: Option<u64> = Plain,
        /// SetGCPercent only: the new percentage; negative switches the collector off.
        percent: Option<i32> = Dictionary,
        /// User stack; null if it could not be had.
        stack_id: Option<u32> = Dictionary,
    }
}
