use crate::{name_enum, table};

name_enum! {
    /// How the kernel accounted a fault (`mm_account_fault`, mm/memory.c).
    pub enum FaultKind {
        /// Served without reading from a device.
        Minor = "minor",
        /// Needed I/O, or was retried after dropping the lock (folio lock, userfaultfd): the kernel counts both as major.
        Major = "major",
    }
}

table! {
    /// One page fault of a target, written when it ended.
    ///
    /// Start: `tp_btf/page_fault_user` or `page_fault_kernel` (x86), fentry on `do_mem_abort` or a kprobe on
    /// `handle_mm_fault` (arm64; which one is the probe's variant in the manifest). End: the perf software event
    /// `PAGE_FAULTS_MIN` or `PAGE_FAULTS_MAJ` of the same thread and address. A start without an end (SIGSEGV,
    /// a JVM null check) writes no row and is counted in the manifest. Pages that appear without a fault
    /// (MAP_POPULATE, MADV_POPULATE_*, get_user_pages) are not here.
    pub struct Fault("faults") {
        /// Start of the fault; of its end where the start was not seen (`dur` is null then).
        ts: i64 = Delta,
        /// Service time: end − start. Includes lock wait, reclaim and I/O; excludes exception entry and exit and the memory.high sleep. Null if the start was not seen.
        dur: Option<i64> = Plain,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// Faulting virtual address.
        addr: u64 = Delta,
        /// Instruction that faulted; a kernel address for a kernel-mode fault.
        ip: u64 = Dictionary,
        /// x86 #PF error code, on arm64 the same bits made from the syndrome, see `error_code`; null where the start was
        /// not seen.
        error_code: Option<u32> = Dictionary,
        /// Minor or major.
        kind: FaultKind = Dictionary,
        /// User stack, see `frames`; null if it could not be taken (counted in `losses`).
        stack_id: Option<u32> = Dictionary,
        /// Faults that this one stands for: more than 1 while the recorder sampled them to stay within its budget, see
        /// `fidelity`. Null in captures of older versions: 1.
        weight: Option<u32> = Dictionary,
    }
}

/// Bits of the x86 page fault error code (arch/x86/include/asm/trap_pf.h).
pub mod error_code {
    /// The page was present: a protection fault (with [`WRITE`]: copy on write, or a write to a read-only mapping).
    pub const PROTECTION: u32 = 1;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access came from user mode.
    pub const USER: u32 = 1 << 2;
    /// The access was an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}
