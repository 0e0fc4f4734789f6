//! stack_id → frames with names, and the frame that a person wants to see.
//!
//! Everything is computed once per stack, not per fault: names are interned, and so are code locations.

mod pick;

use std::collections::HashMap;

use mtrace_formats::tables::{Frame, MapRow, SymbolRow, SymbolSource};

use crate::load::NONE;
use crate::model::{CodeLocation, StackFrame};

/// Frames beyond this depth are not kept: the recorder walks fewer.
const MAX_DEPTH: u32 = 1024;

/// A frame, compact; the numbers refer to the interned strings of the table.
#[derive(Debug, Clone, Copy)]
struct FrameRow {
    function: u32,
    file: u32,
    line: u32,
    module: u32,
    inlined: bool,
}

/// One stack: a range of frames, and its place in the code.
#[derive(Debug, Clone, Copy)]
struct Stack {
    first: u32,
    len: u32,
    location: LocationId,
    function: FunctionId,
}

/// Stacks by number: the recorder counts from one, so that a plain vector serves; a capture that does not is looked
/// up in a map.
#[derive(Debug, Default)]
struct StackMap {
    dense: Vec<Option<Stack>>,
    sparse: HashMap<u32, Stack>,
}

impl StackMap {
    fn new(mut stacks: HashMap<u32, Stack>) -> Self {
        let max = stacks.keys().max().map_or(0, |id| *id as usize);
        if max > stacks.len() * 4 + 1024 {
            return Self { dense: Vec::new(), sparse: stacks };
        }
        let mut dense = vec![None; max + 1];
        for (id, stack) in stacks.drain() {
            dense[id as usize] = Some(stack);
        }
        Self { dense, sparse: stacks }
    }

    fn get(&self, id: u32) -> Option<&Stack> {
        match self.dense.get(id as usize) {
            Some(stack) => stack.as_ref(),
            None => self.sparse.get(&id),
        }
    }
}

/// All stacks of a capture.
#[derive(Debug, Default)]
pub struct SymbolTable {
    strings: Vec<String>,
    frames: Vec<FrameRow>,
    stacks: StackMap,
    locations: Vec<CodeLocation>,
    named: (u64, u64),
}

/// Number of a [`CodeLocation`] in a [`SymbolTable`]; [`NONE`] if unknown.
pub type LocationId = u32;

/// Number of a function (of a binary) in a [`SymbolTable`], whatever the line; [`NONE`] if unknown.
pub type FunctionId = u32;

impl SymbolTable {
    /// Begins a table from the rows of `frames`.
    pub fn builder(frames: Vec<Frame>) -> SymbolTableBuilder {
        SymbolTableBuilder { frames, symbols: Vec::new(), strings: Interner::default() }
    }

    /// The place in the code that stands for a stack: the first frame outside the language runtime, libc, the
    /// dynamic linker and the standard library; if there is none, the first outside the runtime; if there is none,
    /// the outermost one that says something.
    pub fn location_id(&self, stack: u32) -> LocationId {
        self.stacks.get(stack).map_or(NONE, |s| s.location)
    }

    /// The function of [`SymbolTable::location_id`]: what belongs together though its lines differ.
    pub fn function_id(&self, stack: u32) -> FunctionId {
        self.stacks.get(stack).map_or(NONE, |s| s.function)
    }

    /// The location with this number.
    pub fn location(&self, id: LocationId) -> Option<&CodeLocation> {
        self.locations.get(id as usize)
    }

    /// As [`SymbolTable::location_id`], resolved.
    pub fn location_of(&self, stack: u32) -> Option<CodeLocation> {
        self.location(self.location_id(stack)).cloned()
    }

    /// The frames of a stack for people, innermost first; empty if the stack is unknown.
    pub fn stack(&self, stack: u32) -> Vec<StackFrame> {
        self.rows(stack)
            .iter()
            .map(|f| StackFrame {
                function: self.string(f.function).unwrap_or("?").to_owned(),
                file: self.string(f.file).map(str::to_owned),
                line: (f.line != NONE).then_some(f.line),
                inlined: f.inlined,
            })
            .collect()
    }

