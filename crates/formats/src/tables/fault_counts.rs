use crate::{name_enum, table};

name_enum! {
    /// When the counts of a process were read.
    pub enum FaultCountAt {
        /// When the recording of the process began; a process that was forked later began with none.
        Begin = "begin",
        /// When the way of recording faults changed, see `fidelity`.
        Step = "step",
        /// When the process ended.
        Exit = "exit",
        /// When the recording ended.
        End = "end",
    }
}

table! {
    /// The kernel's own counts of a process's page faults at one moment: what getrusage(2) says, all threads, since the
    /// process was forked. Pages that the kernel faults in without an exception (get_user_pages) are counted as well.
    ///
    /// The difference of two readings is exact in whatever way faults were recorded between them.
    pub struct FaultCount("fault_counts") {
        /// Moment of the reading.
        ts: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Why then.
        at: FaultCountAt = Dictionary,
        /// Minor faults so far.
        minor: u64 = Plain,
        /// Major faults so far.
        major: u64 = Plain,
    }
}
