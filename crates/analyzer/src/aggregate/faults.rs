use std::collections::HashMap;

use polars::prelude::{IntoLazy as _, LazyFrame, col, lit};

use super::Result;
use super::frame::{Values, frame, group, i64s, nullable, u32s};
use super::weighted;
use crate::load::{FaultRow, Shape};
use crate::model::TouchKind;
use crate::symbols::SymbolTable;

/// Faults with the same kind, functions of mapper and toucher, and mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) pid: u32,
    pub(crate) kind: TouchKind,
    /// Function of the toucher.
    pub(crate) toucher: u32,
    /// Function of the mapper.
    pub(crate) mapper: u32,
    /// Name of the mapping.
    pub(crate) mapping: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupRow {
    pub(crate) key: GroupKey,
    pub(crate) faults: u64,
    pub(crate) pages: u64,
    pub(crate) sum_ns: i64,
    pub(crate) first_ns: i64,
    pub(crate) last_ns: i64,
    /// Heaviest stack of the toucher and of the mapper.
    pub(crate) touch_stack: u32,
    pub(crate) map_stack: u32,
    /// Faults and ns that began in each window; zero for windows of other processes.
    pub(crate) windows: Vec<(u64, i64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KindRow {
    pub(crate) pid: u32,
    pub(crate) kind: TouchKind,
    pub(crate) faults: u64,
    pub(crate) pages: u64,
    pub(crate) measured: u64,
    pub(crate) sum_ns: i64,
    pub(crate) p50_ns: Option<i64>,
    pub(crate) p99_ns: Option<i64>,
    pub(crate) max_ns: Option<i64>,
}

/// A window of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) pid: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// The finest group: faults that differ in nothing but time, thread and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CellKey {
    pub(crate) pid: u32,
    pub(crate) kind: TouchKind,
    pub(crate) stack: u32,
    pub(crate) map_stack: u32,
    pub(crate) mapping: u32,
}

#[derive(Debug, Default)]
pub(crate) struct FaultAggregates {
    pub(crate) kinds: Vec<KindRow>,
    pub(crate) groups: Vec<GroupRow>,
    /// Number of faults by cell.
    pub(crate) cells: Vec<(CellKey, u64)>,
}

/// Groups the faults by kind, and by kind, mapper, toucher and mapping.
pub(crate) fn faults(
    rows: &[FaultRow],
    shapes: &[Shape],
    symbols: &SymbolTable,
    windows: &[Window],
    page_shift: u32,
) -> Result<FaultAggregates> {
    if rows.is_empty() {
        return Ok(FaultAggregates::default());
    }
    let cells = Cells::new(rows, symbols);
    let lazy = table(rows, &cells)?;
    let (kinds, groups) = rayon::join(
        || by_kind(rows, shapes, &cells, page_shift),
        || by_group(&lazy, rows, &cells, windows, page_shift),
    );
    let (groups, counts) = groups?;
    Ok(FaultAggregates { kinds, groups, cells: cells.keys.into_iter().zip(counts).collect() })
}

/// Numbers for what would be keys of several columns: a group-by over one is several times as fast.
struct Cells {
    keys: Vec<CellKey>,
    groups: Vec<GroupKey>,
    kinds: Vec<(u32, TouchKind)>,
    /// Cell of each fault.
    of_fault: Vec<u32>,
    /// Group and kind of each cell.
    group_of: Vec<u32>,
    kind_of: Vec<u32>,
}

impl Cells {
    fn new(rows: &[FaultRow], symbols: &SymbolTable) -> Self {
        let (mut cells, mut groups, mut kinds) = (Numbers::default(), Numbers::default(), Numbers::default());
        let (mut group_of, mut kind_of) = (Vec::new(), Vec::new());
        let mut of_fault = Vec::with_capacity(rows.len());
        for f in rows {
            let key = CellKey { pid: f.pid, kind: f.touch, stack: f.stack, map_stack: f.map_stack, mapping: f.mapping };
            let cell = cells.number(key);
            if cell as usize == group_of.len() {
                group_of.push(groups.number(GroupKey {
                    pid: f.pid,
                    kind: f.touch,
                    toucher: symbols.function_id(f.stack),
                    mapper: symbols.function_id(f.map_stack),
                    mapping: f.mapping,
                }));
                kind_of.push(kinds.number((f.pid, f.touch)));
            }
            of_fault.push(cell);
        }
        Self { keys: cells.keys, groups: groups.keys, kinds: kinds.keys, of_fault, group_of, kind_of }
    }
}

/// Numbers in order of first appearance.
struct Numbers<K> {
    keys: Vec<K>,
    ids: HashMap<K, u32>,
    last: Option<(K, u32)>,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), ids: HashMap::new(), last: None }
    }
}

