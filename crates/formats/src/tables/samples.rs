use crate::{name_enum, table};

name_enum! {
    /// Where a sample was read.
    pub enum SampleSource {
        /// `/proc/PID/statm` (cheap, every interval).
        Statm = "statm",
        /// `/proc/PID/smaps_rollup` (walks the page tables and holds mmap_lock: taken rarely, see the knobs).
        SmapsRollup = "smaps_rollup",
        /// `/proc/PID/stat`: faults and CPU time as the kernel counts them.
        Stat = "stat",
        /// Memory files of the target's cgroup, v1 or v2.
        CgroupMemory = "cgroup_memory",
        /// `memory.pressure`, `io.pressure`, `cpu.pressure` of the target's cgroup.
        CgroupPressure = "cgroup_pressure",
        /// `/proc/pressure/*`.
        HostPressure = "host_pressure",
        /// `/proc/meminfo`.
        Meminfo = "meminfo",
        /// `/proc/vmstat`: counters since boot of reclaim, swap, compaction, huge pages and OOM kills. Every second at most.
        Vmstat = "vmstat",
        /// `/proc/buddyinfo`, summed over the zones: free blocks of 2^N pages as `order_N`. Every second at most.
        Buddyinfo = "buddyinfo",
    }
}

table! {
    /// One number read periodically from /proc or a cgroup.
    ///
    /// Long form, so that a new quantity is a new `key` and not a new column.
    pub struct Sample("samples") {
        /// When it was read.
        ts: i64 = Dictionary,
        /// Where.
        source: SampleSource = Dictionary,
        /// Process for the /proc/PID sources and for its cgroup; null for the host.
        pid: Option<u32> = Dictionary,
        /// Name as the kernel gives it, with its unit appended: `Rss_bytes`, `memory.current_bytes`, `memory.some.total_us`.
        key: String = Dictionary,
        /// The value; a limit of `max` is null.
        value: Option<u64> = Plain,
    }
}
