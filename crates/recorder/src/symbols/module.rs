//! Names for offsets into one file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use blazesym::symbolize::source::{Elf, Source as BlazeSource};
use blazesym::symbolize::{Input, Sym, Symbolized, Symbolizer as Blazesym};

use super::demangle::demangle;
use super::elf::ElfFile;
use super::gopclntab::{Frame, Function, GoBinary};
use super::source::Source;
use super::{ExecMapping, Outcome, Strings, Symbol, SymbolSource, Unresolved, build_id, open_regular};

/// What makes two mappings the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileKey<'a> {
    path: &'a str,
    open_path: Option<&'a Path>,
    inode: u64,
    build_id: Option<&'a str>,
}

impl<'a> FileKey<'a> {
    pub(super) fn new(mapping: &'a ExecMapping) -> Self {
        Self {
            path: &mapping.path,
            open_path: mapping.open_path.as_deref(),
            inode: mapping.inode,
            build_id: mapping.build_id.as_deref(),
        }
    }

    pub(super) fn path(&self) -> &'a str {
        self.path
    }
}

/// One address in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// Its place in the answer.
    pub(super) slot: usize,
    /// File offset to look up: of the call for a return address.
    pub(super) lookup_offset: u64,
    /// File offset of the address as given.
    pub(super) offset: u64,
}

/// Whether a path of `/proc/PID/maps` is a file, not memory without one.
pub(super) fn is_file(path: &str) -> bool {
    path.starts_with('/') && !path.starts_with("//anon") && !path.starts_with("/dev/zero")
}

/// Name all wanted offsets; one outcome each, in order.
pub(super) fn resolve(strings: &mut Strings, root: Option<&Path>, key: &FileKey<'_>, wants: &[Want]) -> Vec<Outcome> {
    let file = match open_verified(root, key) {
        Ok(file) => file,
        Err(reason) => return wants.iter().map(|_| Outcome::Unnamed(reason)).collect(),
    };
    let (is_go, mut outcomes) = resolve_go(strings, &file, key, wants);
    let rest: Vec<usize> =
        (0..wants.len()).filter(|&at| matches!(outcomes.get(at), Some(Outcome::Unnamed(_)))).collect();
    if !rest.is_empty() {
        let offsets: Vec<Want> = rest.iter().filter_map(|&at| wants.get(at).copied()).collect();
        let more = resolve_elf(strings, &file, key, &offsets, is_go);
        release_free_memory();
        for (at, outcome) in rest.into_iter().zip(more) {
            if let Some(slot) = outcomes.get_mut(at) {
                *slot = outcome;
            }
        }
    }
    outcomes
}

/// Give the debug information's memory back before the next file: glibc keeps
/// freed memory, and the peak would add up over the files.
fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; it only releases memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Open the file and make sure that it is the one that was mapped.
fn open_verified(root: Option<&Path>, key: &FileKey<'_>) -> Result<File, Unresolved> {
    let file = open_regular(&open_path(root, key)).map_err(|_| Unresolved::FileGone)?;
    if let Some(expected) = key.build_id {
        let copy = file.try_clone().map_err(|_| Unresolved::Failed)?;
        let found = build_id::build_id_of(copy).map(|id| build_id::hex(&id));
        return if found.as_deref() == Some(expected) { Ok(file) } else { Err(Unresolved::FileReplaced) };
    }
    if key.inode == 0 {
        return Err(Unresolved::Unverifiable);
    }
    match file.metadata() {
        Ok(metadata) if metadata.ino() == key.inode => Ok(file),
        Ok(_) => Err(Unresolved::FileReplaced),
        Err(_) => Err(Unresolved::FileGone),
    }
}

fn open_path(root: Option<&Path>, key: &FileKey<'_>) -> PathBuf {
    if let Some(path) = key.open_path {
        return path.to_path_buf();
    }
    match root {
        Some(root) => root.join(key.path.trim_start_matches('/')),
        None => PathBuf::from(key.path),
    }
}

/// Answers of Go's table, and whether this is a Go program at all.
fn resolve_go(strings: &mut Strings, file: &File, key: &FileKey<'_>, wants: &[Want]) -> (bool, Vec<Outcome>) {
    let unnamed = || wants.iter().map(|_| Outcome::Unnamed(Unresolved::NoSymbol)).collect();
    let go = match file.try_clone().map(GoBinary::from_file) {
        Ok(Ok(Some(go))) => go,
        // A Go program whose table is damaged: only exact symbols are trusted.
        Ok(Err(super::gopclntab::Error::Malformed { .. } | super::gopclntab::Error::TooOld { .. })) => {
            return (true, unnamed());
        }
        _ => return (false, unnamed()),
    };
    // Neighbours share blocks of the table: look up in address order.
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|&at| wants.get(at).map_or(0, |want| want.lookup_offset));
    let mut outcomes: Vec<Outcome> = unnamed();
    for at in order {
        let Some(want) = wants.get(at) else { continue };
        if let Some(function) = go.lookup_file_offset(want.lookup_offset)
            && let Some(slot) = outcomes.get_mut(at)
        {
            *slot = Outcome::Named(SymbolSource::Pclntab, go_symbols(strings, key, want, function));
        }
    }
    (true, outcomes)
}