    /// Function names of a stack, innermost first.
    pub fn functions(&self, stack: u32) -> impl DoubleEndedIterator<Item = &str> {
        self.rows(stack).iter().map(|f| self.string(f.function).unwrap_or("?"))
    }

    /// Frames with a name, of all frames.
    pub fn named(&self) -> (u64, u64) {
        self.named
    }

    fn rows(&self, stack: u32) -> &[FrameRow] {
        self.stacks
            .get(stack)
            .map_or(&[], |s| self.frames.get(s.first as usize..(s.first + s.len) as usize).unwrap_or(&[]))
    }

    fn string(&self, id: u32) -> Option<&str> {
        self.strings.get(id as usize).map(String::as_str)
    }
}

/// A symbol row with interned strings.
struct SymbolEntry {
    stack: u32,
    depth: u32,
    inline_depth: u32,
    row: FrameRow,
    offset: Option<u64>,
}

/// Collects symbol rows; see [`SymbolTable::builder`].
pub struct SymbolTableBuilder {
    frames: Vec<Frame>,
    symbols: Vec<SymbolEntry>,
    strings: Interner,
}

impl SymbolTableBuilder {
    /// Adds the rows of one segment of `symbols`.
    pub fn add(&mut self, rows: Vec<SymbolRow>) {
        self.symbols.reserve(rows.len());
        for r in rows {
            let function = match r.source {
                SymbolSource::None => NONE,
                _ => self.strings.optional(r.function),
            };
            let row = FrameRow {
                function,
                file: self.strings.optional(r.file),
                line: r.line.unwrap_or(NONE),
                module: self.strings.optional(r.module),
                inlined: false,
            };
            self.symbols.push(SymbolEntry {
                stack: r.stack_id,
                depth: r.depth,
                inline_depth: r.inline_depth,
                row,
                offset: r.module_offset_bytes,
            });
        }
    }

    /// Joins frames and symbols. A frame without a symbol is named by the module that `maps` shows at its address
    /// (the recorder was killed before it resolved), or by its address.
    pub fn finish(mut self, maps: &[MapRow]) -> SymbolTable {
        self.frames.sort_by_key(|f| (f.stack_id, f.depth));
        self.frames.dedup_by_key(|f| (f.stack_id, f.depth));
        self.frames.retain(|f| f.depth < MAX_DEPTH);
        self.symbols.sort_by_key(|s| (s.stack, s.depth, s.inline_depth));
        let modules = Modules::new(maps);
        let mut table = SymbolTable::default();
        let mut stacks = HashMap::new();
        let mut symbols = self.symbols.iter().peekable();
        let mut i = 0;
        while let Some(f) = self.frames.get(i) {
            let stack = f.stack_id;
            let first = table.frames.len();
            while let Some(f) = self.frames.get(i).filter(|f| f.stack_id == stack) {
                while symbols.next_if(|s| (s.stack, s.depth) < (f.stack_id, f.depth)).is_some() {}
                let before = table.frames.len();
                while let Some(s) = symbols.next_if(|s| (s.stack, s.depth) == (f.stack_id, f.depth)) {
                    table.named.0 += u64::from(s.row.function != NONE);
                    table.named.1 += 1;
                    table.frames.push(self.strings.name(s, f.ip));
                }
                if table.frames.len() == before {
                    table.named.1 += 1;
                    table.frames.push(modules.frame(f, &mut self.strings));
                }
                // All but the last one of a frame were inlined into it.
                let last = table.frames.len() - 1;
                for inlined in &mut table.frames[before..last] {
                    inlined.inlined = true;
                }
                i += 1;
            }
            let (first, len) = (first as u32, (table.frames.len() - first) as u32);
            stacks.insert(stack, Stack { first, len, location: NONE, function: NONE });
        }
        table.strings = self.strings.strings;
        locate(&mut table, stacks);
        table
    }
}

