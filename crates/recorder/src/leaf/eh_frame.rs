//! The canonical frame address at an instruction and whether the return address has been saved, from `.eh_frame`, by way of the search table in `.eh_frame_hdr` or,
//! in static programs that have none, of one that is made here.
//!
//! Formats: Linux Standard Base 5.0 (core, chapter 10.6) for the sections, DWARF 5, chapter 6.4, for the instructions.
//! Only the encodings that linkers for x86-64 and arm64 write are read; another one gives no answer. One table entry is read at
//! a time, so a large program costs no memory.

use crate::symbols::elf::ElfFile;

/// A rule of the form register + offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cfa {
    register: u64,
    offset: i64,
}

/// DWARF's number of rsp on x86-64.
const RSP: u64 = 7;
/// Nothing was pushed since the call.
pub(super) const RETURN_ADDRESS_ON_TOP: Cfa = Cfa { register: RSP, offset: 8 };

/// What holds at an instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// `None` if it has another form.
    pub(super) cfa: Option<Cfa>,
    /// In the frame; never so on entry where a register holds it.
    pub(super) return_address_saved: bool,
}

/// Longest entry that is read; real ones have some hundreds of bytes.
const MAX_ENTRY_BYTES: u64 = 64 * 1024;
/// Deepest nesting of remember_state; compilers use 1.
const MAX_REMEMBERED: usize = 16;

/// DW_EH_PE_*: the pointer encodings read here.
const PCREL_SDATA4: u8 = 0x1b;
const DATAREL_SDATA4: u8 = 0x3b;
const UDATA4: u8 = 0x03;

/// Largest section that is searched without a table.
const MAX_SCAN_BYTES: u64 = 8 << 20;

/// Where the entries of a file are.
pub(super) enum Index {
    /// The linker has made a table.
    Header,
    /// Begin of the range and address of its entry, by address.
    Own(Vec<(u64, u64)>),
}

impl Index {
    /// Looks for the linker's table; makes one if there is none.
    pub(super) fn of(elf: &ElfFile) -> Self {
        match elf.section(".eh_frame_hdr") {
            Some(_) => Self::Header,
            None => Self::Own(scan(elf)),
        }
    }

    fn search(&self, elf: &ElfFile, pc: u64) -> Option<u64> {
        match self {
            Self::Header => search(elf, pc),
            Self::Own(entries) => {
                let after = entries.partition_point(|(begin, _)| *begin <= pc);
                entries.get(after.checked_sub(1)?).map(|(_, at)| *at)
            }
        }
    }
}

/// All entries of the section. What follows a damaged one is left out.
fn scan(elf: &ElfFile) -> Vec<(u64, u64)> {
    let mut entries = Vec::new();
    let Some(section) = elf.section(".eh_frame").filter(|s| s.size_bytes <= MAX_SCAN_BYTES) else { return entries };
    let mut at = section.vaddr;
    let end = section.vaddr.saturating_add(section.size_bytes);
    while at < end {
        let Some((fields, start)) = entry(elf, at) else { break };
        let mut b = Bytes(&fields);
        if b.u32().is_some_and(|to_cie| to_cie != 0)
            && let Some(begin) = b.i32().and_then(|v| start.wrapping_add(4).checked_add_signed(i64::from(v)))
        {
            entries.push((begin, at));
        }
        at = start.saturating_add(fields.len() as u64);
    }
    entries.sort_unstable();
    entries
}

/// The rules at `pc`, an ELF virtual address; `None` if there is no entry for it.
pub(super) fn rules(elf: &ElfFile, index: &Index, pc: u64) -> Option<Rules> {
    let fde = Fde::find(elf, index, pc)?;
    let mut machine = Machine { cie: &fde.cie, at: fde.begin, pc, rules: Rules::default(), remembered: Vec::new() };
    if machine.run(&fde.cie.instructions)? {
        // The rules of the common entry hold everywhere: it does not advance.
        machine.run(&fde.instructions)?;
    }
    Some(machine.rules)
}

/// A frame description entry.
struct Fde {
    cie: Cie,
    begin: u64,
    instructions: Vec<u8>,
}

/// What entries have in common.
struct Cie {
    code_align: u64,
    data_align: i64,
    return_register: u64,
    has_augmentation_data: bool,
    instructions: Vec<u8>,
}