fn go_symbols(strings: &mut Strings, key: &FileKey<'_>, want: &Want, function: Function) -> Vec<Symbol> {
    let module = strings.intern(key.path);
    let last = function.frames.len().saturating_sub(1);
    let symbol = |(at, frame): (usize, Frame)| Symbol {
        function: strings.intern(&frame.name),
        file: frame.file.map(|file| strings.intern(&file)),
        line: frame.line,
        module: module.clone(),
        module_offset: Some(want.offset),
        function_addr: (at == last).then_some(function.entry),
        source: SymbolSource::Pclntab,
    };
    function.frames.into_iter().enumerate().map(symbol).collect()
}

/// Answers of DWARF and ELF symbols.
fn resolve_elf(strings: &mut Strings, file: &File, key: &FileKey<'_>, wants: &[Want], is_go: bool) -> Vec<Outcome> {
    let failed = |reason| wants.iter().map(|_| Outcome::Unnamed(reason)).collect::<Vec<_>>();
    let is_elf = file.try_clone().and_then(Source::from_file).ok().and_then(ElfFile::parse).is_some();
    if !is_elf {
        return failed(Unresolved::NotElf);
    }
    // The verified descriptor, not the path: the path may lead elsewhere by now.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Debug information may be damaged or compressed in a way that is not
    // built in; the symbol table then still has names.
    [true, false]
        .into_iter()
        .find_map(|debug_syms| {
            // A hostile file must not end the recording.
            let attempt =
                catch_unwind(AssertUnwindSafe(|| blazesym_outcomes(strings, &path, key, wants, is_go, debug_syms)));
            attempt.ok().flatten()
        })
        .unwrap_or_else(|| failed(Unresolved::Failed))
}

fn blazesym_outcomes(
    strings: &mut Strings,
    path: &Path,
    key: &FileKey<'_>,
    wants: &[Want],
    is_go: bool,
    debug_syms: bool,
) -> Option<Vec<Outcome>> {
    let mut elf = Elf::new(path);
    elf.debug_syms = debug_syms;
    let symbolizer = Blazesym::builder().enable_auto_reload(false).enable_demangling(false).build();
    let offsets: Vec<u64> = wants.iter().map(|want| want.lookup_offset).collect();
    let found = symbolizer.symbolize(&BlazeSource::Elf(elf), Input::FileOffset(&offsets)).ok()?;
    let outcomes = wants.iter().zip(found).map(|(want, found)| match found {
        Symbolized::Sym(sym) if fits(&sym, is_go) => {
            let source = if sym.code_info.is_some() || !sym.inlined.is_empty() {
                SymbolSource::Dwarf
            } else {
                SymbolSource::ElfSymtab
            };
            Outcome::Named(source, elf_symbols(strings, key, want, &sym, source))
        }
        _ => Outcome::Unnamed(Unresolved::NoSymbol),
    });
    Some(outcomes.collect())
}

/// Whether the address is inside the symbol. The nearest symbol before it is
/// often another function in stripped files; in Go programs, whose own table
/// did not know the address, a symbol without a size is not trusted either.
fn fits(sym: &Sym<'_>, is_go: bool) -> bool {
    match sym.size {
        Some(size) if size > 0 => sym.offset < size,
        _ => !is_go,
    }
}

fn elf_symbols(
    strings: &mut Strings,
    key: &FileKey<'_>,
    want: &Want,
    sym: &Sym<'_>,
    source: SymbolSource,
) -> Vec<Symbol> {
    let module = strings.intern(key.path);
    let mut symbol = |name: &str, code: Option<&blazesym::symbolize::CodeInfo<'_>>, function_addr| Symbol {
        function: strings.intern(&demangle(name)),
        file: code.map(|code| strings.intern(&code.to_path().to_string_lossy())),
        line: code.and_then(|code| code.line),
        module: module.clone(),
        module_offset: Some(want.offset),
        function_addr,
        source,
    };
    // blazesym lists inlined calls from the outermost to the innermost.
    let mut symbols: Vec<Symbol> =
        sym.inlined.iter().rev().map(|inlined| symbol(&inlined.name, inlined.code_info.as_ref(), None)).collect();
    symbols.push(symbol(&sym.name, sym.code_info.as_deref(), Some(sym.addr)));
    symbols
}
