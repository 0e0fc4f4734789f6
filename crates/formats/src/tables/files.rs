use crate::table;

table! {
    /// A file that a target mapped: what `memory_calls.file_id` and module names refer to.
    pub struct FileRow("files") {
        /// Number of the file in this capture.
        file_id: u32 = Plain,
        /// Device as in `maps` and stat(2): `08:01` is 0x801.
        dev: u64 = Dictionary,
        /// Inode number.
        inode: u64 = Plain,
        /// Path as the target saw it; only the last component where the full path could not be read any more.
        path: Option<String> = Plain,
        /// GNU build id in hex; null if it has none or could not be read.
        build_id: Option<String> = Plain,
    }
}
