//! Functions, files, lines and inlined calls of Go programs, from the table
//! that the Go runtime itself needs (`runtime.pclntab`).
//!
//! `-ldflags "-s -w"` removes `.symtab` and DWARF, not this table, so any Go
//! program can be symbolised and probed by name: static, PIE, with cgo, with
//! its section headers removed. Layouts are those of `runtime/symtab.go`,
//! `runtime/runtime2.go` (`_func`) and `runtime/symtabinl.go` of Go 1.16 to
//! 1.27; where versions differ the code says which.
//!
//! Contents are read at offsets through a small block cache, never whole: the
//! table of a large service has tens of megabytes. Every offset is checked,
//! every loop has a bound; a damaged table costs names, nothing else.

mod buildinfo;
mod find;
mod functions;
mod header;
mod inline;
mod moduledata;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;

use super::elf::{ElfFile, Machine};
use super::open_regular;
use super::source::Source;
use functions::Tables;

/// Why a Go program cannot be symbolised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or its size read.
    #[error("cannot open the program: {0}")]
    Io(#[from] std::io::Error),
    /// Not an ELF file, or one without a readable header.
    #[error("not an ELF file: no readable ELF header at offset 0")]
    NotElf,
    /// A table of a Go release before 1.16.
    #[error(
        "go pclntab at file offset {offset:#x} has magic 0xfffffffb (Go 1.2 to 1.15): rebuild the program with Go 1.16 or later"
    )]
    TooOld {
        /// File offset of the table.
        offset: u64,
    },
    /// A Go program whose tables contradict themselves.
    #[error("go pclntab at file offset {offset:#x}: {reason}")]
    Malformed {
        /// File offset of the table.
        offset: u64,
        /// What was expected and what was found.
        reason: &'static str,
    },
}

/// One call frame: a function that was inlined, or the physical function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Name as in a Go traceback: `package/path.(*Type).Method`; type
    /// arguments are `[...]`.
    pub name: String,
    /// Source file as the compiler recorded it.
    pub file: Option<String>,
    /// Line of the address, or of the call to the next inner frame.
    pub line: Option<u32>,
    /// Line of the `func` keyword (Go 1.20 and later).
    pub start_line: Option<u32>,
}

/// The function that contains an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// ELF virtual address of the first instruction.
    pub entry: u64,
    /// ELF virtual address of the next function, or the end of the Go text.
    pub end: u64,
    /// Frames at the address, innermost inlined call first; the last one is
    /// the physical function. Never empty.
    pub frames: Vec<Frame>,
}

impl Function {
    /// The physical function's frame.
    pub fn physical(&self) -> Option<&Frame> {
        self.frames.last()
    }
}

/// A Go program on disk.
pub struct GoBinary {
    elf: ElfFile,
    tables: Tables,
}

impl GoBinary {
    /// Open the program at `path`. `Ok(None)`: an ELF file, but no Go program.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        Self::from_file(open_regular(path)?)
    }

    /// As [`GoBinary::open`], for a file that is open already.
    pub fn from_file(file: File) -> Result<Option<Self>, Error> {
        Self::from_source(Source::from_file(file)?)
    }

    /// As [`GoBinary::open`], for a whole program in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Option<Self>, Error> {
        Self::from_source(Source::from_bytes(bytes))
    }

    fn from_source(source: Source) -> Result<Option<Self>, Error> {
        let elf = ElfFile::parse(source).ok_or(Error::NotElf)?;
        let Some(header) = find::header(&elf)? else {
            return Ok(None);
        };
        let module = moduledata::find(&elf, &header);
        let tables = Tables::new(&elf, header, module)?;
        Ok(Some(Self { elf, tables }))
    }

    /// The toolchain's version, such as `go1.27.3`, from `.go.buildinfo`.
    pub fn go_version(&self) -> Option<String> {
        buildinfo::version(&self.elf)
    }

    /// How many functions the table lists.
    pub fn functions(&self) -> usize {
        self.tables.count() as usize
    }

    /// Entry address and name of the `index`-th function, in address order.
    pub fn function(&self, index: usize) -> Option<(u64, String)> {
        self.tables.nth(&self.elf, u64::try_from(index).ok()?)
    }

    /// The function and inlined calls at `pc`, an ELF virtual address (for a
    /// return address give the address minus one). `None` outside Go code.
    pub fn lookup(&self, pc: u64) -> Option<Function> {
        self.tables.lookup(&self.elf, pc)
    }

    /// As [`GoBinary::lookup`], for an offset into the file.
    pub fn lookup_file_offset(&self, offset: u64) -> Option<Function> {
        self.lookup(self.elf.vaddr(offset)?)
    }

    /// How far the stack pointer is below its value at the entry of the
    /// function, in bytes, when the instruction at `pc` is about to be
    /// executed: at 0 it points to the return address. `None` outside Go code.
    pub fn stack_bytes(&self, pc: u64) -> Option<i32> {
        self.tables.stack_bytes(&self.elf, pc)
    }

    /// Whose code it is.
    pub(crate) fn machine(&self) -> Machine {
        self.elf.machine()
    }

    /// ELF virtual addresses of the return instructions of the function whose
    /// entry this is, in order; x86-64 and arm64 only. Found without a
    /// disassembler: where the table says that the stack pointer has just come
    /// back to its value at the entry, a byte 0xc3 is `ret` of x86-64; and
    /// instructions of arm64 have four bytes each.
    pub fn returns_of(&self, entry: u64) -> Vec<u64> {
        const MAX_BYTES: u64 = 1 << 16;
        let (ret, align): (&[u8], usize) = match self.machine() {
            Machine::X86_64 => (&[0xc3], 1),
            Machine::Aarch64 => (&[0xc0, 0x03, 0x5f, 0xd6], 4),
            Machine::Other => return Vec::new(),
        };
        let Some(function) = self.lookup(entry).filter(|f| f.entry == entry) else {
            return Vec::new();
        };
        let mut code = vec![0; function.end.saturating_sub(entry).min(MAX_BYTES) as usize];
        if self.elf.file_offset(entry).and_then(|at| self.elf.source().read(at, &mut code)).is_none() {
            return Vec::new();
        }
        let places = (entry..).step_by(align).zip(code.chunks(align));
        let candidates = places.filter(|(_, bytes)| *bytes == ret).map(|(pc, _)| pc);
        candidates
            .filter(|&pc| pc > entry && self.stack_bytes(pc) == Some(0) && self.stack_bytes(pc - 1) != Some(0))
            .collect()
    }

    /// ELF virtual address of an offset into the file.
    pub fn vaddr(&self, offset: u64) -> Option<u64> {
        self.elf.vaddr(offset)
    }

    /// Entry address of the function of exactly this name; a compiler-made
    /// wrapper of the same name is passed over when there is another.
    pub fn entry_of(&self, name: &str) -> Option<u64> {
        self.entries_of(&[name]).into_iter().next().flatten()
    }

    /// [`GoBinary::entry_of`] for several names in one pass over the table;
    /// the answers are in the order of `names`.
    pub fn entries_of(&self, names: &[&str]) -> Vec<Option<u64>> {
        self.tables.entries_of(&self.elf, names)
    }

    /// Offset into the file of an ELF virtual address, as uprobes want it.
    pub fn file_offset(&self, vaddr: u64) -> Option<u64> {
        self.elf.file_offset(vaddr)
    }

    /// Whether inlined calls can be told apart: since Go 1.18, and only if the
    /// module's function data was found.
    pub fn has_inlines(&self) -> bool {
        self.tables.has_inlines()
    }
}
