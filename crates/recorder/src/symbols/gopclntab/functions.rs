//! The function index, function records and value tables.

use std::cell::Cell;

use super::super::elf::ElfFile;
use super::header::{Header, Layout};
use super::inline::{self, InlineTrees};
use super::moduledata::Module;
use super::{Error, Frame, Function};

/// Longest function or file name that is read.
const MAX_NAME_BYTES: usize = 4096;
/// Steps through value tables in one lookup, and for one program in all: a
/// lookup in real programs takes some hundreds.
const MAX_LOOKUP_STEPS: u64 = 1 << 20;
const MAX_TOTAL_STEPS: u64 = 1 << 30;
/// Bytes of names handed out for one program in all.
const MAX_TOTAL_NAME_BYTES: u64 = 64 << 20;

/// A program's table, ready for lookups.
pub(super) struct Tables {
    header: Header,
    text: u64,
    trees: Option<InlineTrees>,
    total_steps: Cell<u64>,
    total_name_bytes: Cell<u64>,
}

/// `runtime._func`, the fields used here.
pub(super) struct Record {
    pub(super) entry: u64,
    pub(super) end: u64,
    pub(super) name: u32,
    stack_values: u32,
    file_values: u32,
    line_values: u32,
    pcdata_count: u32,
    unit: u32,
    start_line: Option<u32>,
    function_id: u8,
    funcdata_count: u8,
    /// File offset of the `pcdata` and `funcdata` arrays behind the record.
    arrays: u64,
}

impl Record {
    /// Offset of the `index`-th value table; `None` when there is none.
    fn pcdata(&self, elf: &ElfFile, index: u32) -> Option<u32> {
        if index >= self.pcdata_count {
            return None;
        }
        elf.u32(self.arrays.checked_add(4 * u64::from(index))?).filter(|&table| table != 0)
    }

    /// Offset of the `index`-th function data from `gofunc` (Go 1.18+).
    pub(super) fn funcdata(&self, elf: &ElfFile, index: u8) -> Option<u32> {
        if index >= self.funcdata_count {
            return None;
        }
        let slot = u64::from(self.pcdata_count) + u64::from(index);
        elf.u32(self.arrays.checked_add(4 * slot)?).filter(|&offset| offset != u32::MAX)
    }
}

/// `PCDATA_InlTreeIndex`, unchanged since Go 1.16.
const PCDATA_INLINE_INDEX: u32 = 2;

impl Tables {
    pub(super) fn new(elf: &ElfFile, header: Header, module: Option<Module>) -> Result<Self, Error> {
        let malformed = |reason| Error::Malformed { offset: header.offset, reason };
        let text = match &module {
            Some(module) => module.text,
            None => header.text_start,
        };
        if header.layout >= Layout::V118 && text == 0 {
            return Err(malformed(
                "the text start is unknown: the header has 0 (Go 1.27, or PIE) and no module data points to the table",
            ));
        }
        let mut tables = Self { header, text, trees: None, total_steps: Cell::new(0), total_name_bytes: Cell::new(0) };
        if tables.header.layout == Layout::V116 && tables.index_entry(elf, 0).is_none_or(|(entry, _)| entry == 0) {
            let offset = tables.header.offset;
            return Err(Error::Malformed {
                offset,
                reason: "function addresses are left to relocations (Go 1.16 or 1.17, PIE by an external linker): rebuild with Go 1.18 or later, or without -buildmode=pie",
            });
        }
        tables.trees = module.and_then(|module| InlineTrees::find(elf, &tables, &module));
        Ok(tables)
    }

    pub(super) fn count(&self) -> u64 {
        self.header.functions
    }

    pub(super) fn layout(&self) -> Layout {
        self.header.layout
    }

    pub(super) fn has_inlines(&self) -> bool {
        self.trees.is_some()
    }

    pub(super) fn trees(&self) -> Option<&InlineTrees> {
        self.trees.as_ref()
    }

    /// Address and record offset in the `index`-th entry of the function index.
    fn index_entry(&self, elf: &ElfFile, index: u64) -> Option<(u64, u64)> {
        let size = self.header.entry_bytes(elf.word_bytes());
        let at = self.header.table + index * 2 * size;
        if self.header.layout == Layout::V116 {
            // The last entry is an address alone.
            let offset = if index < self.count() { elf.word(at + size)? } else { 0 };
            return Some((elf.word(at)?, offset));
        }
        let offset = if index < self.count() { elf.u32(at + size)? } else { 0 };
        Some((self.text.checked_add(u64::from(elf.u32(at)?))?, u64::from(offset)))
    }

