use crate::{name_enum, table};

name_enum! {
    /// In which state the thread left the CPU (`prev_state` of `sched_switch`).
    pub enum OffCpuState {
        /// It could have gone on running: preempted, waiting for a CPU.
        Runnable = "runnable",
        /// Interruptible sleep: futex, epoll, timers, sockets.
        Sleeping = "sleeping",
        /// Uninterruptible sleep: usually disk, or a kernel lock.
        Uninterruptible = "uninterruptible",
        /// Another state (stopped, traced, dead).
        Other = "other",
    }
}

table! {
    /// One interval in which a thread of a target was not on a CPU, written when it came back.
    ///
    /// From `tp_btf/sched_switch`. Intervals shorter than the knob `off_cpu_min_ns` write no row; their number and sum
    /// are in the manifest. A thread that slept when its process became a target has a row from that moment on, with the
    /// state that /proc showed; one that never came back has none.
    pub struct OffCpu("off_cpu") {
        /// When the thread left the CPU; when its process became a target, if it slept by then.
        ts: i64 = Delta,
        /// Until it was on a CPU again (includes the wait for a CPU after the wake-up).
        dur: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// State in which it left.
        state: OffCpuState = Dictionary,
    }
}