impl Fde {
    fn find(elf: &ElfFile, index: &Index, pc: u64) -> Option<Self> {
        let at = index.search(elf, pc)?;
        let (fields, start) = entry(elf, at)?;
        let mut b = Bytes(&fields);
        let to_cie = u64::from(b.u32()?);
        let cie = Cie::read(elf, start.checked_sub(to_cie).filter(|_| to_cie != 0)?)?;
        // pcrel: from the address of the field itself, which follows the pointer to the common entry.
        let begin = start.checked_add(4)?.checked_add_signed(i64::from(b.i32()?))?;
        let len = u64::from(b.u32()?);
        if pc < begin || pc - begin >= len {
            return None;
        }
        if cie.has_augmentation_data {
            let n = b.uleb()?;
            b.skip(n)?;
        }
        Some(Self { cie, begin, instructions: b.0.to_vec() })
    }
}

impl Cie {
    fn read(elf: &ElfFile, at: u64) -> Option<Self> {
        let (fields, _) = entry(elf, at)?;
        let mut b = Bytes(&fields);
        if b.u32()? != 0 {
            return None;
        }
        let version = b.u8()?;
        let augmentation = b.c_string()?.to_vec();
        let code_align = b.uleb()?;
        let data_align = b.sleb()?;
        let return_register = match version {
            1 => u64::from(b.u8()?),
            3 => b.uleb()?,
            _ => return None,
        };
        let has_augmentation_data = augmentation.first() == Some(&b'z');
        let mut pointers = 0;
        if has_augmentation_data {
            let n = b.uleb()?;
            let mut data = Bytes(b.take(n)?);
            for letter in &augmentation[1..] {
                match letter {
                    b'R' => pointers = data.u8()?,
                    b'L' => {
                        data.u8()?;
                    }
                    b'P' => {
                        let encoding = data.u8()?;
                        data.skip(size_of_encoding(encoding)?)?;
                    }
                    b'S' | b'B' => {}
                    _ => return None,
                }
            }
        }
        (pointers == PCREL_SDATA4).then(|| Self {
            code_align,
            data_align,
            return_register,
            has_augmentation_data,
            instructions: b.0.to_vec(),
        })
    }
}

fn size_of_encoding(encoding: u8) -> Option<u64> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(8),
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        _ => None,
    }
}

/// The fields of the entry at a virtual address, and the address of the first one.
fn entry(elf: &ElfFile, at: u64) -> Option<(Vec<u8>, u64)> {
    let offset = elf.file_offset(at)?;
    let len = u64::from(elf.u32(offset)?);
    // 0 ends the section; 0xffffffff begins the 64-bit form, which nobody writes here.
    if len == 0 || len > MAX_ENTRY_BYTES {
        return None;
    }
    let mut fields = vec![0; len as usize];
    elf.source().read(offset.checked_add(4)?, &mut fields)?;
    Some((fields, at.checked_add(4)?))
}

/// Virtual address of the entry that covers `pc`, by the sorted table of `.eh_frame_hdr`.
fn search(elf: &ElfFile, pc: u64) -> Option<u64> {
    let section = elf.section(".eh_frame_hdr")?;
    let mut head = [0; 12];
    elf.source().read(section.offset, &mut head)?;
    if head[0] != 1 || head[2] != UDATA4 || head[3] != DATAREL_SDATA4 || size_of_encoding(head[1]) != Some(4) {
        return None;
    }
    let count = u64::from(u32::from_le_bytes([head[8], head[9], head[10], head[11]]));
    if count.checked_mul(8)?.checked_add(12)? > section.size_bytes {
        return None;
    }
    let pair = |i: u64| -> Option<(u64, u64)> {
        let mut raw = [0; 8];
        elf.source().read(section.offset.checked_add(12 + 8 * i)?, &mut raw)?;
        let mut b = Bytes(&raw);
        let mut address = || section.vaddr.checked_add_signed(i64::from(b.i32()?));
        Some((address()?, address()?))
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if pair(middle)?.0 <= pc { low = middle + 1 } else { high = middle }
    }
    Some(pair(low.checked_sub(1)?)?.1)
}