impl<K: Copy + Eq + std::hash::Hash> Numbers<K> {
    fn number(&mut self, key: K) -> u32 {
        // Thousands of neighbours are equal.
        if let Some((last, id)) = self.last
            && last == key
        {
            return id;
        }
        let id = *self.ids.entry(key).or_insert_with(|| {
            self.keys.push(key);
            self.keys.len() as u32 - 1
        });
        self.last = Some((key, id));
        id
    }
}

fn table(rows: &[FaultRow], cells: &Cells) -> Result<LazyFrame> {
    let of_cell = |ids: &[u32]| Values::U32(cells.of_fault.iter().map(|c| ids[*c as usize]).collect());
    let time = |value: &dyn Fn(&FaultRow) -> Option<i64>| Values::I64(rows.iter().map(value).collect());
    let df = frame(
        rows.len(),
        vec![
            ("cell", Values::U32(cells.of_fault.clone())),
            ("group", of_cell(&cells.group_of)),
            ("pid", Values::U32(rows.iter().map(|f| f.pid).collect())),
            ("ts", time(&|f| Some(f.ts))),
            ("last", time(&|f| Some(f.ts_of(f.count.saturating_sub(1))))),
            ("n", time(&|f| Some(i64::from(f.count)))),
            ("dur", time(&|f| nullable(f.dur))),
        ],
    )?;
    Ok(df.lazy())
}

/// Pages that are looked at one by one, because their run leaves some out; a hostile capture may claim any number.
const MAX_APART: u64 = 16 << 20;

/// Distinct pages by the number that `key` gives to each row.
fn pages(rows: &[FaultRow], page_shift: u32, key: impl Fn(usize) -> u32, each: impl FnMut(u32, u64)) {
    let mut ranges = Vec::with_capacity(rows.len());
    let mut apart = 0;
    for (i, f) in rows.iter().enumerate() {
        if f.stride.unsigned_abs() > 1 {
            apart += u64::from(f.count);
            if apart > MAX_APART {
                continue;
            }
        }
        weighted::page_ranges(f.addr >> page_shift, f.stride, f.count, |a, b| ranges.push((key(i), a, b)));
    }
    weighted::distinct_pages(&mut ranges, each);
}

fn by_kind(rows: &[FaultRow], shapes: &[Shape], cells: &Cells, page_shift: u32) -> Vec<KindRow> {
    let kind_of = |i: usize| cells.kind_of[cells.of_fault[i] as usize];
    let mut kinds: Vec<KindRow> = cells.kinds.iter().map(|(pid, kind)| empty_kind(*pid, *kind)).collect();
    let mut values: Vec<Vec<(i64, u64)>> = vec![Vec::new(); kinds.len()];
    for (i, f) in rows.iter().enumerate() {
        let (k, values) = (&mut kinds[kind_of(i) as usize], &mut values[kind_of(i) as usize]);
        k.faults += u64::from(f.count);
        let Some(dur) = f.measured() else { continue };
        k.measured += u64::from(f.count);
        k.sum_ns = k.sum_ns.saturating_add(dur);
        match shapes.get(f.shape as usize) {
            Some(shape) => {
                k.max_ns = k.max_ns.max(Some(shape.max));
                values.extend(shape.values(dur));
            }
            None => {
                k.max_ns = k.max_ns.max(Some(dur));
                values.push((dur, 1));
            }
        }
    }
    pages(rows, page_shift, kind_of, |kind, n| kinds[kind as usize].pages = n);
    for (k, values) in kinds.iter_mut().zip(&mut values) {
        k.p50_ns = weighted::percentile(values, 50);
        k.p99_ns = weighted::percentile(values, 99);
    }
    kinds.sort_by_key(|r| (r.pid, r.kind));
    kinds
}

fn empty_kind(pid: u32, kind: TouchKind) -> KindRow {
    KindRow { pid, kind, faults: 0, pages: 0, measured: 0, sum_ns: 0, p50_ns: None, p99_ns: None, max_ns: None }
}

