use std::collections::HashMap;

use polars::prelude::{IntoLazy as _, LazyFrame, col, len, lit};

use super::Result;
use super::frame::{Values, counts, frame, group, heaviest, i64s, nullable, quantile, quantiles, u32s};
use crate::load::FaultRow;
use crate::model::TouchKind;
use crate::symbols::SymbolTable;

/// Faults with the same kind, mapper, toucher and mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) pid: u32,
    pub(crate) kind: TouchKind,
    /// Location of the toucher.
    pub(crate) toucher: u32,
    /// Location of the mapper.
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

#[derive(Debug, Default)]
pub(crate) struct FaultAggregates {
    pub(crate) kinds: Vec<KindRow>,
    pub(crate) groups: Vec<GroupRow>,
}

const KEYS: [&str; 5] = ["pid", "kind", "toucher", "mapper", "mapping"];

/// All kinds; the number of one is its position here.
const KINDS: [TouchKind; 7] = [
    TouchKind::AnonFirstTouch,
    TouchKind::AnonRefault,
    TouchKind::CopyOnWrite,
    TouchKind::FileMinor,
    TouchKind::FileMajor,
    TouchKind::AnonMajor,
    TouchKind::Unknown,
];

/// Groups the faults by kind, and by kind, mapper, toucher and mapping.
pub(crate) fn faults(
    rows: &[FaultRow],
    symbols: &SymbolTable,
    windows: &[Window],
    page_shift: u32,
) -> Result<FaultAggregates> {
    if rows.is_empty() {
        return Ok(FaultAggregates::default());
    }
    let lazy = table(rows, symbols, page_shift)?;
    let (kinds, groups) = rayon::join(|| by_kind(&lazy), || by_group(&lazy, windows));
    Ok(FaultAggregates { kinds: kinds?, groups: groups? })
}

fn table(rows: &[FaultRow], symbols: &SymbolTable, page_shift: u32) -> Result<LazyFrame> {
    // Thousands of faults share a stack: one look-up per run of equal ones.
    let mut last = (u32::MAX, symbols.location_id(u32::MAX));
    let mut location = |stack: u32| {
        if stack != last.0 {
            last = (stack, symbols.location_id(stack));
        }
        last.1
    };
    let touchers = rows.iter().map(|f| location(f.stack)).collect();
    let mappers = rows.iter().map(|f| location(f.map_stack)).collect();
    let column = |value: &dyn Fn(&FaultRow) -> u32| Values::U32(rows.iter().map(value).collect());
    let time = |value: &dyn Fn(&FaultRow) -> Option<i64>| Values::I64(rows.iter().map(value).collect());
    let df = frame(
        rows.len(),
        vec![
            ("pid", column(&|f| f.pid)),
            ("kind", column(&|f| f.touch as u32)),
            ("toucher", Values::U32(touchers)),
            ("mapper", Values::U32(mappers)),
            ("mapping", column(&|f| f.mapping)),
            ("stack", column(&|f| f.stack)),
            ("map_stack", column(&|f| f.map_stack)),
            ("page", time(&|f| Some((f.addr >> page_shift) as i64))),
            ("ts", time(&|f| Some(f.ts))),
            ("dur", time(&|f| nullable(f.dur))),
        ],
    )?;
    Ok(df.lazy())
}

fn by_kind(lazy: &LazyFrame) -> Result<Vec<KindRow>> {
    let df = group(
        lazy,
        &["pid", "kind"],
        &[
            len().alias("faults"),
            col("page").n_unique().alias("pages"),
            col("dur").count().alias("measured"),
            col("dur").sum().alias("sum"),
            col("dur").max().alias("max"),
            quantile("dur", 0.5, "p50"),
            quantile("dur", 0.99, "p99"),
        ],
    )?;
    let (pids, kinds) = (u32s(&df, "pid")?, u32s(&df, "kind")?);
    let (faults, pages, measured) = (counts(&df, "faults")?, counts(&df, "pages")?, counts(&df, "measured")?);
    let (sums, maxima) = (i64s(&df, "sum")?, i64s(&df, "max")?);
    let (p50, p99) = (quantiles(&df, "p50")?, quantiles(&df, "p99")?);
    let mut rows: Vec<KindRow> = (0..df.height())
        .map(|i| KindRow {
            pid: pids[i],
            kind: kind(kinds[i]),
            faults: faults[i],
            pages: pages[i],
            measured: measured[i],
            sum_ns: sums[i].unwrap_or(0),
            p50_ns: p50[i],
            p99_ns: p99[i],
            max_ns: maxima[i],
        })
        .collect();
    rows.sort_by_key(|r| (r.pid, r.kind));
    Ok(rows)
}

