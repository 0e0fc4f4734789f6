//! Names for all addresses of all stacks, when recording is over.

use std::collections::{BTreeMap, HashMap};

use mtrace_formats::tables::{SymbolRow, SymbolSource};

use super::images::Images;
use super::stacks::Stacks;
use crate::symbols::{self, ExecMapping, ImageMaps, Ip, IpKind, Symbol, Symbolizer};

/// What names an address: the same bytes of the same file have the same name in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    /// Mapping (index into the merged ones) and offset in the file.
    Known { mapping: usize, offset: u64 },
    /// In no known mapping.
    Unknown(u64),
}

/// Resolves every distinct address once and hands out the rows.
pub(crate) fn resolve(stacks: &Stacks, images: &Images, mut out: impl FnMut(SymbolRow)) {
    let mut merged = Merged::default();
    let mut wanted: BTreeMap<(Place, IpKind), usize> = BTreeMap::new();
    for stack in stacks.all() {
        let mappings = merged.index(stack.image, images);
        for (depth, ip) in stacks.ips(stack).iter().enumerate() {
            let next = wanted.len();
            wanted.entry((merged.place(&mappings, *ip, kind(depth)), kind(depth))).or_insert(next);
        }
    }
    let mut ips = vec![Ip { addr: 0, kind: IpKind::Exact }; wanted.len()];
    for ((place, kind), slot) in &wanted {
        ips[*slot] = Ip { addr: merged.address(*place), kind: *kind };
    }
    let names = Symbolizer::new().resolve(&ImageMaps { mappings: merged.laid_out(), root: None }, &ips);
    for stack in stacks.all() {
        let mappings = merged.index(stack.image, images);
        for (depth, ip) in stacks.ips(stack).iter().enumerate() {
            let key = (merged.place(&mappings, *ip, kind(depth)), kind(depth));
            let Some(frames) = wanted.get(&key).and_then(|slot| names.get(*slot)) else { continue };
            for (inline_depth, symbol) in (0..).zip(frames) {
                out(row(stack.id, depth as u32, inline_depth, symbol));
            }
        }
    }
}

fn kind(depth: usize) -> IpKind {
    if depth == 0 { IpKind::Exact } else { IpKind::Return }
}

fn row(stack_id: u32, depth: u32, inline_depth: u32, s: &Symbol) -> SymbolRow {
    let source = match s.source {
        symbols::SymbolSource::Pclntab => SymbolSource::Pclntab,
        symbols::SymbolSource::Dwarf => SymbolSource::Dwarf,
        symbols::SymbolSource::ElfSymtab => SymbolSource::Elf,
        symbols::SymbolSource::Kallsyms => SymbolSource::Kallsyms,
        symbols::SymbolSource::Unresolved => SymbolSource::None,
    };
    SymbolRow {
        stack_id,
        depth,
        inline_depth,
        function: (source != SymbolSource::None).then(|| s.function.to_string()),
        file: s.file.as_deref().map(str::to_owned),
        line: s.line,
        module: (!s.module.is_empty()).then(|| s.module.to_string()),
        module_offset_bytes: s.module_offset,
        source,
    }
}

/// The mappings of all images as one address space: a file that a thousand processes mapped is opened once.
#[derive(Default)]
struct Merged {
    mappings: Vec<ExecMapping>,
    known: HashMap<MappingKey, usize>,
    indexes: HashMap<u32, std::rc::Rc<Index>>,
}

/// Start, end and number of the mappings of one image, in the order of their addresses.
type Index = Vec<(u64, u64, usize)>;

type MappingKey = (u64, u64, String, u64, u64);

/// Distance of the invented addresses: more than any mapping of a file is long.
const STRIDE: u64 = 1 << 44;

impl Merged {
    /// Start, end and merged number of the image's mappings, by address.
    fn index(&mut self, image: u32, images: &Images) -> std::rc::Rc<Vec<(u64, u64, usize)>> {
        if let Some(known) = self.indexes.get(&image) {
            return known.clone();
        }
        let mut index: Vec<_> = images.mappings(image).iter().map(|m| (m.start, m.end, self.number(m))).collect();
        index.sort_unstable();
        let index = std::rc::Rc::new(index);
        self.indexes.insert(image, index.clone());
        index
    }

    fn number(&mut self, m: &ExecMapping) -> usize {
        let key = (m.dev, m.inode, m.path.clone(), m.file_offset, m.end - m.start);
        let next = self.mappings.len();
        let number = *self.known.entry(key).or_insert(next);
        if number == next {
            self.mappings.push(m.clone());
        }
        number
    }

    fn place(&self, index: &[(u64, u64, usize)], ip: u64, kind: IpKind) -> Place {
        let lookup = if kind == IpKind::Return { ip.saturating_sub(1) } else { ip };
        let after = index.partition_point(|(start, _, _)| *start <= lookup);
        match after.checked_sub(1).and_then(|i| index.get(i)) {
            Some((start, end, mapping)) if lookup < *end => Place::Known { mapping: *mapping, offset: ip - start },
            _ => Place::Unknown(ip),
        }
    }

    fn address(&self, place: Place) -> u64 {
        match place {
            Place::Known { mapping, offset } => (mapping as u64 + 1).wrapping_mul(STRIDE).wrapping_add(offset),
            Place::Unknown(ip) => ip % STRIDE,
        }
    }

    fn laid_out(&self) -> Vec<ExecMapping> {
        let place = |(i, m): (usize, &ExecMapping)| {
            let start = (i as u64 + 1).wrapping_mul(STRIDE);
            ExecMapping { start, end: start.wrapping_add(m.end - m.start), ..m.clone() }
        };
        self.mappings.iter().enumerate().map(place).collect()
    }
}
