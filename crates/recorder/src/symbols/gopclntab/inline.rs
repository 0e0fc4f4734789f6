//! Inlined calls: `FUNCDATA_InlTree` and `PCDATA_InlTreeIndex`.

use super::super::elf::ElfFile;
use super::Frame;
use super::functions::{Record, Tables};
use super::header::Layout;
use super::moduledata::Module;

/// `FUNCDATA_InlTree`, unchanged since Go 1.16.
const FUNCDATA_INLINE_TREE: u8 = 3;
/// Deepest nesting that is followed.
const MAX_FRAMES: usize = 64;
/// Functions that are looked through for trees to try candidates on, and
/// trees that a candidate must explain.
const SAMPLE_FUNCTIONS: u64 = 4096;
const SAMPLE_TREES: usize = 32;

/// Where inline trees count from (`moduledata.gofunc`), as a file offset.
pub(super) struct InlineTrees {
    base: u64,
    end: u64,
}

/// One inlined call.
struct Call {
    name: u32,
    /// Bytes from the physical entry to an instruction at the call site.
    parent_pc: u64,
    start_line: Option<u32>,
    /// Go 1.18 and 1.19 only: the caller's record, and the call's position.
    parent: Option<OldParent>,
}

struct OldParent {
    index: Option<u32>,
    file: u32,
    line: u32,
}

impl InlineTrees {
    /// Find `gofunc` among the module's words. Its place moves with the
    /// release (word 38 in 1.18, 40 from 1.20, 43 in 1.27), and a stripped
    /// development build does not say its release, so the words are tried: a
    /// base is right if the trees of many functions make sense under it.
    pub(super) fn find(elf: &ElfFile, tables: &Tables, module: &Module) -> Option<Self> {
        if tables.layout() < Layout::V118 {
            return None;
        }
        let sample: Vec<(Record, u32)> = (0..tables.count().min(SAMPLE_FUNCTIONS))
            .filter_map(|index| tables.record(elf, index))
            .filter_map(|record| Some((record.funcdata(elf, FUNCDATA_INLINE_TREE)?, record)))
            .map(|(tree, record)| (record, tree))
            .take(SAMPLE_TREES)
            .collect();
        if sample.is_empty() {
            return None;
        }
        // Most trees, not all: hand-written or damaged ones must not cost the
        // rest. A wrong base explains none, as names must start where it says.
        let explained = |trees: &Self| {
            sample.iter().filter(|(record, tree)| trees.call(elf, tables, record, *tree, 0).is_some()).count()
        };
        module
            .rest
            .iter()
            .filter_map(|&word| elf.file_range(word).map(|range| Self { base: range.start, end: range.end }))
            .find(|trees| 2 * explained(trees) > sample.len())
    }

    /// The `index`-th call of a function's tree, if it is one.
    fn call(&self, elf: &ElfFile, tables: &Tables, record: &Record, tree: u32, index: u32) -> Option<Call> {
        let size: u64 = if tables.layout() == Layout::V120 { 16 } else { 20 };
        let at = self.base.checked_add(u64::from(tree))?.checked_add(u64::from(index) * size)?;
        if at.checked_add(size)? > self.end {
            return None;
        }
        let mut raw = [0; 20];
        let raw = raw.get_mut(..size as usize)?;
        elf.source().read(at, raw)?;
        let number = |slot: usize| raw.get(4 * slot..).and_then(|bytes| elf.u32_of(bytes));
        let call = if tables.layout() == Layout::V120 {
            // funcID, three zeros, nameOff, parentPc, startLine.
            if raw.get(1..4)? != [0; 3] {
                return None;
            }
            Call {
                name: number(1)?,
                parent_pc: u64::from(number(2)?),
                start_line: number(3).filter(|&line| line != 0),
                parent: None,
            }
        } else {
            // parent i16, funcID, zero, file, line, nameOff, parentPc.
            if *raw.get(3)? != 0 {
                return None;
            }
            let half = elf.u16(at)?;
            let parent = u32::from(half);
            let parent = OldParent { index: (half != u16::MAX).then_some(parent), file: number(1)?, line: number(2)? };
            Call { name: number(3)?, parent_pc: u64::from(number(4)?), start_line: None, parent: Some(parent) }
        };
        let fits = call.parent_pc < record.end.checked_sub(record.entry)? && tables.starts_name(elf, call.name);
        fits.then_some(call)
    }
}

/// Frames at `within` bytes after a function's entry, innermost first. A tree
/// that makes no sense leaves the frames found so far and the physical one.
pub(super) fn frames(
    tables: &Tables,
    elf: &ElfFile,
    record: &Record,
    within: u64,
    steps: &mut u64,
) -> Option<Vec<Frame>> {
    let tree = tables.trees().zip(record.funcdata(elf, FUNCDATA_INLINE_TREE));
    let Some((trees, tree)) = tree else {
        return Some(vec![tables.physical(elf, record, within, steps)?]);
    };
    let call = |index: u32| trees.call(elf, tables, record, tree, index);
    if tables.layout() == Layout::V118 {
        return old_frames(tables, elf, record, within, steps, call);
    }
    let mut frames = Vec::new();
    let mut at = within;
    while frames.len() < MAX_FRAMES {
        let Some(call) = tables.inline_index(elf, record, at, steps).and_then(call) else {
            break;
        };
        let (file, line) = tables.position(elf, record, at, steps);
        frames.push(Frame { name: tables.name(elf, call.name)?, file, line, start_line: call.start_line });
        at = call.parent_pc;
    }
    frames.push(tables.physical(elf, record, at, steps)?);
    Some(frames)
}

/// Go 1.18 and 1.19: each record names its caller and the call's position.
fn old_frames(
    tables: &Tables,
    elf: &ElfFile,
    record: &Record,
    within: u64,
    steps: &mut u64,
    call: impl Fn(u32) -> Option<Call>,
) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    let (mut file, mut line) = tables.position(elf, record, within, steps);
    let mut index = tables.inline_index(elf, record, within, steps);
    while let Some(current) = index.and_then(&call)
        && frames.len() < MAX_FRAMES
    {
        frames.push(Frame { name: tables.name(elf, current.name)?, file, line, start_line: None });
        let parent = current.parent?;
        file = tables.file(elf, record, parent.file);
        line = Some(parent.line);
        index = parent.index;
    }
    let mut physical = tables.physical(elf, record, within, steps)?;
    (physical.file, physical.line) = (file, line);
    frames.push(physical);
    Some(frames)
}
