//! `runtime.firstmoduledata`: the text start and the base of function data.
//!
//! Its first fields have kept their order since Go 1.16: `pcHeader`, six
//! slices (names, compile units, files, values, table, function index),
//! `findfunctab`, `minpc`, `maxpc`, `text`, `etext`. What follows differs by
//! release, so `gofunc` is not read at a fixed place; see [`super::inline`].

use super::super::elf::{ElfFile, MAX_SCAN_BYTES};
use super::header::Header;

/// Words read of the structure: enough to hold `gofunc` in every release.
pub(super) const WORDS: usize = 52;
/// Words that every release has: up to `etext`.
const FIXED_WORDS: usize = 24;
/// Most places that are tried.
const MAX_CANDIDATES: usize = 6;

/// The module that owns the table.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// Address that function offsets count from.
    pub(super) text: u64,
    /// Words after `etext`, with relocations applied: `gofunc` is among them.
    pub(super) rest: Vec<u64>,
}

/// Find the module whose first field points to `header`.
pub(super) fn find(elf: &ElfFile, header: &Header) -> Option<Module> {
    if let Some(section) = elf.section(".go.module")
        && let Some(module) = read(elf, header, section.vaddr)
    {
        return Some(module);
    }
    pointers_in_place(elf, header.vaddr)
        .into_iter()
        .chain(pointers_in_relocations(elf, header.vaddr))
        .find_map(|vaddr| read(elf, header, vaddr))
}

/// Addresses in data segments whose word is `target`. Go's own linker writes
/// values in place even where a relocation exists.
fn pointers_in_place(elf: &ElfFile, target: u64) -> Vec<u64> {
    let word = elf.word_bytes() as usize;
    let mut found = Vec::new();
    // The module is data: with separate code there is no need to read text.
    for load in elf.loads().filter(|load| !load.executable) {
        elf.source().scan(load.offset, load.file_bytes.min(MAX_SCAN_BYTES), 0, |at, bytes| {
            for (index, raw) in bytes.chunks_exact(word).enumerate() {
                if elf.word_of(raw) == Some(target) && found.len() < MAX_CANDIDATES {
                    let within = at - load.offset + (index * word) as u64;
                    found.extend(load.vaddr.checked_add(within));
                }
            }
            found.len() < MAX_CANDIDATES
        });
    }
    found
}

/// Places that a relocation fills with `target`: what external linkers leave.
fn pointers_in_relocations(elf: &ElfFile, target: u64) -> Vec<u64> {
    let mut found = Vec::new();
    elf.each_relative_relocation(|place, value| {
        if value == target && found.len() < MAX_CANDIDATES {
            found.push(place);
        }
    });
    found
}

/// Read the structure at an address; `None` unless it describes `header`.
fn read(elf: &ElfFile, header: &Header, vaddr: u64) -> Option<Module> {
    let words = words_at(elf, vaddr)?;
    let word = |index: usize| words.get(index).copied();
    let address = |offset: u64| header.vaddr.wrapping_add(offset - header.offset);
    let slices_match = word(0)? == header.vaddr
        && word(1)? == address(header.names)
        && word(4)? == address(header.units)
        && word(7)? == address(header.files)
        && word(10)? == address(header.values)
        && word(13)? == address(header.table)
        && word(16)? == address(header.table);
    let (minpc, maxpc, text, etext) = (word(20)?, word(21)?, word(22)?, word(23)?);
    let ordered = text <= minpc && minpc < maxpc && maxpc <= etext;
    // The function index ends with one more entry, the end of the text.
    if !slices_match || !ordered || word(17)? != header.functions + 1 {
        return None;
    }
    Some(Module { text, rest: words.get(FIXED_WORDS..)?.to_vec() })
}

/// The words at an address, with the values of relocations where there are
/// any. Words past the end of the segment's data are left out.
fn words_at(elf: &ElfFile, vaddr: u64) -> Option<Vec<u64>> {
    let range = elf.file_range(vaddr)?;
    let word = elf.word_bytes();
    let mut words: Vec<u64> = (0..WORDS as u64)
        .map_while(|index| {
            range
                .start
                .checked_add(index * word)
                .filter(|at| at.checked_add(word).is_some_and(|end| end <= range.end))
                .and_then(|at| elf.word(at))
        })
        .collect();
    if words.len() < FIXED_WORDS {
        return None;
    }
    elf.each_relative_relocation(|place, value| {
        if let Some(within) = place.checked_sub(vaddr)
            && within.is_multiple_of(word)
            && let Some(slot) = words.get_mut((within / word) as usize)
        {
            *slot = value;
        }
    });
    Some(words)
}
