use crate::{name_enum, table};

name_enum! {
    /// What happened in HotSpot, by its USDT probes.
    pub enum JvmEventKind {
        /// A collection: `gc__begin` to `gc__end`.
        Gc = "gc",
        /// One memory pool around a collection: `mem__pool__gc__begin` to `mem__pool__gc__end`.
        Pool = "pool",
        /// All threads were asked to stop, stood still, and were let go: `safepoint__begin` to `safepoint__end`.
        Safepoint = "safepoint",
        /// An operation of the VM thread: `vmops__begin` to `vmops__end`; names what a safepoint was for.
        VmOperation = "vm_operation",
    }
}

table! {
    /// Collections, memory pools, safepoints and VM operations of a HotSpot JVM, seen by its own USDT probes.
    ///
    /// A JVM that was built without them (configure --disable-dtrace) has none: the manifest says so.
    pub struct JvmEvent("jvm_events") {
        /// Begin (end if `dur` is null).
        ts: i64 = Delta,
        /// Time to the end; null if the begin was not seen.
        dur: Option<i64> = Plain,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread: the VM thread or a collector's.
        tid: u32 = Dictionary,
        /// Which.
        event: JvmEventKind = Dictionary,
        /// Pool: memory manager ("G1 Young Generation"); VM operation: its name. Null elsewhere.
        name: Option<String> = Dictionary,
        /// Pool: its name ("G1 Eden Space"). Null elsewhere.
        pool: Option<String> = Dictionary,
        /// Gc: true for a full collection, null if the begin was not seen. Null elsewhere.
        full: Option<bool> = Plain,
        /// Pool: bytes used before the collection; null if the begin was not seen.
        used_before_bytes: Option<u64> = Plain,
        /// Pool: bytes used after it.
        used_after_bytes: Option<u64> = Plain,
        /// Pool: bytes committed before; null if the begin was not seen.
        committed_before_bytes: Option<u64> = Plain,
        /// Pool: bytes committed after.
        committed_after_bytes: Option<u64> = Plain,
        /// Pool: its limit after the collection; null if it has none.
        max_bytes: Option<u64> = Plain,
    }
}