/// The groups, and the number of faults by cell.
fn by_group(
    lazy: &LazyFrame,
    rows: &[FaultRow],
    cells: &Cells,
    windows: &[Window],
    page_shift: u32,
) -> Result<(Vec<GroupRow>, Vec<u64>)> {
    let df = group(
        lazy,
        &["cell"],
        &[
            col("n").sum().alias("faults"),
            col("dur").sum().alias("sum"),
            col("ts").min().alias("first"),
            col("last").max().alias("last"),
        ],
    )?;
    let mut groups: Vec<GroupRow> = cells.groups.iter().map(|key| empty_group(*key, windows.len())).collect();
    let mut by_cell = vec![0_u64; cells.keys.len()];
    let (ids, faults) = (u32s(&df, "cell")?, i64s(&df, "faults")?);
    let (sums, first, last) = (i64s(&df, "sum")?, i64s(&df, "first")?, i64s(&df, "last")?);
    for (i, cell) in ids.iter().enumerate() {
        by_cell[*cell as usize] = faults[i].unwrap_or(0).unsigned_abs();
        let row = &mut groups[cells.group_of[*cell as usize] as usize];
        row.faults += by_cell[*cell as usize];
        row.sum_ns = row.sum_ns.saturating_add(sums[i].unwrap_or(0));
        row.first_ns = row.first_ns.min(first[i].unwrap_or(i64::MAX));
        row.last_ns = row.last_ns.max(last[i].unwrap_or(i64::MIN));
    }
    let group_of = |i: usize| cells.group_of[cells.of_fault[i] as usize];
    pages(rows, page_shift, group_of, |group, n| groups[group as usize].pages = n);
    heaviest_stacks(&mut groups, cells, &by_cell);
    for (number, window) in windows.iter().enumerate() {
        let of_window = |row: &mut GroupRow, n: u64, ns: i64| {
            let (faults, sum) = &mut row.windows[number];
            *faults += n;
            *sum = sum.saturating_add(ns);
        };
        let inside = lazy.clone().filter(
            col("pid").eq(lit(window.pid)).and(col("ts").gt_eq(lit(window.start))).and(col("last").lt(lit(window.end))),
        );
        let df = group(&inside, &["group"], &[col("n").sum().alias("faults"), col("dur").sum().alias("sum")])?;
        let (ids, faults, sums) = (u32s(&df, "group")?, i64s(&df, "faults")?, i64s(&df, "sum")?);
        for (i, id) in ids.iter().enumerate() {
            of_window(&mut groups[*id as usize], faults[i].unwrap_or(0).unsigned_abs(), sums[i].unwrap_or(0));
        }
        // Runs that cross an end of the window.
        let crosses = |f: &FaultRow| {
            let last = f.ts_of(f.count.saturating_sub(1));
            f.count > 1 && f.pid == window.pid && !(f.ts >= window.start && last < window.end)
        };
        for (i, f) in rows.iter().enumerate().filter(|(_, f)| crosses(f)) {
            let (n, ns) = f.within(window.start, window.end);
            if n > 0 {
                of_window(&mut groups[group_of(i) as usize], n, ns);
            }
        }
    }
    groups.sort_by_key(|r| (std::cmp::Reverse((r.sum_ns, r.faults)), r.key));
    Ok((groups, by_cell))
}

fn empty_group(key: GroupKey, windows: usize) -> GroupRow {
    GroupRow {
        key,
        faults: 0,
        pages: 0,
        sum_ns: 0,
        first_ns: i64::MAX,
        last_ns: i64::MIN,
        touch_stack: u32::MAX,
        map_stack: u32::MAX,
        windows: vec![(0, 0); windows],
    }
}

