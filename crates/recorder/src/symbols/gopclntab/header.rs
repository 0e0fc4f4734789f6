//! The table's header, `runtime.pcHeader`.

use super::super::elf::ElfFile;
use super::Error;

/// Most functions that are believed; Kubernetes-sized programs have 200,000.
const MAX_FUNCTIONS: u64 = 1 << 22;
/// Most bytes of one table that are used.
const MAX_TABLE_BYTES: u64 = 512 << 20;
/// Bytes of the longest header.
pub(super) const MAX_HEADER_BYTES: usize = 8 + 8 * 8;

/// Layout generations, by magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    /// Go 1.16 and 1.17: absolute function addresses.
    V116,
    /// Go 1.18 and 1.19: offsets from the text start; 20-byte inline records.
    V118,
    /// Go 1.20 and later: start lines; 16-byte inline records.
    V120,
}

/// Where the parts of a table are, as file offsets.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) layout: Layout,
    /// File offset and virtual address of the header itself.
    pub(super) offset: u64,
    pub(super) vaddr: u64,
    /// File offset of the first byte after the table (or its segment).
    pub(super) end: u64,
    /// Smallest instruction size: the unit of address deltas.
    pub(super) quantum: u64,
    pub(super) functions: u64,
    /// Text start as the header has it: 0 before 1.18, in PIE files that keep
    /// it in a relocation, and from Go 1.27 on.
    pub(super) text_start: u64,
    pub(super) names: u64,
    pub(super) units: u64,
    pub(super) files: u64,
    pub(super) values: u64,
    pub(super) table: u64,
}

/// The first bytes of a table: whether they can be one, and of what layout.
pub(super) enum Magic {
    /// Readable here.
    Known(Layout),
    /// Go 1.2 to 1.15.
    TooOld,
}

impl Magic {
    /// Judge the first eight bytes: magic, two zeros, quantum, pointer size.
    pub(super) fn read(elf: &ElfFile, bytes: &[u8]) -> Option<Self> {
        let tail: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
        let [0, 0, 1 | 2 | 4, pointer] = tail else {
            return None;
        };
        if u64::from(pointer) != elf.word_bytes() {
            return None;
        }
        match elf.u32_of(bytes)? {
            0xffff_fffa => Some(Self::Known(Layout::V116)),
            0xffff_fff0 => Some(Self::Known(Layout::V118)),
            0xffff_fff1 => Some(Self::Known(Layout::V120)),
            0xffff_fffb => Some(Self::TooOld),
            _ => None,
        }
    }
}

impl Header {
    /// Read and check the header at a file offset; `size_bytes` bounds the
    /// table.
    pub(super) fn parse(elf: &ElfFile, offset: u64, vaddr: u64, size_bytes: u64) -> Result<Self, Error> {
        let malformed = |reason| Error::Malformed { offset, reason };
        let mut first = [0; 8];
        elf.source().read(offset, &mut first).ok_or_else(|| malformed("the header is cut off"))?;
        let layout = match Magic::read(elf, &first) {
            Some(Magic::Known(layout)) => layout,
            Some(Magic::TooOld) => return Err(Error::TooOld { offset }),
            None => {
                return Err(malformed("unknown magic number: the layout of a future Go release, or no table"));
            }
        };
        let size_bytes = size_bytes.min(elf.source().len_bytes().saturating_sub(offset)).min(MAX_TABLE_BYTES);
        let word = elf.word_bytes();
        let slot = |index: u64| {
            elf.word(offset.saturating_add(8 + index * word)).ok_or_else(|| malformed("the header is cut off"))
        };
        let has_text = u64::from(layout >= Layout::V118);
        let part = |index: u64| -> Result<u64, Error> {
            let relative = slot(2 + has_text + index)?;
            if relative < 8 + (7 + has_text) * word || relative >= size_bytes {
                return Err(malformed("a part lies outside the table"));
            }
            Ok(offset + relative)
        };
        let header = Self {
            layout,
            offset,
            vaddr,
            end: offset + size_bytes,
            quantum: u64::from(first[6]),
            functions: slot(0)?,
            text_start: if has_text == 1 { slot(2)? } else { 0 },
            names: part(0)?,
            units: part(1)?,
            files: part(2)?,
            values: part(3)?,
            table: part(4)?,
        };
        header.check(word)
    }

    fn check(self, word: u64) -> Result<Self, Error> {
        let malformed = |reason| Err(Error::Malformed { offset: self.offset, reason });
        if self.functions == 0 || self.functions > MAX_FUNCTIONS {
            return malformed("no functions, or more than 4,194,304");
        }
        let ordered = self.names <= self.units
            && self.units <= self.files
            && self.files <= self.values
            && self.values <= self.table;
        if !ordered {
            return malformed("its parts are out of order");
        }
        if self.table + (self.functions * 2 + 1) * self.entry_bytes(word) > self.end {
            return malformed("the function index is cut off");
        }
        Ok(self)
    }

    /// Bytes of one number in the function index.
    pub(super) fn entry_bytes(&self, word: u64) -> u64 {
        if self.layout == Layout::V116 { word } else { 4 }
    }
}
