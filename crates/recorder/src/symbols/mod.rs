//! Names for addresses, after the fact: from `(file, offset)`, not from a live
//! process, so that a program that has exited still gets its names.
//!
//! Order of the sources: Go's own table ([`gopclntab`]), because DWARF and
//! symbol tables are gone from stripped Go programs and the nearest remaining
//! symbol would be wrong; then DWARF and ELF symbols, with debug links, by
//! blazesym. A file that is no longer the one that was mapped gives no names.
//!
//! One file is worked on at a time and dropped before the next, so the peak is
//! that of the largest single file.

pub mod gopclntab;

mod build_id;
mod demangle;
pub(crate) mod elf;
pub(crate) mod kallsyms;
mod kernel;
mod module;
pub(crate) mod source;

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use build_id::{build_id, build_id_hex, build_id_of, hex};

/// One executable mapping of an address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecMapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Offset into the file of `start`, in bytes.
    pub file_offset: u64,
    /// Path as `/proc/PID/maps` has it; empty for anonymous memory, or a
    /// pseudo path such as `[vdso]`.
    pub path: String,
    /// Where to open the file instead of `root` + `path`: a kept descriptor
    /// (`/proc/self/fd/N`), `/proc/PID/map_files/…`.
    pub open_path: Option<PathBuf>,
    /// Device (`st_dev`); for display only: overlayfs and btrfs show other
    /// devices in maps than in `stat`.
    pub dev: u64,
    /// Inode number; 0 is unknown.
    pub inode: u64,
    /// Build id taken when it was mapped, lower-case hexadecimal, as of
    /// [`build_id_hex`]. It decides alone when it is there: an inode number
    /// may be reused by the next build.
    pub build_id: Option<String>,
}

/// The executable mappings of one program image (exec to exec or exit).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageMaps {
    /// Mappings that do not overlap, in any order.
    pub mappings: Vec<ExecMapping>,
    /// Directory that the mappings' paths count from (`/proc/PID/root`, or a
    /// descriptor of it); `None` is the recorder's own root.
    pub root: Option<PathBuf>,
}

/// How an instruction pointer was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpKind {
    /// The instruction itself: the innermost frame of a fault or a probe.
    Exact,
    /// A return address: the call is before it, so one byte less is looked up.
    Return,
}

/// An instruction pointer to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ip {
    /// Address in the process (or the kernel).
    pub addr: u64,
    /// What the address means.
    pub kind: IpKind,
}

impl Ip {
    /// The address to look up.
    pub(crate) fn lookup_addr(self) -> u64 {
        match self.kind {
            IpKind::Exact => self.addr,
            IpKind::Return => self.addr.saturating_sub(1),
        }
    }
}

/// Where a name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SymbolSource {
    /// Go's `pclntab`.
    Pclntab,
    /// DWARF, of the file or its separate debug file.
    Dwarf,
    /// `.symtab` or `.dynsym`.
    ElfSymtab,
    /// `/proc/kallsyms`.
    Kallsyms,
    /// No name: the function is a placeholder.
    Unresolved,
}

/// Why an address has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unresolved {
    /// No executable mapping holds the address.
    NoMapping,
    /// Anonymous executable memory: code made by a JIT compiler.
    Anonymous,
    /// The vdso or another page the kernel provides.
    KernelProvided,
    /// The file cannot be opened any more.
    FileGone,
    /// The file is another one than was mapped.
    FileReplaced,
    /// Neither inode nor build id was recorded, so the file may be another.
    Unverifiable,
    /// The file is not a regular ELF file.
    NotElf,
    /// The file has no symbol for the address.
    NoSymbol,
    /// The symbolizer failed on the file.
    Failed,
    /// `/proc/kallsyms` shows zeros: `kptr_restrict` or missing CAP_SYSLOG.
    KernelAddressesHidden,
    /// `/proc/kallsyms` cannot be read.
    KallsymsUnreadable,
}

/// One frame of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Function, demangled; a placeholder such as `libc.so.6+0x1234`,
    /// `[anon]`, `[vdso]` when unresolved.
    pub function: Arc<str>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Line in the source file.
    pub line: Option<u32>,
    /// Path of the mapped file; `[kernel]`, `[module]` of the kernel, `[anon]`
    /// or `[vdso]`; empty when no mapping holds the address.
    pub module: Arc<str>,
    /// Offset into the file in bytes of the address as it was given; for the
    /// kernel from `_text`. `None` when there is nothing to count from.
    pub module_offset: Option<u64>,
    /// Start of the physical function: ELF virtual address in a file, address
    /// in the kernel. `None` on inlined frames and when unknown.
    pub function_addr: Option<u64>,
    /// Where the name comes from.
    pub source: SymbolSource,
}

/// Counts of addresses, by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Resolved addresses by the source of the physical function's name.
    pub resolved: BTreeMap<SymbolSource, u64>,
    /// Unresolved addresses by reason.
    pub unresolved: BTreeMap<Unresolved, u64>,
}

/// What one address became, before it is a row.
pub(crate) enum Outcome {
    Named(SymbolSource, Vec<Symbol>),
    Unnamed(Unresolved),
}

/// Names addresses, and counts how it went.
#[derive(Default)]
pub struct Symbolizer {
    stats: Stats,
    strings: Strings,
}

impl Symbolizer {
    /// A symbolizer with empty counts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Name user addresses of one image. The answer has one entry per address,
    /// in order: its frames, innermost inlined call first, the physical
    /// function last; never empty. All addresses of a file are looked up
    /// together: give as many at once as there are, each only once.
    pub fn resolve(&mut self, image: &ImageMaps, ips: &[Ip]) -> Vec<Vec<Symbol>> {
        let mut rows: Vec<Vec<Symbol>> = vec![Vec::new(); ips.len()];
        self.resolve_each(image, ips, |slot, symbols| {
            rows[slot] = symbols;
            true
        });
        rows
    }

