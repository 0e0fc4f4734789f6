//! Folded stacks for the flame graphs.

use std::collections::{BTreeMap, HashMap};

use mtrace_formats::tables::MemoryCall;

use crate::aggregate::CellKey;
use crate::load::NONE;
use crate::model::FlameGraph;
use crate::replay::Replay;
use crate::symbols::SymbolTable;

/// Leaves in the table beside a graph.
const TOP: usize = 30;

/// (process, stack) → weight.
type Weights = HashMap<(u32, u32), u64>;

pub(crate) fn graphs(
    cells: &[(CellKey, u64)],
    calls: &[MemoryCall],
    replay: &Replay,
    symbols: &SymbolTable,
    comms: &BTreeMap<u32, String>,
) -> Vec<FlameGraph> {
    let mut touched = Weights::new();
    let mut mapped = Weights::new();
    for (c, faults) in cells {
        *touched.entry((c.pid, c.stack)).or_insert(0) += faults;
        *mapped.entry((c.pid, c.map_stack)).or_insert(0) += faults;
    }
    let mut bytes = Weights::new();
    for (c, effect) in calls.iter().zip(&replay.effects).filter(|(_, e)| e.usable_bytes > 0) {
        *bytes.entry((c.pid, c.stack_id.unwrap_or(NONE))).or_insert(0) += effect.usable_bytes;
    }
    let graph = |id: &str, title: &str, unit: &str, weights: &Weights, missing: &str| {
        fold(
            FlameGraph {
                id: id.to_owned(),
                title: title.to_owned(),
                unit: unit.to_owned(),
                folded: Vec::new(),
                total: 0,
                top: Vec::new(),
            },
            weights,
            symbols,
            comms,
            missing,
        )
    };
    vec![
        graph("faults-by-toucher", "Page faults by the code that touched", "faults", &touched, "[no stack]"),
        graph(
            "faults-by-mapper",
            "Page faults by the code that mapped the memory",
            "faults",
            &mapped,
            "[mapped by exec or before the recording]",
        ),
        graph("mmap-bytes", "Memory made usable by mmap, brk and mprotect", "bytes", &bytes, "[no stack]"),
    ]
}

fn fold(
    mut graph: FlameGraph,
    weights: &Weights,
    symbols: &SymbolTable,
    comms: &BTreeMap<u32, String>,
    missing: &str,
) -> FlameGraph {
    // Different stacks may fold to the same names (other lines of the same functions).
    let mut folded: BTreeMap<String, u64> = BTreeMap::new();
    let mut leaves: BTreeMap<String, u64> = BTreeMap::new();
    for ((pid, stack), weight) in weights {
        let mut text = comms.get(pid).map_or_else(|| format!("pid {pid}"), |c| clean(c));
        let mut frames = symbols.functions(*stack).rev().peekable();
        if frames.peek().is_none() {
            text.push(';');
            text.push_str(missing);
        }
        for frame in frames {
            text.push(';');
            text.push_str(&clean(frame));
        }
        *folded.entry(text).or_insert(0) += weight;
        let leaf = match symbols.location(symbols.location_id(*stack)) {
            Some(l) => l.function.clone(),
            None => missing.to_owned(),
        };
        *leaves.entry(leaf).or_insert(0) += weight;
        graph.total += weight;
    }
    let mut top: Vec<(String, u64)> = leaves.into_iter().collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    top.truncate(TOP);
    graph.top = top;
    graph.folded = folded.into_iter().collect();
    graph
}

/// `;` separates frames, and a line ends with a blank and the weight.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c == ';' || c.is_control() { ':' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_the_format() {
        assert_eq!(clean("a;b\nc d"), "a:b:c d");
    }
}
