use crate::{name_enum, table};

name_enum! {
    /// When the mappings of a process were read.
    pub enum SmapsMoment {
        /// As soon as it was a target, or after it had executed a program: at the first sample, `ts` says when.
        Begin = "begin",
        /// At the end of the recording.
        End = "end",
        /// Before a dump of the flight recorder was written.
        Dump = "dump",
        /// In between, where `--smaps` is a time.
        Periodic = "periodic",
    }
}

table! {
    /// One mapping of a process in one reading of `/proc/PID/smaps`: what of it is resident, by kind.
    ///
    /// The kernel shows some mappings at a time and lets go of mmap_lock in between, and the process runs meanwhile: the sum
    /// over a reading is not of one moment. A reading is whole or absent; what was left out is a problem in the manifest. A
    /// process that ended by itself has no reading at its end.
    pub struct SmapsRow("smaps") {
        /// When reading began.
        ts: i64 = Dictionary,
        /// When reading ended.
        ts_end: i64 = Dictionary,
        /// Which reading it is.
        moment: SmapsMoment = Dictionary,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// First address.
        start_addr: u64 = Plain,
        /// First address after it.
        end_addr: u64 = Plain,
        /// The permission letters, such as `rw-p`.
        perms: String = Dictionary,
        /// Path, `[heap]`, `[stack]`, `[anon:NAME]` …; null for an anonymous map without a name.
        path: Option<String> = Dictionary,
        /// Resident.
        rss_bytes: Option<u64> = Plain,
        /// Resident, each page divided by the processes that map it.
        pss_bytes: Option<u64> = Plain,
        /// Resident, written to, and mapped by nobody else: what a copy of the process's own costs.
        private_dirty_bytes: Option<u64> = Plain,
        /// Resident and anonymous: what no file stands behind, copies of a file's pages included.
        anon_bytes: Option<u64> = Plain,
        /// Of these, in huge pages.
        anon_huge_bytes: Option<u64> = Plain,
        /// Swapped out.
        swap_bytes: Option<u64> = Plain,
        /// Locked by mlock.
        locked_bytes: Option<u64> = Plain,
        /// Resident and used since somebody cleared the marks of use, as a rule since it came.
        referenced_bytes: Option<u64> = Plain,
    }
}
