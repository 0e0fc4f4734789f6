//! Names for all addresses of all stacks, when recording is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use mtrace_formats::capture::Problem;
use mtrace_formats::tables::{SymbolRow, SymbolSource};

use super::images::Images;
use super::stacks::StackSet;
use crate::host::monotonic_ns;
use crate::symbols::{self, ExecMapping, ImageMaps, Ip, IpKind, Symbol, Symbolizer};

/// What names an address: the same bytes of the same file have the same name in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    /// Mapping (index into the merged ones) and offset in the file.
    Known { mapping: usize, offset: u64 },
    /// In no known mapping.
    Unknown(u64),
}

/// Resolves every distinct address once and hands out the rows. Where `give_up` becomes true meanwhile, the addresses
/// that have no name yet get none; the answer says so.
pub(crate) fn resolve(
    stacks: &StackSet,
    images: &Images,
    give_up: &dyn Fn() -> bool,
    mut out: impl FnMut(SymbolRow),
) -> Option<Problem> {
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
    let maps = ImageMaps { mappings: merged.laid_out(), root: None };
    let names = names_of(maps, ips, give_up);
    for stack in stacks.all() {
        let mappings = merged.index(stack.image, images);
        for (depth, ip) in stacks.ips(stack).iter().enumerate() {
            let place = merged.place(&mappings, *ip, kind(depth));
            let Some(frames) = wanted.get(&(place, kind(depth))).and_then(|slot| names.get(*slot)) else { continue };
            if frames.is_empty() {
                out(row(stack.id, depth as u32, 0, &merged.unnamed(place)));
            }
            for (inline_depth, symbol) in (0..).zip(frames) {
                out(row(stack.id, depth as u32, inline_depth, symbol));
            }
        }
    }
    let missing = names.iter().filter(|n| n.is_empty()).count();
    (missing > 0).then(|| Problem {
        ts: Some(monotonic_ns()),
        what: format!("{missing} of {} addresses have no name: there was no time to look for it", names.len()),
    })
}

/// The names, in order; empty where there was no time. The symboliser works in a thread of its own, because a single
/// file may take it longer than there is time: that thread is left behind then, and ends after the file at hand.
fn names_of(maps: ImageMaps, ips: Vec<Ip>, give_up: &dyn Fn() -> bool) -> Vec<Vec<Symbol>> {
    const LOOK: Duration = Duration::from_millis(20);
    let mut names = vec![Vec::new(); ips.len()];
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let send = |slot, symbols| send.send((slot, symbols)).is_ok();
        Symbolizer::new().resolve_each(&maps, &ips, send);
    });
    loop {
        match receive.recv_timeout(LOOK) {
            Ok((slot, symbols)) => {
                if let Some(name) = names.get_mut::<usize>(slot) {
                    *name = symbols;
                }
            }
            Err(RecvTimeoutError::Timeout) if !give_up() => {}
            Err(_) => return names,
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

    /// What can be said of an address without its file.
    fn unnamed(&self, place: Place) -> Symbol {
        let (module, module_offset) = match place {
            Place::Known { mapping, offset } => match self.mappings.get(mapping) {
                Some(m) => (m.path.as_str(), Some(m.file_offset + offset)),
                None => ("", None),
            },
            Place::Unknown(_) => ("", None),
        };
        Symbol {
            function: "".into(),
            file: None,
            line: None,
            module: module.into(),
            module_offset,
            function_addr: None,
            source: symbols::SymbolSource::Unresolved,
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