fn by_group(lazy: &LazyFrame, windows: &[Window]) -> Result<Vec<GroupRow>> {
    let df = group(
        lazy,
        &KEYS,
        &[
            len().alias("faults"),
            col("page").n_unique().alias("pages"),
            col("dur").sum().alias("sum"),
            col("ts").min().alias("first"),
            col("ts").max().alias("last"),
        ],
    )?;
    let keys = keys(&df)?;
    let (faults, pages) = (counts(&df, "faults")?, counts(&df, "pages")?);
    let (sums, first, last) = (i64s(&df, "sum")?, i64s(&df, "first")?, i64s(&df, "last")?);
    let touch_stacks = heaviest_stack(lazy, "stack")?;
    let map_stacks = heaviest_stack(lazy, "map_stack")?;
    let mut rows: Vec<GroupRow> = keys
        .into_iter()
        .enumerate()
        .map(|(i, key)| GroupRow {
            key,
            faults: faults[i],
            pages: pages[i],
            sum_ns: sums[i].unwrap_or(0),
            first_ns: first[i].unwrap_or(0),
            last_ns: last[i].unwrap_or(0),
            touch_stack: touch_stacks.get(&key).copied().unwrap_or(u32::MAX),
            map_stack: map_stacks.get(&key).copied().unwrap_or(u32::MAX),
            windows: vec![(0, 0); windows.len()],
        })
        .collect();
    rows.sort_by_key(|r| (std::cmp::Reverse((r.sum_ns, r.faults)), r.key));
    for (number, window) in windows.iter().enumerate() {
        let inside = in_window(lazy, window)?;
        for row in &mut rows {
            if let Some(found) = inside.get(&row.key) {
                row.windows[number] = *found;
            }
        }
    }
    Ok(rows)
}

fn in_window(lazy: &LazyFrame, w: &Window) -> Result<HashMap<GroupKey, (u64, i64)>> {
    let inside = lazy
        .clone()
        .filter(col("pid").eq(lit(w.pid)).and(col("ts").gt_eq(lit(w.start))).and(col("ts").lt(lit(w.end))));
    let df = group(&inside, &KEYS, &[len().alias("faults"), col("dur").sum().alias("sum")])?;
    let (faults, sums) = (counts(&df, "faults")?, i64s(&df, "sum")?);
    Ok(keys(&df)?.into_iter().enumerate().map(|(i, k)| (k, (faults[i], sums[i].unwrap_or(0)))).collect())
}

fn heaviest_stack(lazy: &LazyFrame, column: &str) -> Result<HashMap<GroupKey, u32>> {
    let mut by: Vec<&str> = KEYS.to_vec();
    by.push(column);
    let df = group(lazy, &by, &[len().alias("faults")])?;
    let (faults, stacks) = (counts(&df, "faults")?, u32s(&df, column)?);
    Ok(heaviest(keys(&df)?.into_iter().zip(faults).zip(stacks).map(|((k, n), s)| (k, n, s))))
}

fn keys(df: &polars::prelude::DataFrame) -> Result<Vec<GroupKey>> {
    let [pid, kinds, toucher, mapper, mapping] = [
        u32s(df, KEYS[0])?,
        u32s(df, KEYS[1])?,
        u32s(df, KEYS[2])?,
        u32s(df, KEYS[3])?,
        u32s(df, KEYS[4])?,
    ];
    Ok((0..df.height())
        .map(|i| GroupKey {
            pid: pid[i],
            kind: kind(kinds[i]),
            toucher: toucher[i],
            mapper: mapper[i],
            mapping: mapping[i],
        })
        .collect())
}

fn kind(number: u32) -> TouchKind {
    KINDS.iter().copied().find(|k| *k as u32 == number).unwrap_or(TouchKind::Unknown)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::load::NONE;

    fn fault(pid: u32, kind: usize, stack: u32, page: u64, ts: i64, dur: i64) -> FaultRow {
        FaultRow {
            ts,
            dur,
            addr: page << 12 | 7,
            pid,
            tid: pid,
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
            let got = faults(&rows, &SymbolTable::default(), &[window], 12).unwrap();

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
                // The median of an even number is one of the two in the middle.
                let middle = durs.len() / 2;
                let lower = durs.len().saturating_sub(1) / 2;
                let ok = k.p50_ns.is_none_or(|p| p == durs[middle] || p == durs[lower]);
                prop_assert!(ok && k.p50_ns.is_some() != durs.is_empty());
            }
            // Without symbols all locations are unknown: groups are (pid, kind).
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