    /// The `index`-th function's record.
    pub(super) fn record(&self, elf: &ElfFile, index: u64) -> Option<Record> {
        if index >= self.count() {
            return None;
        }
        let (entry, offset) = self.index_entry(elf, index)?;
        let (end, _) = self.index_entry(elf, index + 1)?;
        let own = if self.header.layout == Layout::V116 { elf.word_bytes() } else { 4 };
        let fields = self.header.table.checked_add(offset)?.checked_add(own)?;
        let mut raw = [0; 40];
        let len = if self.header.layout == Layout::V120 { 40 } else { 36 };
        let raw = raw.get_mut(..len)?;
        if fields.checked_add(len as u64)? > self.header.end {
            return None;
        }
        elf.source().read(fields, raw)?;
        let number = |slot: usize| raw.get(4 * slot..).and_then(|bytes| elf.u32_of(bytes));
        let tail = raw.get(len - 4..)?;
        Some(Record {
            entry,
            end,
            name: number(0)?,
            stack_values: number(3)?,
            file_values: number(4)?,
            line_values: number(5)?,
            pcdata_count: number(6)?,
            unit: number(7)?,
            start_line: if self.header.layout == Layout::V120 { number(8).filter(|&line| line != 0) } else { None },
            function_id: *tail.first()?,
            funcdata_count: *tail.last()?,
            arrays: fields + len as u64,
        })
    }

    pub(super) fn nth(&self, elf: &ElfFile, index: u64) -> Option<(u64, String)> {
        let record = self.record(elf, index)?;
        Some((record.entry, self.name(elf, record.name)?))
    }

    /// Bytes by which the stack pointer is below its value at the function's
    /// entry, when `pc` is about to be executed (`pcsp`).
    pub(super) fn stack_bytes(&self, elf: &ElfFile, pc: u64) -> Option<i32> {
        let record = self.record(elf, self.index_of(elf, pc)?)?;
        let mut steps = MAX_LOOKUP_STEPS;
        self.value(elf, record.stack_values, pc.checked_sub(record.entry)?, &mut steps)
    }

    pub(super) fn lookup(&self, elf: &ElfFile, pc: u64) -> Option<Function> {
        let record = self.record(elf, self.index_of(elf, pc)?)?;
        let within = pc.checked_sub(record.entry)?;
        let mut steps = MAX_LOOKUP_STEPS.min(MAX_TOTAL_STEPS - self.total_steps.get().min(MAX_TOTAL_STEPS));
        let granted = steps;
        let frames = inline::frames(self, elf, &record, within, &mut steps);
        self.total_steps.set(self.total_steps.get() + (granted - steps));
        Some(Function { entry: record.entry, end: record.end, frames: frames? })
    }

