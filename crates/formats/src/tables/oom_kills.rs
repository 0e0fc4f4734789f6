use crate::{name_enum, table};

name_enum! {
    /// Whose memory was exhausted.
    pub enum OomScope {
        /// A memory cgroup at its limit (`mem_cgroup_out_of_memory` is on the kernel's stack).
        Memcg = "memcg",
        /// The host, or a cpuset's or policy's nodes of it.
        Global = "global",
    }
}

table! {
    /// A process that the OOM killer chose (`oom:mark_victim`), on the whole host: no matter whether it is a target.
    ///
    /// The memory is that of the moment of the choice. Resident pages are counters whose parts per CPU the kernel adds
    /// up now and then: as in its own message, each may be off by some tens of pages per CPU. A kill of a whole cgroup
    /// (`memory.oom.group`) is one row per process.
    pub struct OomKill("oom_kills") {
        /// When it was chosen; it dies soon after.
        ts: i64 = Delta,
        /// The victim (thread group).
        pid: u32 = Plain,
        /// Its name (comm); null where the kernel tells the number only.
        comm: Option<String> = Plain,
        /// Whose memory was exhausted; null if the kernel's functions have no names here (kptr_restrict).
        scope: Option<OomScope> = Dictionary,
        /// The process that wanted memory and found none.
        by_pid: u32 = Plain,
        /// Its thread.
        by_tid: u32 = Plain,
        /// That thread's name.
        by_comm: String = Plain,
        /// User stack of that thread; null if it is no target, or if the stack could not be taken (counted in `losses`).
        stack_id: Option<u32> = Plain,
        /// Of the victim's memory cgroup and the groups around it, the one whose usage was nearest to its limit: path
        /// from the root of the hierarchy, the innermost 8 parts (then it begins with `…/`), invalid UTF-8 replaced.
        /// Null if no group has a limit. For scope `memcg` this is the group that was full.
        cgroup: Option<String> = Plain,
        /// Its limit (memory.max, memory.limit_in_bytes).
        limit_bytes: Option<u64> = Plain,
        /// Its usage.
        usage_bytes: Option<u64> = Plain,
        /// Size of the victim's address space; this and what follows is null where the kernel tells the number only.
        total_vm_bytes: Option<u64> = Plain,
        /// Resident anonymous memory: heap, stacks.
        anon_bytes: Option<u64> = Plain,
        /// Resident pages of files.
        file_bytes: Option<u64> = Plain,
        /// Resident shared memory: tmpfs, shared anonymous mappings. What lies in a tmpfs and is not mapped by the
        /// victim is charged to the cgroup and missing here.
        shmem_bytes: Option<u64> = Plain,
        /// Swapped out.
        swap_bytes: Option<u64> = Plain,
        /// Page tables.
        page_table_bytes: Option<u64> = Plain,
        /// oom_score_adj: -1000 … 1000.
        oom_score_adj: Option<i32> = Plain,
    }
}
