//! Programs written by hand from the layout's description: what no toolchain
//! at hand makes (Go 1.16, 1.15), and damage in every byte of a small table.
#![allow(clippy::unwrap_used)]

use super::*;

/// Where the table is in the file and in memory.
const TABLE: usize = 0x200;
const LOAD: u64 = 0x40_0000;
const TEXT: u64 = 0x41_0000;

fn put(bytes: &mut Vec<u8>, numbers: &[u32]) {
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

/// An ELF file without sections: one data segment, one text segment.
fn elf(table: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([0_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let size = (TABLE + table.len()) as u64;
    for (flags, offset, vaddr, bytes) in [(4, 0, LOAD, size), (5, 0x100, TEXT, 0x80)] {
        put(&mut file, &[1, flags]);
        file.extend([offset, vaddr, vaddr, bytes, bytes, 0x1000_u64].iter().flat_map(|word| word.to_le_bytes()));
    }
    file.resize(TABLE, 0);
    file.extend(table);
    file
}

/// Two functions of 64 bytes: `main.f` at line 10, from byte 16 on 11, and
/// `main.main` at line 20. Value tables start at -1 and hold zig-zag deltas.
fn table(magic: u32) -> Vec<u8> {
    let old = magic == 0xffff_fffa;
    let names = b"\0main.f\0main.main\0\0\0\0\0\0\0";
    let files = b"main.go\0";
    let values = b"\0\x02\x40\0\x16\x10\x02\x30\0\x2a\x40\0\0\0\0\0";
    let header = if old { 64 } else { 72 };
    let offsets = [header, header + 24, header + 32, header + 40, header + 56];
    let mut bytes = Vec::new();
    put(&mut bytes, &[magic, 0x0801_0000]);
    let text: &[u64] = if old { &[] } else { &[TEXT] };
    for word in [&[2, 1], text, &offsets].concat() {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(names);
    put(&mut bytes, &[0, 0]);
    bytes.extend(files);
    bytes.extend(values);
    let index = if old { 40 } else { 24 };
    let record = if old {
        48
    } else if magic == 0xffff_fff0 {
        40
    } else {
        44
    };
    for (number, at) in [0, 0x40, 0x80].into_iter().enumerate() {
        let offset = index + number as u32 * record;
        if old {
            bytes.extend((TEXT + u64::from(at)).to_le_bytes());
            put(&mut bytes, &[offset, 0][..if number < 2 { 2 } else { 0 }]);
        } else {
            put(&mut bytes, &[at, offset]);
        }
    }
    for (at, name, lines) in [(0_u32, 1, 4), (0x40, 8, 9)] {
        if old {
            bytes.extend((TEXT + u64::from(at)).to_le_bytes());
        } else {
            put(&mut bytes, &[at]);
        }
        put(&mut bytes, &[name, 0, 0, 0, 1, lines, 0, 0]);
        if magic == 0xffff_fff1 {
            put(&mut bytes, &[9]);
        }
        put(&mut bytes, &[0]);
        if old {
            put(&mut bytes, &[0]);
        }
    }
    bytes
}

fn open(magic: u32) -> GoBinary {
    GoBinary::from_bytes(elf(&table(magic))).unwrap().unwrap()
}

fn line(go: &GoBinary, pc: u64) -> Option<(String, Option<String>, Option<u32>)> {
    let frame = go.lookup(pc)?.frames.pop()?;
    Some((frame.name, frame.file, frame.line))
}

#[test]
fn every_layout_gives_names_and_lines() {
    for magic in [0xffff_fffa, 0xffff_fff0, 0xffff_fff1] {
        let go = open(magic);
        assert_eq!(go.functions(), 2);
        let at = |name: &str, line| Some((name.to_string(), Some("main.go".to_string()), Some(line)));
        assert_eq!(line(&go, TEXT), at("main.f", 10), "{magic:#x}");
        assert_eq!(line(&go, TEXT + 15), at("main.f", 10), "{magic:#x}");
        assert_eq!(line(&go, TEXT + 16), at("main.f", 11), "{magic:#x}");
        assert_eq!(line(&go, TEXT + 0x7f), at("main.main", 20), "{magic:#x}");
        assert_eq!(line(&go, TEXT + 0x80), None);
        assert_eq!(line(&go, TEXT - 1), None);
        assert_eq!(go.entry_of("main.main"), Some(TEXT + 0x40));
        assert_eq!(go.entry_of("main"), None);
        assert_eq!(go.file_offset(TEXT + 0x40), Some(0x140));
        assert_eq!(go.lookup_file_offset(0x140), go.lookup(TEXT + 0x40));
        assert_eq!(go.go_version(), None);
    }
}

#[test]
fn a_table_before_go_1_16_is_refused_with_its_reason() {
    let mut bytes = table(0xffff_fff1);
    bytes[0] = 0xfb;
    let error = GoBinary::from_bytes(elf(&bytes)).err().unwrap();
    assert!(matches!(error, Error::TooOld { offset } if offset == TABLE as u64));
    assert!(error.to_string().contains("Go 1.16 or later"), "{error}");
}

#[test]
fn an_unknown_text_start_is_an_error_not_a_guess() {
    let mut bytes = table(0xffff_fff1);
    bytes[24..32].fill(0);
    let error = GoBinary::from_bytes(elf(&bytes)).err().unwrap();
    assert!(error.to_string().contains("text start is unknown"), "{error}");
}

#[test]
fn addresses_left_to_relocations_are_an_error() {
    let mut bytes = table(0xffff_fffa);
    let index = 64 + 24 + 8 + 8 + 16;
    bytes[index..index + 8].fill(0);
    let error = GoBinary::from_bytes(elf(&bytes)).err().unwrap();
    assert!(error.to_string().contains("relocations"), "{error}");
}

#[test]
fn every_damaged_byte_and_every_length_comes_back() {
    for magic in [0xffff_fffa, 0xffff_fff0, 0xffff_fff1] {
        let intact = elf(&table(magic));
        let exercise = |bytes: Vec<u8>| {
            let Ok(Some(go)) = GoBinary::from_bytes(bytes) else {
                return;
            };
            let _ =
                (go.go_version(), go.entry_of("main.main"), go.function(0), go.function(1), go.function(usize::MAX));
            for pc in [TEXT, TEXT + 20, TEXT + 0x7f, 0, u64::MAX] {
                let _ = (go.lookup(pc), go.file_offset(pc), go.lookup_file_offset(pc));
            }
        };
        for at in 0..intact.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = intact.clone();
                bytes[at] = value;
                exercise(bytes);
            }
            exercise(intact[..at].to_vec());
        }
    }
}
