//! What is resident, by mapping: the last reading of `/proc/PID/smaps` of each process, and what grew since the first one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use mtrace_formats::tables::{ProcessEvent, ProcessEventKind, SmapsRow};

use crate::load::NONE;
use crate::model::{ResidentGroup, ResidentMemory, ResidentSums};
use crate::symbols::SymbolTable;

/// Groups of a process that are listed.
const LISTED: usize = 15;
/// What maps calls shared memory without a name.
const SHARED: &str = "/dev/zero (deleted)";

/// One reading: its rows, and who mapped each.
#[derive(Clone, Copy)]
struct Reading<'a> {
    rows: &'a [SmapsRow],
    owners: &'a [u32],
}

impl Reading<'_> {
    fn ts(&self) -> i64 {
        self.rows[0].ts
    }

    /// When it began, and how long it took.
    fn time(&self) -> (i64, i64) {
        (self.ts(), self.rows[0].ts_end.saturating_sub(self.ts()))
    }
}

/// In the order of `pids`, then those that only a reading knows.
pub(crate) fn memory(
    pids: &[u32],
    rows: &[SmapsRow],
    owners: &[u32],
    events: &[ProcessEvent],
    symbols: &SymbolTable,
) -> Vec<ResidentMemory> {
    let readings = readings(rows, owners);
    let execs = execs(events);
    let listed: HashSet<u32> = pids.iter().copied().collect();
    let mut others: Vec<u32> = readings.keys().filter(|pid| !listed.contains(pid)).copied().collect();
    others.sort_unstable();
    pids.iter()
        .chain(&others)
        .filter_map(|pid| Some((*pid, readings.get(pid)?)))
        .filter_map(|(pid, all)| {
            let last = *all.last()?;
            let exec = execs.get(&pid).and_then(|of| of.iter().rfind(|ts| **ts <= last.ts()));
            let first = all.iter().find(|r| exec.is_none_or(|ts| r.ts() >= *ts)).filter(|r| r.ts() < last.ts());
            Some(of_process(pid, first.copied(), last, symbols))
        })
        .collect()
}

/// By process, in order of time.
fn readings<'a>(rows: &'a [SmapsRow], owners: &'a [u32]) -> HashMap<u32, Vec<Reading<'a>>> {
    let mut out: HashMap<u32, Vec<Reading<'a>>> = HashMap::new();
    let mut first = 0;
    for reading in rows.chunk_by(|a, b| (a.ts, a.pid) == (b.ts, b.pid)) {
        let owners = &owners[first..first + reading.len()];
        first += reading.len();
        out.entry(reading[0].pid).or_default().push(Reading { rows: reading, owners });
    }
    out
}

fn execs(events: &[ProcessEvent]) -> HashMap<u32, Vec<i64>> {
    let mut out: HashMap<u32, Vec<i64>> = HashMap::new();
    for e in events.iter().filter(|e| e.event == ProcessEventKind::Exec) {
        out.entry(e.pid).or_default().push(e.ts);
    }
    out
}

/// What belongs together: the name, and of what has none the function that mapped it.
type Key<'a> = (&'a str, u32);

#[derive(Default)]
struct Group {
    sums: [ResidentSums; 2],
    mappings: [u64; 2],
    /// Resident bytes by the stack that mapped them, of both readings.
    owners: HashMap<u32, u64>,
}

fn of_process(pid: u32, first: Option<Reading<'_>>, last: Reading<'_>, symbols: &SymbolTable) -> ResidentMemory {
    let mut groups: BTreeMap<Key<'_>, Group> = BTreeMap::new();
    let (mut begin, mut end) = (ResidentSums::default(), ResidentSums::default());
    for (i, reading, total) in [(0, first, &mut begin), (1, Some(last), &mut end)] {
        let Some(reading) = reading else { continue };
        for (row, owner) in reading.rows.iter().zip(reading.owners) {
            let group = groups.entry(key(row, *owner, symbols)).or_default();
            add(&mut group.sums[i], row);
            add(total, row);
            group.mappings[i] += 1;
            let resident = group.owners.entry(*owner).or_default();
            *resident = resident.saturating_add(row.rss_bytes.unwrap_or(0));
        }
    }
    let mut all: Vec<ResidentGroup> =
        groups.into_iter().map(|((name, _), g)| group(name, g, first.is_some(), symbols)).collect();
    // Names are unique within a function, and the map is in their order: the sort is stable.
    all.sort_by_key(|g| (Reverse(g.growth_bytes), Reverse(g.end.rss_bytes)));
    let others = all.split_off(all.len().min(LISTED));
    ResidentMemory {
        pid,
        begin_ns: first.map(|r| r.time()),
        end_ns: last.time(),
        end_moment: last.rows[0].moment.name().to_owned(),
        begin: first.map(|_| begin),
        end,
        others: others.len() as u64,
        others_begin: first.map(|_| sum(others.iter().filter_map(|g| g.begin))),
        others_end: sum(others.iter().map(|g| g.end)),
        groups: all,
    }
}

fn key<'a>(row: &'a SmapsRow, owner: u32, symbols: &SymbolTable) -> Key<'a> {
    match row.path.as_deref() {
        None => ("anonymous", symbols.function_id(owner)),
        Some(SHARED) if row.perms.ends_with('s') => ("shared anonymous", symbols.function_id(owner)),
        Some(path) => (path, NONE),
    }
}

fn group(name: &str, g: Group, has_begin: bool, symbols: &SymbolTable) -> ResidentGroup {
    let [begin, end] = g.sums;
    let most = g.owners.into_iter().max_by_key(|(stack, bytes)| (*bytes, Reverse(*stack)));
    ResidentGroup {
        name: name.to_owned(),
        mapped_by: most.and_then(|(stack, _)| symbols.location_of(stack)),
        mappings: if g.mappings[1] > 0 { g.mappings[1] } else { g.mappings[0] },
        begin: has_begin.then_some(begin),
        end,
        growth_bytes: has_begin.then(|| end.growth_since(&begin)),
    }
}

fn add(sums: &mut ResidentSums, row: &SmapsRow) {
    let one = ResidentSums {
        rss_bytes: row.rss_bytes.unwrap_or(0),
        anon_huge_bytes: row.anon_huge_bytes,
        swap_bytes: row.swap_bytes,
    };
    *sums = sum([*sums, one].into_iter());
}

fn sum(all: impl Iterator<Item = ResidentSums>) -> ResidentSums {
    let plus = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    };
    all.fold(ResidentSums::default(), |a, b| ResidentSums {
        rss_bytes: a.rss_bytes.saturating_add(b.rss_bytes),
        anon_huge_bytes: plus(a.anon_huge_bytes, b.anon_huge_bytes),
        swap_bytes: plus(a.swap_bytes, b.swap_bytes),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "resident_tests.rs"]
mod tests;