    /// Index of the function that contains `pc`.
    fn index_of(&self, elf: &ElfFile, pc: u64) -> Option<u64> {
        let (first, _) = self.index_entry(elf, 0)?;
        let (last, _) = self.index_entry(elf, self.count())?;
        if pc < first || pc >= last {
            return None;
        }
        let (mut low, mut high) = (0, self.count());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.index_entry(elf, middle)?.0 <= pc { low = middle } else { high = middle }
        }
        Some(low)
    }

    /// The physical frame at `within` bytes after the entry.
    pub(super) fn physical(&self, elf: &ElfFile, record: &Record, within: u64, steps: &mut u64) -> Option<Frame> {
        let (file, line) = self.position(elf, record, within, steps);
        Some(Frame { name: self.name(elf, record.name)?, file, line, start_line: record.start_line })
    }

    /// File and line at `within` bytes after the entry.
    pub(super) fn position(
        &self,
        elf: &ElfFile,
        record: &Record,
        within: u64,
        steps: &mut u64,
    ) -> (Option<String>, Option<u32>) {
        let file = self
            .value(elf, record.file_values, within, steps)
            .and_then(|number| self.file(elf, record, u32::try_from(number).ok()?));
        let line = self.value(elf, record.line_values, within, steps).and_then(|line| u32::try_from(line).ok());
        (file, line.filter(|&line| line > 0))
    }

    /// Index into the inline tree at `within`; `None` in the function itself.
    pub(super) fn inline_index(&self, elf: &ElfFile, record: &Record, within: u64, steps: &mut u64) -> Option<u32> {
        let table = record.pcdata(elf, PCDATA_INLINE_INDEX)?;
        u32::try_from(self.value(elf, table, within, steps)?).ok()
    }

    /// Name of the `number`-th file of the function's compile unit.
    pub(super) fn file(&self, elf: &ElfFile, record: &Record, number: u32) -> Option<String> {
        let slot = u64::from(record.unit) + u64::from(number);
        let at = self.header.units + 4 * slot;
        if at + 4 > self.header.files {
            return None;
        }
        let offset = elf.u32(at).filter(|&offset| offset != u32::MAX)?;
        self.text_at(elf, self.header.files, self.header.values, offset)
    }

    /// Function name at an offset into the names.
    pub(super) fn name(&self, elf: &ElfFile, offset: u32) -> Option<String> {
        self.text_at(elf, self.header.names, self.header.units, offset)
    }

    /// Whether a name starts at this offset.
    pub(super) fn starts_name(&self, elf: &ElfFile, offset: u32) -> bool {
        let byte = |at: u64| {
            let mut byte = [0xff];
            elf.source().read(at, &mut byte).map(|()| byte[0])
        };
        let at = self.header.names + u64::from(offset);
        // Up to Go 1.21 the first name has no NUL before it.
        at < self.header.units && byte(at).is_some_and(|first| first != 0) && (offset == 0 || byte(at - 1) == Some(0))
    }

    fn text_at(&self, elf: &ElfFile, start: u64, end: u64, offset: u32) -> Option<String> {
        let at = start + u64::from(offset);
        let limit = usize::try_from(end.checked_sub(at)?).ok()?.min(MAX_NAME_BYTES);
        if self.total_name_bytes.get() > MAX_TOTAL_NAME_BYTES {
            return None;
        }
        let text = elf.c_string(at, limit).filter(|text| !text.is_empty())?;
        self.total_name_bytes.set(self.total_name_bytes.get() + text.len() as u64);
        Some(text)
    }

    /// Value at `within` in the table at `offset` of the value tables: pairs
    /// of zig-zag value delta and address delta, starting at -1; a value delta
    /// of 0 ends it (`runtime.step`).
    fn value(&self, elf: &ElfFile, offset: u32, within: u64, steps: &mut u64) -> Option<i32> {
        if offset == 0 {
            return None;
        }
        let start = self.header.values.checked_add(u64::from(offset))?;
        let mut bytes = Bytes::new(elf, start, self.header.table);
        let (mut value, mut pc, mut first) = (-1_i32, 0_u64, true);
        loop {
            *steps = steps.checked_sub(1)?;
            let delta = bytes.varint()?;
            if delta == 0 && !first {
                return None;
            }
            first = false;
            value = value.wrapping_add((delta >> 1) as i32 ^ -((delta & 1) as i32));
            pc = pc.checked_add(u64::from(bytes.varint()?) * self.header.quantum)?;
            if within < pc {
                return Some(value);
            }
        }
    }

    /// Entries by name: one pass over the names, one over the records, both
    /// sequential, so that a large or hostile table costs a bounded read.
    pub(super) fn entries_of(&self, elf: &ElfFile, names: &[&str]) -> Vec<Option<u64>> {
        let offsets = self.name_offsets(elf, names);
        let mut found: Vec<Option<(u8, u64)>> = vec![None; names.len()];
        let mut previous = None;
        for index in 0..self.count() {
            let Some((_, offset)) = self.index_entry(elf, index) else {
                break;
            };
            // Records are written in address order; a jump back is damage.
            if previous.is_some_and(|previous| offset <= previous) {
                break;
            }
            previous = Some(offset);
            let Some(record) = self.record(elf, index) else {
                continue;
            };
            for (slot, _) in offsets.iter().enumerate().filter(|(_, at)| **at == Some(record.name)) {
                // Wrappers have the highest function id of their release.
                let candidate = (record.function_id, record.entry);
                if let Some(best) = found.get_mut(slot)
                    && best.is_none_or(|best| candidate.0 < best.0)
                {
                    *best = Some(candidate);
                }
            }
        }
        found.into_iter().map(|entry| entry.map(|(_, entry)| entry)).collect()
    }

    fn name_offsets(&self, elf: &ElfFile, names: &[&str]) -> Vec<Option<u32>> {
        let mut offsets = vec![None; names.len()];
        let longest = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut current = Vec::with_capacity(longest + 1);
        let mut started = 0_u64;
        let size_bytes = self.header.units - self.header.names;
        elf.source().scan(self.header.names, size_bytes, 0, |at, bytes| {
            for (index, &byte) in bytes.iter().enumerate() {
                if byte != 0 {
                    if current.len() <= longest {
                        current.push(byte);
                    }
                    continue;
                }
                for (slot, _) in names.iter().enumerate().filter(|(_, name)| name.as_bytes() == current) {
                    if let Some(offset) = offsets.get_mut(slot) {
                        *offset = u32::try_from(started).ok();
                    }
                }
                current.clear();
                started = at - self.header.names + index as u64 + 1;
            }
            true
        });
        offsets
    }
}

/// Bytes of a value table, fetched some at a time.
struct Bytes<'a> {
    elf: &'a ElfFile,
    at: u64,
    end: u64,
    buffer: [u8; 128],
    filled: usize,
    used: usize,
}

impl<'a> Bytes<'a> {
    fn new(elf: &'a ElfFile, at: u64, end: u64) -> Self {
        Self { elf, at, end, buffer: [0; 128], filled: 0, used: 0 }
    }

    fn next(&mut self) -> Option<u8> {
        if self.used == self.filled {
            let take = self.end.checked_sub(self.at)?.min(self.buffer.len() as u64);
            if take == 0 {
                return None;
            }
            self.elf.source().read(self.at, self.buffer.get_mut(..take as usize)?)?;
            self.at += take;
            self.filled = take as usize;
            self.used = 0;
        }
        let byte = *self.buffer.get(self.used)?;
        self.used += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.next()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
