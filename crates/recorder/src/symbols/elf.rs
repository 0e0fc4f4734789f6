//! The few parts of an ELF file that symbols need, read lazily and checked.
//!
//! The `object` crate reads through borrowed slices, so it wants the file
//! mapped or cached whole; this reader keeps the headers only (bounded) and
//! fetches the rest at offsets. Record layouts: System V ABI, chapters 4 and 5.

use std::ops::Range;

use super::source::Source;

/// Most section or program headers that are kept; real files have under 100
/// (a big `-ffunction-sections` object has thousands, but is not executed).
const MAX_HEADERS: u64 = 8192;
/// Longest section name that is compared.
const MAX_SECTION_NAME: usize = 64;
/// Most bytes of a segment that one scan reads.
pub(crate) const MAX_SCAN_BYTES: u64 = 512 << 20;
/// Most bytes of a relocation table that are read (5.6 million entries).
const MAX_RELOCATION_BYTES: u64 = 128 << 20;

/// `PT_LOAD` and friends.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) executable: bool,
    pub(crate) offset: u64,
    pub(crate) vaddr: u64,
    pub(crate) file_bytes: u64,
}

/// A section header with its name.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) vaddr: u64,
    pub(crate) offset: u64,
    pub(crate) size_bytes: u64,
}

/// Program header kinds used here.
pub(crate) const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
pub(crate) const PT_NOTE: u32 = 4;
/// Section kinds used here.
pub(crate) const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const PF_X: u32 = 1;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// Whose code a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    X86_64,
    Aarch64,
    Other,
}

/// An ELF file: headers in memory, contents read on demand.
pub(crate) struct ElfFile {
    source: Source,
    is_64: bool,
    is_little: bool,
    machine: u16,
    pub(crate) segments: Vec<Segment>,
    pub(crate) sections: Vec<Section>,
}

impl ElfFile {
    /// Read the headers; `None` when this is not an ELF file with a readable
    /// header. Unreadable program or section headers leave empty lists.
    pub(crate) fn parse(source: Source) -> Option<Self> {
        let mut ident = [0; 16];
        source.read(0, &mut ident)?;
        if ident[..4] != *b"\x7fELF" {
            return None;
        }
        let (is_64, is_little) = match (ident[4], ident[5]) {
            (2, 1) => (true, true),
            (2, 2) => (true, false),
            (1, 1) => (false, true),
            (1, 2) => (false, false),
            _ => return None,
        };
        let mut elf = Self { source, is_64, is_little, machine: 0, segments: Vec::new(), sections: Vec::new() };
        elf.machine = elf.u16(18)?;
        elf.segments = elf.read_segments().unwrap_or_default();
        elf.sections = elf.read_sections().unwrap_or_default();
        Some(elf)
    }

    /// The bytes below.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Whose code it holds.
    pub(crate) fn machine(&self) -> Machine {
        match self.machine {
            EM_X86_64 if self.is_64 => Machine::X86_64,
            EM_AARCH64 if self.is_64 => Machine::Aarch64,
            _ => Machine::Other,
        }
    }

    /// Bytes in an address of this file's class.
    pub(crate) fn word_bytes(&self) -> u64 {
        if self.is_64 { 8 } else { 4 }
    }

    pub(crate) fn u16(&self, offset: u64) -> Option<u16> {
        let mut raw = [0; 2];
        self.source.read(offset, &mut raw)?;
        Some(if self.is_little { u16::from_le_bytes(raw) } else { u16::from_be_bytes(raw) })
    }

    pub(crate) fn u32(&self, offset: u64) -> Option<u32> {
        let mut raw = [0; 4];
        self.source.read(offset, &mut raw)?;
        self.u32_of(&raw)
    }

    /// A word of the file's class at a file offset.
    pub(crate) fn word(&self, offset: u64) -> Option<u64> {
        let mut raw = [0; 8];
        let raw = raw.get_mut(..self.word_bytes() as usize)?;
        self.source.read(offset, raw)?;
        self.word_of(raw)
    }