/// Executes call frame instructions up to an address.
struct Machine<'a> {
    cie: &'a Cie,
    at: u64,
    pc: u64,
    rules: Rules,
    remembered: Vec<Rules>,
}

impl Machine<'_> {
    /// True if the end was reached before the address; `None` for an instruction that is not known.
    fn run(&mut self, instructions: &[u8]) -> Option<bool> {
        let mut b = Bytes(instructions);
        while let Some(op) = b.u8() {
            let advance = match (op >> 6, op & 0x3f) {
                (1, delta) => u64::from(delta),
                (2, register) => {
                    b.uleb()?;
                    self.saved(u64::from(register), true);
                    continue;
                }
                (3, register) => {
                    self.saved(u64::from(register), false);
                    continue;
                }
                (_, 0x02) => u64::from(b.u8()?),
                (_, 0x03) => u64::from(b.u16()?),
                (_, 0x04) => u64::from(b.u32()?),
                (_, op) => {
                    self.rule(op, &mut b)?;
                    continue;
                }
            };
            self.at = self.at.checked_add(advance.checked_mul(self.cie.code_align)?)?;
            if self.at > self.pc {
                return Some(false);
            }
        }
        Some(true)
    }

    fn saved(&mut self, register: u64, saved: bool) {
        if register == self.cie.return_register {
            self.rules.return_address_saved = saved;
        }
    }

    fn rule(&mut self, op: u8, b: &mut Bytes<'_>) -> Option<()> {
        let align = self.cie.data_align;
        match op {
            0x00 => {}
            // Signing of return addresses (arm64) says nothing about places.
            0x2d => {}
            0x2e => {
                b.uleb()?;
            }
            // Rules of registers: where they are saved does not matter here.
            0x05 | 0x09 | 0x14 | 0x2f => {
                let register = b.uleb()?;
                b.uleb()?;
                self.saved(register, true);
            }
            0x06..=0x08 => {
                let register = b.uleb()?;
                self.saved(register, false);
            }
            0x11 | 0x15 => {
                let register = b.uleb()?;
                b.sleb()?;
                self.saved(register, true);
            }
            0x10 | 0x16 => {
                let register = b.uleb()?;
                let n = b.uleb()?;
                b.skip(n)?;
                self.saved(register, true);
            }
            0x0a => {
                if self.remembered.len() == MAX_REMEMBERED {
                    return None;
                }
                self.remembered.push(self.rules);
            }
            0x0b => self.rules = self.remembered.pop()?,
            0x0c => self.rules.cfa = Some(Cfa { register: b.uleb()?, offset: i64::try_from(b.uleb()?).ok()? }),
            0x0d => {
                let register = b.uleb()?;
                self.rules.cfa = self.rules.cfa.map(|c| Cfa { register, ..c });
            }
            0x0e => {
                let offset = i64::try_from(b.uleb()?).ok()?;
                self.rules.cfa = self.rules.cfa.map(|c| Cfa { offset, ..c });
            }
            // An expression: procedure linkage tables have one.
            0x0f => {
                let n = b.uleb()?;
                b.skip(n)?;
                self.rules.cfa = None;
            }
            0x12 => self.rules.cfa = Some(Cfa { register: b.uleb()?, offset: b.sleb()?.checked_mul(align)? }),
            0x13 => {
                let offset = b.sleb()?.checked_mul(align)?;
                self.rules.cfa = self.rules.cfa.map(|c| Cfa { offset, ..c });
            }
            _ => return None,
        }
        Some(())
    }
}

/// Little-endian fields one after the other.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = tail;
        Some(head)
    }

    fn skip(&mut self, n: u64) -> Option<()> {
        self.take(n).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn c_string(&mut self) -> Option<&'a [u8]> {
        let n = self.0.iter().position(|&b| b == 0)?;
        let text = self.take(n as u64)?;
        self.skip(1)?;
        Some(text)
    }

    fn uleb(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.u8()?;
            if shift >= 64 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    }

    fn sleb(&mut self) -> Option<i64> {
        let (mut value, mut shift) = (0i64, 0);
        loop {
            let byte = self.u8()?;
            if shift >= 64 {
                return None;
            }
            value |= i64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                let negative = byte & 0x40 != 0 && shift < 64;
                return Some(if negative { value | (-1i64 << shift) } else { value });
            }
        }
    }
}