/// The stacks with most faults; of equals the one with the smallest number.
fn heaviest_stacks(rows: &mut [GroupRow], cells: &Cells, by_cell: &[u64]) {
    let mut sums: HashMap<(u32, bool, u32), u64> = HashMap::new();
    for (i, key) in cells.keys.iter().enumerate() {
        for (toucher, stack) in [(true, key.stack), (false, key.map_stack)] {
            *sums.entry((cells.group_of[i], toucher, stack)).or_insert(0) += by_cell[i];
        }
    }
    let mut sums: Vec<((u32, bool, u32), u64)> = sums.into_iter().collect();
    sums.sort_unstable_by_key(|((group, toucher, stack), n)| (*group, *toucher, std::cmp::Reverse(*n), *stack));
    for of in sums.chunk_by(|a, b| (a.0.0, a.0.1) == (b.0.0, b.0.1)) {
        let ((group, toucher, stack), _) = of[0];
        let row = &mut rows[group as usize];
        *(if toucher { &mut row.touch_stack } else { &mut row.map_stack }) = stack;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::load::NONE;

    const KINDS: [TouchKind; 7] = [
        TouchKind::AnonFirstTouch,
        TouchKind::AnonRefault,
        TouchKind::CopyOnWrite,
        TouchKind::FileMinor,
        TouchKind::FileMajor,
        TouchKind::AnonMajor,
        TouchKind::Unknown,
    ];

    fn fault(pid: u32, kind: usize, stack: u32, page: u64, ts: i64, dur: i64) -> FaultRow {
        FaultRow {
            ts,
            dur,
            addr: page << 12 | 7,
            count: 1,
            stride: 0,
            span: 0,
            shape: NONE,
            pid,
            tid: pid,
            weight: 1,
            stack,
            error_code: 6,
            map_stack: stack % 2,
            mapping: 0,
            release: NONE,
            touch: KINDS[kind],
            major: false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn group_bys_agree_with_a_loop(
            rows in proptest::collection::vec((1_u32..3, 0_usize..7, 0_u32..4, 0_u64..20, 0_i64..100, -1_i64..1000), 1..200)
        ) {
            let rows: Vec<FaultRow> = rows.into_iter().map(|(p, k, s, pg, ts, d)| fault(p, k, s, pg, ts, d)).collect();
            let window = Window { pid: 1, start: 20, end: 60 };
            let got = faults(&rows, &[], &SymbolTable::default(), &[window], 12).unwrap();

            let mut kinds: BTreeMap<(u32, TouchKind), Vec<&FaultRow>> = BTreeMap::new();
            for f in &rows {
                kinds.entry((f.pid, f.touch)).or_default().push(f);
            }
            prop_assert_eq!(got.kinds.len(), kinds.len());
            for k in &got.kinds {
                let of = &kinds[&(k.pid, k.kind)];
                let mut durs: Vec<i64> = of.iter().filter_map(|f| f.measured()).collect();
                durs.sort_unstable();
                prop_assert_eq!(k.faults, of.len() as u64);
                prop_assert_eq!(k.pages, of.iter().map(|f| f.addr).collect::<BTreeSet<_>>().len() as u64);
                prop_assert_eq!(k.measured, durs.len() as u64);
                prop_assert_eq!(k.sum_ns, durs.iter().sum::<i64>());
                prop_assert_eq!(k.max_ns, durs.last().copied());
                // Nearest rank: the smallest value that at least so many do not exceed.
                for (percent, got) in [(50, k.p50_ns), (99, k.p99_ns)] {
                    let enough = |d: &&i64| durs.iter().filter(|x| x <= d).count() * 100 >= durs.len() * percent;
                    prop_assert_eq!(got, durs.iter().find(enough).copied());
                }
            }
            prop_assert_eq!(got.cells.iter().map(|(_, n)| n).sum::<u64>(), rows.len() as u64);
            // Without symbols all functions are unknown: groups are (pid, kind).
            prop_assert_eq!(got.groups.len(), kinds.len());
            for g in &got.groups {
                let of = &kinds[&(g.key.pid, g.key.kind)];
                let inside: Vec<_> = of.iter().filter(|f| f.pid == 1 && (20..60).contains(&f.ts)).collect();
                let expected = (inside.len() as u64, inside.iter().map(|f| f.wall_ns()).sum::<i64>());
                prop_assert_eq!(g.windows[0], expected);
                prop_assert_eq!(g.first_ns, of.iter().map(|f| f.ts).min().unwrap());
                let mut by_stack: BTreeMap<u32, u64> = BTreeMap::new();
                of.iter().for_each(|f| *by_stack.entry(f.stack).or_default() += 1);
                let most = by_stack.values().max().unwrap();
                let first = by_stack.iter().find(|(_, n)| *n == most).unwrap().0;
                prop_assert_eq!(g.touch_stack, *first);
            }
        }
    }
}