    /// As [`Symbolizer::resolve`], handing out the frames of the address at each index as soon as there are any, in the
    /// order of the files. Ends when `out` answers false.
    pub fn resolve_each(&mut self, image: &ImageMaps, ips: &[Ip], mut out: impl FnMut(usize, Vec<Symbol>) -> bool) {
        let index = MappingIndex::new(&image.mappings);
        let mut files: BTreeMap<module::FileKey<'_>, Vec<module::Want>> = BTreeMap::new();
        for (slot, ip) in ips.iter().enumerate() {
            let row = match index.find(ip.lookup_addr()) {
                Some(mapping) if module::is_file(&mapping.path) => {
                    let offset = |addr: u64| addr.wrapping_sub(mapping.start).wrapping_add(mapping.file_offset);
                    let want = module::Want { slot, lookup_offset: offset(ip.lookup_addr()), offset: offset(ip.addr) };
                    files.entry(module::FileKey::new(mapping)).or_default().push(want);
                    continue;
                }
                Some(mapping) => self.pseudo(&mapping.path),
                None => self.unnamed("[unknown]", "", None, Unresolved::NoMapping),
            };
            if !out(slot, vec![row]) {
                return;
            }
        }
        for (key, wants) in files {
            let outcomes = module::resolve(&mut self.strings, image.root.as_deref(), &key, &wants);
            for (want, outcome) in wants.iter().zip(outcomes) {
                let row = self.settle(outcome, key.path(), want.offset);
                if !out(want.slot, row) {
                    return;
                }
            }
            self.strings.clear();
        }
    }

    /// Name kernel addresses, one frame each, from `/proc/kallsyms`.
    pub fn resolve_kernel(&mut self, ips: &[Ip]) -> Vec<Symbol> {
        let file = File::open("/proc/kallsyms").map(std::io::BufReader::new);
        let outcomes = match file {
            Ok(reader) => kernel::resolve(&mut self.strings, reader, ips),
            Err(_) => ips.iter().map(|_| Outcome::Unnamed(Unresolved::KallsymsUnreadable)).collect(),
        };
        ips.iter()
            .zip(outcomes)
            .map(|(_, outcome)| match outcome {
                Outcome::Named(source, mut symbols) if !symbols.is_empty() => {
                    *self.stats.resolved.entry(source).or_default() += 1;
                    symbols.swap_remove(0)
                }
                Outcome::Named(..) => self.unnamed("[kernel]", "[kernel]", None, Unresolved::NoSymbol),
                Outcome::Unnamed(reason) => self.unnamed("[kernel]", "[kernel]", None, reason),
            })
            .collect()
    }

    /// Counts since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn settle(&mut self, outcome: Outcome, path: &str, offset: u64) -> Vec<Symbol> {
        match outcome {
            Outcome::Named(source, symbols) if !symbols.is_empty() => {
                *self.stats.resolved.entry(source).or_default() += 1;
                symbols
            }
            Outcome::Named(..) => vec![self.unnamed_at(path, offset, Unresolved::NoSymbol)],
            Outcome::Unnamed(reason) => vec![self.unnamed_at(path, offset, reason)],
        }
    }

    fn unnamed_at(&mut self, path: &str, offset: u64, reason: Unresolved) -> Symbol {
        let base = path.rsplit('/').next().unwrap_or(path);
        self.unnamed(&format!("{base}+{offset:#x}"), path, Some(offset), reason)
    }

    /// A frame in memory that no file backs.
    fn pseudo(&mut self, path: &str) -> Symbol {
        match path {
            "[vdso]" | "[vsyscall]" | "[uprobes]" | "[sigpage]" | "[vectors]" => {
                self.unnamed(path, path, None, Unresolved::KernelProvided)
            }
            _ => self.unnamed("[anon]", "[anon]", None, Unresolved::Anonymous),
        }
    }

    fn unnamed(&mut self, function: &str, module: &str, module_offset: Option<u64>, reason: Unresolved) -> Symbol {
        *self.stats.unresolved.entry(reason).or_default() += 1;
        Symbol {
            function: self.strings.intern(function),
            file: None,
            line: None,
            module: self.strings.intern(module),
            module_offset,
            function_addr: None,
            source: SymbolSource::Unresolved,
        }
    }
}

/// One allocation per distinct text: stacks repeat files and functions.
#[derive(Default)]
pub(crate) struct Strings(HashSet<Arc<str>>);

impl Strings {
    pub(crate) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = Arc::from(text);
        self.0.insert(new.clone());
        new
    }

    fn clear(&mut self) {
        self.0 = HashSet::new();
    }
}

/// Mappings by address.
struct MappingIndex<'a>(Vec<&'a ExecMapping>);

impl<'a> MappingIndex<'a> {
    fn new(mappings: &'a [ExecMapping]) -> Self {
        let mut sorted: Vec<_> = mappings.iter().collect();
        sorted.sort_by_key(|mapping| mapping.start);
        Self(sorted)
    }

    fn find(&self, addr: u64) -> Option<&'a ExecMapping> {
        let after = self.0.partition_point(|mapping| mapping.start <= addr);
        let mapping = *self.0.get(after.checked_sub(1)?)?;
        (addr < mapping.end).then_some(mapping)
    }
}

/// Open a regular file for reading. The path may come from somebody else's
/// `/proc/PID/maps`: a pipe or device there must not block or be read.
pub(crate) fn open_regular(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}
