//! Callers of functions without a frame.
//!
//! A walk along the frame pointers misses the caller of the innermost function if that one has set up no frame:
//! memcpy, Go's memmove and memclr, system call stubs, and most leaf functions that a C compiler makes, also with
//! `-fno-omit-frame-pointer`. Then the stack pointer points to the missing return address; on arm64 the link register is
//! it. The kernel side sends that word if it looks like one; whether it is one is decided here, by the unwind tables of
//! the file: Go's `pcsp`, or the call frame information in `.eh_frame`. Nothing is guessed: without a table the word is
//! dropped.

mod eh_frame;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use crate::symbols::ExecMapping;
use crate::symbols::elf::{ElfFile, Machine};
use crate::symbols::gopclntab::GoBinary;
use crate::symbols::source::Source;

/// Files whose headers are kept; each holds up to 3 MiB of blocks.
const MAX_FILES: usize = 4;
/// Answers that are kept.
const MAX_ANSWERS: usize = 100_000;

/// Tells whether an instruction runs with the return address where the call has put it.
#[derive(Default)]
pub(crate) struct Leaves {
    answers: HashMap<Key, Option<bool>>,
    files: Vec<((u64, u64), Option<Tables>)>,
}

/// Device, inode, offset of the instruction in the file.
type Key = (u64, u64, u64);

/// The unwind tables of one file.
struct Tables {
    go: Option<GoBinary>,
    elf: ElfFile,
    frames: eh_frame::Index,
}

impl Leaves {
    /// True if the instruction at `addr` runs with the return address on top of the stack, on arm64 in the link register;
    /// `None` if no table says so.
    pub(crate) fn caller_on_top(&mut self, mapping: &ExecMapping, addr: u64) -> Option<bool> {
        if mapping.inode == 0 {
            return None;
        }
        let offset = addr.checked_sub(mapping.start)?.checked_add(mapping.file_offset)?;
        let key = (mapping.dev, mapping.inode, offset);
        if let Some(known) = self.answers.get(&key) {
            return *known;
        }
        let answer = self.tables(mapping).and_then(|t| t.caller_on_top(offset));
        if self.answers.len() < MAX_ANSWERS {
            self.answers.insert(key, answer);
        }
        answer
    }

    fn tables(&mut self, mapping: &ExecMapping) -> Option<&Tables> {
        let key = (mapping.dev, mapping.inode);
        if let Some(i) = self.files.iter().position(|(k, _)| *k == key) {
            // The most recent one is last.
            let found = self.files.remove(i);
            self.files.push(found);
        } else {
            if self.files.len() == MAX_FILES {
                self.files.remove(0);
            }
            let path = mapping.open_path.as_deref().unwrap_or(Path::new(&mapping.path));
            self.files.push((key, Tables::open(path)));
        }
        self.files.last().and_then(|(_, tables)| tables.as_ref())
    }
}

impl Tables {
    fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok().filter(|f| f.metadata().is_ok_and(|m| m.is_file()))?;
        let elf = ElfFile::parse(Source::from_file(file).ok()?)?;
        let frames = eh_frame::Index::of(&elf);
        Some(Self { go: GoBinary::open(path).ok().flatten(), elf, frames })
    }

    fn caller_on_top(&self, offset: u64) -> Option<bool> {
        let pc = self.elf.vaddr(offset)?;
        if let Some(go) = &self.go
            && let Some(bytes) = go.stack_bytes(pc)
        {
            // clone returns twice, the second time on a stack that nobody called from.
            let is_clone = || go.lookup(pc).is_some_and(|f| f.physical().is_some_and(|f| f.name == "runtime.clone"));
            return Some(bytes == 0 && !is_clone());
        }
        let rules = eh_frame::rules(&self.elf, &self.frames, pc)?;
        match self.elf.machine() {
            Machine::Aarch64 => Some(!rules.return_address_saved),
            _ => rules.cfa.map(|cfa| cfa == eh_frame::RETURN_ADDRESS_ON_TOP),
        }
    }
}

#[cfg(test)]
mod tests;
