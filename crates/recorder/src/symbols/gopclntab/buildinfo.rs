//! The Go version in `.go.buildinfo` (`debug/buildinfo` in Go's tree).

use super::super::elf::{ElfFile, MAX_SCAN_BYTES};

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
/// The block is aligned to this many bytes.
const ALIGN: u64 = 16;
/// Longest version that is believed; development builds add date and hash.
const MAX_VERSION_BYTES: u64 = 256;

/// The version string, such as `go1.27.3`.
pub(super) fn version(elf: &ElfFile) -> Option<String> {
    let offset = match elf.section(".go.buildinfo") {
        Some(section) => section.offset,
        None => search(elf)?,
    };
    let mut head = [0; 16];
    elf.source().read(offset, &mut head)?;
    if head[..14] != MAGIC[..] {
        return None;
    }
    // Flag bit 1: the strings follow in line (Go 1.18 and later).
    let (at, len_bytes) = if head[15] & 2 != 0 { inline(elf, offset + 32)? } else { pointer(elf, offset)? };
    if len_bytes == 0 || len_bytes > MAX_VERSION_BYTES {
        return None;
    }
    let mut text = vec![0; len_bytes as usize];
    elf.source().read(at, &mut text)?;
    String::from_utf8(text).ok()
}

/// Length as a varint, then the bytes.
fn inline(elf: &ElfFile, mut at: u64) -> Option<(u64, u64)> {
    let mut len_bytes = 0_u64;
    for shift in [0, 7, 14] {
        let mut byte = [0];
        elf.source().read(at, &mut byte)?;
        at += 1;
        len_bytes |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Some((at, len_bytes));
        }
    }
    None
}

/// Before Go 1.18: a pointer to a string header (address, length).
fn pointer(elf: &ElfFile, offset: u64) -> Option<(u64, u64)> {
    let header = elf.file_offset(elf.word(offset.checked_add(16)?)?)?;
    let at = elf.file_offset(elf.word(header)?)?;
    Some((at, elf.word(header.checked_add(elf.word_bytes())?)?))
}

fn search(elf: &ElfFile) -> Option<u64> {
    let mut found = None;
    for load in elf.loads().filter(|load| !load.executable) {
        elf.source().scan(load.offset, load.file_bytes.min(MAX_SCAN_BYTES), 0, |at, bytes| {
            let hit = bytes.chunks(ALIGN as usize).position(|chunk| chunk.starts_with(MAGIC));
            found = hit.map(|index| at + index as u64 * ALIGN);
            found.is_none()
        });
        if found.is_some() {
            break;
        }
    }
    found
}
