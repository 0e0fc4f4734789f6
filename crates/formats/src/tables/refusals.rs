use crate::table;

table! {
    /// What the kernel counted at the moment in which it refused a call of the mmap family (ENOMEM or EAGAIN).
    ///
    /// Belongs to the call of the same thread in `memory_calls` that lasted until then. Limits are those in force at that moment,
    /// which the process may have changed since it was started.
    pub struct Refusal("refusals") {
        /// Exit of the refused call.
        ts: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// VMAs of the address space (`mm->map_count`).
        vmas: u64 = Plain,
        /// Mapped pages, reserved ones included (`mm->total_vm`): what RLIMIT_AS counts.
        mapped_pages: u64 = Plain,
        /// Private writable pages (`mm->data_vm`): what RLIMIT_DATA counts.
        data_pages: u64 = Plain,
        /// Locked pages (`mm->locked_vm`): what RLIMIT_MEMLOCK counts.
        locked_pages: u64 = Plain,
        /// Soft RLIMIT_AS; null if unlimited.
        limit_as_bytes: Option<u64> = Plain,
        /// Soft RLIMIT_DATA; null if unlimited.
        limit_data_bytes: Option<u64> = Plain,
        /// Soft RLIMIT_MEMLOCK; null if unlimited.
        limit_memlock_bytes: Option<u64> = Plain,
    }
}
