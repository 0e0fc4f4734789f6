use crate::{name_enum, table};

name_enum! {
    /// How a lock is taken.
    pub enum LockMode {
        /// Shared: page faults (where no lock of the single VMA suffices), reading /proc/PID/maps, mincore.
        Read = "read",
        /// Exclusive: mmap, munmap, mprotect, brk, fork, exit.
        Write = "write",
    }
}

table! {
    /// One wait of a target's thread for the lock of its own address space (mmap_lock), written when it was over.
    ///
    /// The kernel reports a wait when a thread goes to sleep for the lock (`lock:contention_begin`, 5.19); time spent
    /// spinning for it before that is not part of it. Since 6.4 most page faults take a lock of their VMA alone and
    /// never come here. Waits for another process's address space are not here.
    ///
    /// The holder is who the lock named when the wait began. A writer is named exactly. Of readers the lock names only
    /// the one that came last, and still names it after it has left: there may be others, and it may be another one.
    pub struct LockWait("lock_waits") {
        /// Begin.
        ts: i64 = Delta,
        /// Begin to end.
        dur: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// How the thread wanted the lock.
        mode: LockMode = Dictionary,
        /// How it held the lock; null if `holder_pid` is.
        holder_mode: Option<LockMode> = Dictionary,
        /// Process of the holder: another one than `pid` for a foreign one; null if unknown, or if the lock named the
        /// waiting thread itself, which is stale.
        holder_pid: Option<u32> = Dictionary,
        /// Its thread.
        holder_tid: Option<u32> = Dictionary,
        /// That thread's name (comm).
        holder_comm: Option<String> = Dictionary,
        /// True if the recorder itself held it: it reads /proc/PID/maps now and then, smaps_rollup and smaps for at
        /// most 1 % of the time, and at the ends of a recording.
        holder_is_recorder: Option<bool> = Plain,
        /// User stack that entered the kernel, see `frames`; null if it could not be taken (counted in `losses`).
        stack_id: Option<u32> = Dictionary,
    }
}
