//! Where the table is: by section name, else by its magic number.

use super::super::elf::{ElfFile, MAX_SCAN_BYTES};
use super::header::{Header, MAX_HEADER_BYTES, Magic};
use super::{Error, moduledata};

/// Names the Go linker gives the section; the second in PIE before Go 1.27.
const SECTION_NAMES: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Sections that only Go programs have. GNU ld folds `.data.rel.ro.gopclntab`
/// into `.data.rel.ro`, so a missing name alone proves nothing.
const GO_MARKS: [&str; 3] = [".go.buildinfo", ".note.go.buildid", ".go.module"];

/// Headers found by searching whose module is looked for; each costs reads.
const MAX_SEARCH_HITS: usize = 4;

/// The table's header, or `None` when this is no Go program.
pub(super) fn header(elf: &ElfFile) -> Result<Option<Header>, Error> {
    let mut problem = None;
    for section in SECTION_NAMES.iter().filter_map(|name| elf.section(name)) {
        match Header::parse(elf, section.offset, section.vaddr, section.size_bytes) {
            Ok(header) => return Ok(Some(header)),
            Err(error) => problem = Some(error),
        }
    }
    // Programs that kept their section headers and have none of Go's marks
    // are not searched: that would read every C library once.
    let marked = GO_MARKS.iter().any(|name| elf.section(name).is_some());
    if !marked && problem.is_none() && !elf.sections.is_empty() {
        return Ok(None);
    }
    match search(elf) {
        Ok(Some(header)) => Ok(Some(header)),
        Ok(None) => problem.map_or(Ok(None), Err),
        Err(error) => Err(problem.unwrap_or(error)),
    }
}

/// Look for the magic number in the loadable segments. Programs that read Go
/// tables contain the number as a constant, so a hit must also have a header
/// that fits, and a module that points to it where one can be found.
fn search(elf: &ElfFile) -> Result<Option<Header>, Error> {
    let mut too_old = None;
    let mut unproven = None;
    let mut hits = 0;
    for load in elf.loads() {
        let mut proven = None;
        elf.source().scan(load.offset, load.file_bytes.min(MAX_SCAN_BYTES), MAX_HEADER_BYTES, |at, bytes| {
            for (index, candidate) in bytes.windows(8).enumerate().filter(|(_, raw)| raw[4] == 0 && raw[5] == 0) {
                let offset = at + index as u64;
                // The linker aligns the table to 32 bytes, older ones to words.
                if !offset.is_multiple_of(elf.word_bytes()) {
                    continue;
                }
                match Magic::read(elf, candidate) {
                    Some(Magic::Known(_)) => {}
                    Some(Magic::TooOld) => {
                        too_old.get_or_insert(offset);
                        continue;
                    }
                    None => continue,
                }
                let within = offset - load.offset;
                let Some(vaddr) = load.vaddr.checked_add(within) else {
                    continue;
                };
                let Ok(header) = Header::parse(elf, offset, vaddr, load.file_bytes - within) else {
                    continue;
                };
                hits += 1;
                if moduledata::find(elf, &header).is_some() {
                    proven = Some(header);
                    return false;
                }
                unproven.get_or_insert(header);
                if hits == MAX_SEARCH_HITS {
                    return false;
                }
            }
            true
        });
        if proven.is_some() {
            return Ok(proven);
        }
        if hits == MAX_SEARCH_HITS {
            break;
        }
    }
    match (unproven, too_old) {
        (Some(header), _) => Ok(Some(header)),
        (None, Some(offset)) => Err(Error::TooOld { offset }),
        (None, None) => Ok(None),
    }
}
