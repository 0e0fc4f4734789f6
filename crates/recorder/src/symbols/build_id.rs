//! Build identities of a file: the GNU build id, else Go's own.

use std::fs::File;
use std::path::Path;

use super::elf::{ElfFile, PT_NOTE, SHT_NOTE};
use super::open_regular;
use super::source::Source;

/// Most bytes of notes that are searched.
const MAX_NOTES_BYTES: u64 = 64 * 1024;
const NT_GNU_BUILD_ID: u32 = 3;
const NT_GO_BUILD_ID: u32 = 4;

/// The GNU build id of the ELF file at `path` (`NT_GNU_BUILD_ID` note),
/// else the Go build id (`.note.go.buildid`, as its bytes); `None` when the
/// file cannot be read or has neither.
pub fn build_id(path: &Path) -> Option<Vec<u8>> {
    build_id_of(open_regular(path).ok()?)
}

/// [`build_id`] as lower-case hexadecimal.
pub fn build_id_hex(path: &Path) -> Option<String> {
    build_id(path).map(|id| hex(&id))
}

/// [`build_id`] of an open file.
pub fn build_id_of(file: File) -> Option<Vec<u8>> {
    let elf = ElfFile::parse(Source::from_file(file).ok()?)?;
    find(&elf)
}

/// Lower-case hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Build id in an open ELF file; program headers first, as the kernel does.
pub(crate) fn find(elf: &ElfFile) -> Option<Vec<u8>> {
    let segments = elf.segments.iter().filter(|segment| segment.kind == PT_NOTE);
    let areas = segments.map(|segment| (segment.offset, segment.file_bytes)).chain(
        elf.sections
            .iter()
            .filter(|section| section.kind == SHT_NOTE)
            .map(|section| (section.offset, section.size_bytes)),
    );
    let mut go = None;
    for (offset, size_bytes) in areas {
        match search_notes(elf, offset, size_bytes.min(MAX_NOTES_BYTES), &mut go) {
            Some(gnu) => return Some(gnu),
            None => continue,
        }
    }
    go
}

fn search_notes(elf: &ElfFile, offset: u64, size_bytes: u64, go: &mut Option<Vec<u8>>) -> Option<Vec<u8>> {
    let end = offset.checked_add(size_bytes)?;
    let mut at = offset;
    while at.checked_add(12)? <= end {
        let name_bytes = u64::from(elf.u32(at)?);
        let value_bytes = u64::from(elf.u32(at + 4)?);
        let kind = elf.u32(at + 8)?;
        let value_at = (at + 12).checked_add(name_bytes.next_multiple_of(4))?;
        let next = value_at.checked_add(value_bytes.next_multiple_of(4))?;
        if value_at.checked_add(value_bytes)? > end || name_bytes > 16 || value_bytes == 0 {
            at = next;
            continue;
        }
        let mut name = vec![0; name_bytes as usize];
        elf.source().read(at + 12, &mut name)?;
        let wanted = (kind == NT_GNU_BUILD_ID && name == b"GNU\0") || (kind == NT_GO_BUILD_ID && name == b"Go\0\0");
        if wanted {
            let mut value = vec![0; value_bytes as usize];
            elf.source().read(value_at, &mut value)?;
            if kind == NT_GNU_BUILD_ID {
                return Some(value);
            }
            go.get_or_insert(value);
        }
        at = next;
    }
    None
}
