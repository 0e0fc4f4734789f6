use crate::{name_enum, table};

name_enum! {
    /// Where a name comes from.
    pub enum SymbolSource {
        /// Go's function table, which stripped binaries keep too.
        Pclntab = "pclntab",
        /// DWARF.
        Dwarf = "dwarf",
        /// ELF symbol table.
        Elf = "elf",
        /// `/proc/kallsyms`.
        Kallsyms = "kallsyms",
        /// No name was found: `function` is null.
        None = "none",
    }
}

table! {
    /// What a frame address means; resolved by the recorder when it ends, so that no binary is needed later.
    ///
    /// Several rows for one frame are the functions inlined at it. Absent (with the frames left as addresses) if the
    /// recorder was killed.
    pub struct SymbolRow("symbols") {
        /// Stack, as in `frames`.
        stack_id: u32 = Dictionary,
        /// Frame, as in `frames`.
        depth: u32 = Plain,
        /// 0 is the innermost inlined function; the last one is the function that exists in the binary.
        inline_depth: u32 = Dictionary,
        /// Function; null if unknown.
        function: Option<String> = Dictionary,
        /// Source file; null if unknown.
        file: Option<String> = Dictionary,
        /// Line; null if unknown.
        line: Option<u32> = Dictionary,
        /// Path of the binary, `[kernel]`, `[vdso]` or `[anon]`; null if the address was in no known mapping.
        module: Option<String> = Dictionary,
        /// Offset of the frame's address in the module's file; null if unknown.
        module_offset_bytes: Option<u64> = Plain,
        /// Where the name comes from.
        source: SymbolSource = Dictionary,
    }
}
