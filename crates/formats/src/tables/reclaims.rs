use crate::{name_enum, table};

name_enum! {
    /// Why a thread had to make room itself.
    pub enum ReclaimKind {
        /// The host had too little free memory: direct reclaim (`mm_vmscan_direct_reclaim_begin`).
        Direct = "direct",
        /// A memory cgroup was at its limit (`mm_vmscan_memcg_reclaim_begin`).
        Memcg = "memcg",
        /// No free block of the size that was asked for: direct compaction (`mm_compaction_begin`), for huge pages as a rule.
        Compaction = "compaction",
    }
}

table! {
    /// One stretch in which the kernel made a thread of a target reclaim or compact memory before it could go on,
    /// written when it was over. It lies within a page fault, a call or another entry into the kernel.
    ///
    /// What kswapd, kcompactd and other processes reclaim is not here. The sleep of cgroup v2's memory.high is no
    /// reclaim either.
    pub struct Reclaim("reclaims") {
        /// Begin.
        ts: i64 = Delta,
        /// Begin to end.
        dur: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// Why.
        kind: ReclaimKind = Dictionary,
        /// 2^order pages were asked for; null for compaction.
        order: Option<u32> = Dictionary,
        /// Pages that were freed; null for compaction.
        reclaimed_pages: Option<u64> = Plain,
        /// User stack that entered the kernel, see `frames`; null if it could not be taken (counted in `losses`).
        stack_id: Option<u32> = Dictionary,
    }
}
