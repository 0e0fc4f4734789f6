use crate::{name_enum, table};

name_enum! {
    /// What happened to a process or thread.
    pub enum ProcessEventKind {
        /// A new program image: the address space was replaced (`sched_process_exec`).
        Exec = "exec",
        /// A new process with a copy of the address space (`sched_process_fork`, another thread group).
        Fork = "fork",
        /// A new process that shares the address space until it execs (vfork, CLONE_VM).
        Vfork = "vfork",
        /// A new thread (`sched_process_fork`, same thread group).
        Thread = "thread",
        /// The thread took this name (`task_rename`, or the name found at attach).
        Name = "name",
        /// A thread ended.
        ThreadExit = "thread_exit",
        /// The last thread of the process ended: the address space is gone.
        Exit = "exit",
        /// The process was already running when the recording began, or when it became a target.
        Attach = "attach",
        /// The process (or, on v1, one thread) was moved to another cgroup (`cgroup_attach_task`).
        Cgroup = "cgroup",
    }
}

table! {
    /// Life of the targets: exec, fork, threads, names, cgroups, exit.
    pub struct ProcessEvent("process_events") {
        /// When.
        ts: i64 = Delta,
        /// Process (thread group); of the child for `fork` and `vfork`.
        pid: u32 = Dictionary,
        /// Thread; of the new one for `thread`, of the child for `fork`.
        tid: u32 = Plain,
        /// What happened.
        event: ProcessEventKind = Dictionary,
        /// `fork`, `vfork`: pid of the parent; `thread`: tid of the creator; null elsewhere.
        parent: Option<u32> = Dictionary,
        /// comm of the thread after the event (15 bytes at most, invalid UTF-8 replaced).
        comm: Option<String> = Dictionary,
        /// `exec`, `attach`: the executable's path; null elsewhere and if it could not be read.
        path: Option<String> = Dictionary,
        /// `pid` in the innermost pid namespace that the process is in: what it takes for its own pid. The same as `pid`
        /// outside of containers; null if unknown (captures before 2.1).
        ns_pid: Option<u32> = Dictionary,
        /// `tid`, likewise.
        ns_tid: Option<u32> = Plain,
        /// `attach`, `fork`, `vfork`, `exec`, `cgroup`: the process's cgroup as /proc/PID/cgroup names it, of the memory
        /// controller's hierarchy (v1 or v2); null elsewhere and if unknown.
        cgroup: Option<String> = Dictionary,
        /// `exit`: status as wait(2) encodes it (exit code << 8 | signal); null elsewhere.
        status: Option<i32> = Dictionary,
    }
}
