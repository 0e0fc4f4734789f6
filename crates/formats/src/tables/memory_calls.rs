use crate::{name_enum, table};

name_enum! {
    /// Which call.
    pub enum MemoryCallKind {
        /// mmap(2).
        Mmap = "mmap",
        /// munmap(2).
        Munmap = "munmap",
        /// mremap(2).
        Mremap = "mremap",
        /// brk(2).
        Brk = "brk",
        /// mprotect(2).
        Mprotect = "mprotect",
        /// madvise(2).
        Madvise = "madvise",
        /// fork(2), and vfork(2), clone(2), clone3(2) without CLONE_VM: the address space is copied. The new process
        /// returns from it as well, which is no row.
        Fork = "fork",
    }
}

table! {
    /// One call of the mmap family, or one that copies the address space, by a target, written when it returned.
    ///
    /// A call that never returned (the thread was killed inside it) writes no row and is counted in the manifest.
    pub struct MemoryCall("memory_calls") {
        /// Entry.
        ts: i64 = Delta,
        /// Entry to exit.
        dur: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// Which call.
        call: MemoryCallKind = Dictionary,
        /// First argument: hint (mmap), start of the range (munmap, mprotect, madvise), old address (mremap), new break (brk); 0 for fork.
        addr: u64 = Plain,
        /// Second argument, not rounded to pages (mremap: the old size); 0 for brk and fork.
        len_bytes: u64 = Plain,
        /// PROT_* of mmap and mprotect, MADV_* advice of madvise; null for the others.
        prot_or_advice: Option<u32> = Dictionary,
        /// MAP_* of mmap, MREMAP_* of mremap, CLONE_* of fork; null for the others.
        flags: Option<u32> = Dictionary,
        /// mremap: the new size; null for the others.
        new_len_bytes: Option<u64> = Plain,
        /// mremap with MREMAP_FIXED: the requested new address; null for the others.
        new_addr: Option<u64> = Plain,
        /// mmap of a file: offset in the file; null for anonymous maps and the others.
        offset_bytes: Option<u64> = Plain,
        /// mmap of a file: which one, see `files`; null for anonymous maps, the others, and if it could not be read.
        file_id: Option<u32> = Dictionary,
        /// Value returned on success: an address (mmap, mremap, brk), the new process (fork) or 0; null on failure.
        result: Option<u64> = Plain,
        /// errno on failure; null on success. brk reports failure by returning the old break: see `result`.
        errno: Option<i32> = Dictionary,
        /// User stack at entry, see `frames`; null if it could not be taken (counted in `losses`).
        stack_id: Option<u32> = Dictionary,
    }
}
