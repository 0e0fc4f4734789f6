use crate::{name_enum, table};

name_enum! {
    /// Why a snapshot was taken.
    pub enum SnapshotReason {
        /// The process was running when the recording began.
        Attach = "attach",
        /// After an exec. Exact (the process was stopped at the exec) where `ts_end` equals `ts`.
        Exec = "exec",
        /// At the end of the recording, or as late as the process allowed.
        End = "end",
    }
}

table! {
    /// One line of `/proc/PID/maps` in a snapshot.
    ///
    /// The file is read while the process runs: changes between `ts` and `ts_end` may or may not be in it.
    pub struct MapRow("maps") {
        /// When reading began.
        ts: i64 = Dictionary,
        /// When reading ended.
        ts_end: i64 = Dictionary,
        /// Why the snapshot was taken.
        reason: SnapshotReason = Dictionary,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// First address.
        start_addr: u64 = Plain,
        /// First address after it.
        end_addr: u64 = Plain,
        /// The permission letters of the file, such as `rw-p`.
        perms: String = Dictionary,
        /// Offset in the file; 0 for anonymous maps.
        offset_bytes: u64 = Plain,
        /// Device as in the file (`08:01` is 0x801); 0 for anonymous maps.
        dev: u64 = Dictionary,
        /// Inode; 0 for anonymous maps.
        inode: u64 = Dictionary,
        /// Path, `[heap]`, `[stack]`, `[anon:NAME]` …; null for an anonymous map without a name.
        path: Option<String> = Dictionary,
    }
}