    /// The first four of `bytes` in the file's byte order.
    pub(crate) fn u32_of(&self, bytes: &[u8]) -> Option<u32> {
        let raw = bytes.get(..4)?.try_into().ok()?;
        Some(if self.is_little { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) })
    }

    /// A word of the file's class at the start of `bytes`.
    pub(crate) fn word_of(&self, bytes: &[u8]) -> Option<u64> {
        if !self.is_64 {
            return self.u32_of(bytes).map(u64::from);
        }
        let raw = bytes.get(..8)?.try_into().ok()?;
        Some(if self.is_little { u64::from_le_bytes(raw) } else { u64::from_be_bytes(raw) })
    }

    fn read_segments(&self) -> Option<Vec<Segment>> {
        let (table, entry, count) = if self.is_64 {
            (self.word(32)?, self.u16(54)?, self.u16(56)?)
        } else {
            (self.word(28)?, self.u16(42)?, self.u16(44)?)
        };
        let mut segments = Vec::new();
        for index in 0..u64::from(count).min(MAX_HEADERS) {
            let at = table.checked_add(index * u64::from(entry))?;
            let field = |n: u64| self.word(at.checked_add(n)?);
            let flags_at = if self.is_64 { 4 } else { 24 };
            let (offset, vaddr, file_bytes) =
                if self.is_64 { (field(8)?, field(16)?, field(32)?) } else { (field(4)?, field(8)?, field(16)?) };
            let executable = self.u32(at.checked_add(flags_at)?)? & PF_X != 0;
            segments.push(Segment { kind: self.u32(at)?, executable, offset, vaddr, file_bytes });
        }
        Some(segments)
    }

    fn read_sections(&self) -> Option<Vec<Section>> {
        let (table, entry, count, names) = if self.is_64 {
            (self.word(40)?, self.u16(58)?, self.u16(60)?, self.u16(62)?)
        } else {
            (self.word(32)?, self.u16(46)?, self.u16(48)?, self.u16(50)?)
        };
        if table == 0 {
            return Some(Vec::new());
        }
        let header = |index: u64| -> Option<(u32, Section)> {
            let at = table.checked_add(index.checked_mul(u64::from(entry))?)?;
            let word = |slot: u64| self.word(at.checked_add(8 + slot * self.word_bytes())?);
            let section = Section {
                name: String::new(),
                kind: self.u32(at.checked_add(4)?)?,
                vaddr: word(1)?,
                offset: word(2)?,
                size_bytes: word(3)?,
            };
            Some((self.u32(at)?, section))
        };
        let (_, strings) = header(u64::from(names))?;
        let mut sections = Vec::new();
        for index in 0..u64::from(count).min(MAX_HEADERS) {
            let Some((name_at, mut section)) = header(index) else {
                break;
            };
            section.name = strings
                .offset
                .checked_add(u64::from(name_at))
                .filter(|_| u64::from(name_at) < strings.size_bytes)
                .and_then(|at| self.c_string(at, MAX_SECTION_NAME))
                .unwrap_or_default();
            sections.push(section);
        }
        Some(sections)
    }

    /// A NUL-terminated string at a file offset; `None` when no NUL follows
    /// within `limit` bytes.
    pub(crate) fn c_string(&self, offset: u64, limit: usize) -> Option<String> {
        let mut text = Vec::new();
        let mut at = offset;
        let mut chunk = [0; 64];
        while text.len() < limit {
            let left = self.source.len_bytes().checked_sub(at)?;
            let take = usize::try_from(left).unwrap_or(64).min(64);
            if take == 0 {
                return None;
            }
            let chunk = chunk.get_mut(..take)?;
            self.source.read(at, chunk)?;
            if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(chunk.get(..end)?);
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
            text.extend_from_slice(chunk);
            at += take as u64;
        }
        None
    }

    /// First section of this name that has contents in the file.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.kind != SHT_NOBITS)
    }

    /// The loadable segments, in file order.
    pub(crate) fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD)
    }

    /// File offset of a virtual address, through the program headers.
    pub(crate) fn file_offset(&self, vaddr: u64) -> Option<u64> {
        self.file_range(vaddr).map(|range| range.start)
    }

    /// File offsets from a virtual address to the end of its segment's data.
    pub(crate) fn file_range(&self, vaddr: u64) -> Option<Range<u64>> {
        self.loads().find_map(|load| {
            let within = vaddr.checked_sub(load.vaddr).filter(|&within| within < load.file_bytes)?;
            Some(load.offset.checked_add(within)?..load.offset.checked_add(load.file_bytes)?)
        })
    }

    /// Virtual address of a file offset; an executable segment is preferred,
    /// because adjacent segments may share a page of the file.
    pub(crate) fn vaddr(&self, offset: u64) -> Option<u64> {
        let address = |load: &Segment| {
            let within = offset.checked_sub(load.offset).filter(|&within| within < load.file_bytes)?;
            load.vaddr.checked_add(within)
        };
        self.loads().filter(|load| load.executable).find_map(address).or_else(|| self.loads().find_map(address))
    }

    /// Visit `(place, value)` of each relative dynamic relocation that carries
    /// its value (RELA); position-independent files may hold zeros in place.
    /// REL and RELR keep the value in place and need no visit.
    pub(crate) fn each_relative_relocation(&self, mut visit: impl FnMut(u64, u64)) {
        let Some((start, size_bytes)) = self.rela_table() else {
            return;
        };
        let word = self.word_bytes();
        let entry = 3 * word as usize;
        let mut pending: Vec<u8> = Vec::new();
        self.source.scan(start, size_bytes.min(MAX_RELOCATION_BYTES), 0, |_, bytes| {
            pending.extend_from_slice(bytes);
            let whole = pending.len() / entry * entry;
            for record in pending.get(..whole).unwrap_or_default().chunks_exact(entry) {
                let field = |n: u64| record.get((n * word) as usize..).and_then(|raw| self.word_of(raw));
                if let (Some(place), Some(info), Some(value)) = (field(0), field(1), field(2))
                    && self.is_relative(info)
                {
                    visit(place, value);
                }
            }
            pending.drain(..whole);
            true
        });
    }

    fn rela_table(&self) -> Option<(u64, u64)> {
        let dynamic = self.segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
        let word = self.word_bytes();
        let (mut table, mut size_bytes) = (None, None);
        for index in 0..(dynamic.file_bytes / (2 * word)).min(MAX_HEADERS) {
            let at = dynamic.offset.checked_add(index * 2 * word)?;
            let value = self.word(at.checked_add(word)?)?;
            match self.word(at)? {
                0 => break,
                7 => table = Some(value),
                8 => size_bytes = Some(value),
                _ => {}
            }
        }
        let range = self.file_range(table?)?;
        Some((range.start, size_bytes?.min(range.end - range.start)))
    }

    /// `R_<machine>_RELATIVE`, psABI of each machine that Go targets.
    fn is_relative(&self, info: u64) -> bool {
        let kind = if self.is_64 { info & 0xffff_ffff } else { info & 0xff };
        match self.machine {
            62 | 3 => kind == 8,
            183 => kind == 1027,
            243 | 258 => kind == 3,
            22 => kind == 12,
            21 => kind == 22,
            40 => kind == 23,
            _ => false,
        }
    }
}