/// Chooses the location of every stack and interns them.
fn locate(table: &mut SymbolTable, mut stacks: HashMap<u32, Stack>) {
    let classes = pick::classify(&table.strings);
    let mut ids: HashMap<(u32, u32, u32, u32), u32> = HashMap::new();
    let mut functions: HashMap<(u32, u32), u32> = HashMap::new();
    // In order, so that the numbers do not depend on the hash.
    let mut keys: Vec<u32> = stacks.keys().copied().collect();
    keys.sort_unstable();
    for key in keys {
        let Some(stack) = stacks.get_mut(&key) else { continue };
        let rows = &table.frames[stack.first as usize..(stack.first + stack.len) as usize];
        let picked = pick::pick(rows.iter().map(|f| {
            let class = |id: u32| classes.get(id as usize).copied();
            (class(f.function), class(f.module))
        }));
        let Some(f) = picked.and_then(|i| rows.get(i)).copied() else { continue };
        let known = ids.get(&(f.function, f.file, f.line, f.module)).copied();
        stack.location = known.unwrap_or_else(|| {
            let location = CodeLocation {
                function: table.string(f.function).unwrap_or("?").to_owned(),
                file: table.string(f.file).map(str::to_owned),
                line: (f.line != NONE).then_some(f.line),
                module: table.string(f.module).map(str::to_owned),
            };
            table.locations.push(location);
            table.locations.len() as u32 - 1
        });
        ids.insert((f.function, f.file, f.line, f.module), stack.location);
        let next = functions.len() as u32;
        stack.function = *functions.entry((f.function, f.module)).or_insert(next);
    }
    table.stacks = StackMap::new(stacks);
}

#[derive(Default)]
struct Interner {
    strings: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Interner {
    fn intern(&mut self, s: String) -> u32 {
        if let Some(id) = self.ids.get(&s) {
            return *id;
        }
        let id = self.strings.len() as u32;
        self.strings.push(s.clone());
        self.ids.insert(s, id);
        id
    }

    fn optional(&mut self, s: Option<String>) -> u32 {
        s.map_or(NONE, |s| self.intern(s))
    }

    /// The row of a symbol; without a name, `module+0xoffset` stands for one.
    fn name(&mut self, s: &SymbolEntry, ip: u64) -> FrameRow {
        let mut row = s.row;
        if row.function == NONE {
            let text = match (self.strings.get(row.module as usize), s.offset) {
                (Some(module), Some(offset)) => format!("{}+{offset:#x}", base_name(module)),
                (Some(module), None) => format!("{} {ip:#x}", base_name(module)),
                _ => format!("{ip:#x}"),
            };
            row.function = self.intern(text);
        }
        row
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().filter(|s| !s.is_empty()).unwrap_or(path)
}

/// Executable maps by process, for frames that the recorder could not resolve any more.
struct Modules<'a> {
    by_pid: HashMap<u32, Vec<&'a MapRow>>,
}

impl<'a> Modules<'a> {
    fn new(maps: &'a [MapRow]) -> Self {
        let mut by_pid: HashMap<u32, Vec<&MapRow>> = HashMap::new();
        for m in maps.iter().filter(|m| m.path.is_some() && m.perms.contains('x')) {
            by_pid.entry(m.pid).or_default().push(m);
        }
        Self { by_pid }
    }

    fn frame(&self, f: &Frame, strings: &mut Interner) -> FrameRow {
        let found = self
            .by_pid
            .get(&f.pid)
            .and_then(|maps| maps.iter().rev().find(|m| (m.start_addr..m.end_addr).contains(&f.ip)));
        let path = found.and_then(|m| m.path.as_deref());
        let text = match (found, path) {
            (Some(m), Some(path)) => {
                let offset = (f.ip - m.start_addr).saturating_add(m.offset_bytes);
                format!("{}+{offset:#x}", base_name(path))
            }
            _ => format!("{:#x}", f.ip),
        };
        FrameRow {
            function: strings.intern(text),
            file: NONE,
            line: NONE,
            module: path.map_or(NONE, |p| strings.intern(p.to_owned())),
            inlined: false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
