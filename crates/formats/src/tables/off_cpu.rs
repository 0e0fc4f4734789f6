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

name_enum! {
    /// In which context a thread was woken.
    pub enum WakerContext {
        /// By a thread, in a call of its own: a lock or a queue that it let go of, a pipe that it wrote to.
        Thread = "thread",
        /// In an interrupt, soft ones included: a timer, a device, the network.
        Interrupt = "interrupt",
    }
}

table! {
    /// One interval in which a thread of a target was not on a CPU, written when it came back.
    ///
    /// From `tp_btf/sched_switch`; who woke it and when, from `sched_waking` (on the waker's CPU). Intervals shorter than
    /// the knob `off_cpu_min_ns` write no row; their number and sum are in the manifest. A thread that slept when its
    /// process became a target has a row from that moment on, with the state that /proc showed and no stack; one that
    /// never came back has none. A new thread's wait for its first CPU is a row, too: `runnable`, woken by its creator.
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
        /// The end of `dur` in which the thread could have run and waited for a CPU: all of it for `runnable`, the time
        /// since it was woken for others; null if nobody saw it woken. Since schema 2.1, like what follows.
        runqueue_ns: Option<i64> = Plain,
        /// Process of `waker_tid`, target or not.
        waker_pid: Option<u32> = Dictionary,
        /// Thread that ran where this one was woken. With `interrupt` it has nothing to do with it as a rule; over loopback
        /// it may be the sender. Null for an idle CPU and if nobody saw it.
        waker_tid: Option<u32> = Dictionary,
        /// In which context it was woken; null if it was preempted, or nobody saw it.
        waker_context: Option<WakerContext> = Dictionary,
        /// System call that it slept in, numbered as its ABI does; null if it slept elsewhere (a page fault), was
        /// preempted, or slept already when its process became a target.
        syscall_nr: Option<u32> = Dictionary,
        /// User stack that entered the kernel, see `frames`; null if it was preempted or slept already, or if it could
        /// not be taken (counted in `losses`).
        stack_id: Option<u32> = Dictionary,
    }
}

impl OffCpu {
    /// An interval of which nothing else is known, as schema 2.0 has them.
    pub const fn bare(ts: i64, dur: i64, pid: u32, tid: u32, state: OffCpuState) -> Self {
        Self {
            ts,
            dur,
            pid,
            tid,
            state,
            runqueue_ns: None,
            waker_pid: None,
            waker_tid: None,
            waker_context: None,
            syscall_nr: None,
            stack_id: None,
        }
    }
}
