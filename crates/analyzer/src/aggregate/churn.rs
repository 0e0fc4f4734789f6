use std::collections::HashMap;

use polars::prelude::{IntoLazy as _, col};

use super::Result;
use super::frame::{Values, frame, group, heaviest, i64s, nullable, u32s};
use super::weighted;

/// A fault on a page that had been given back, or a run of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefaultRow {
    pub(crate) pid: u32,
    /// Function of the releaser.
    pub(crate) releaser: u32,
    /// Function of the toucher.
    pub(crate) toucher: u32,
    pub(crate) release_stack: u32,
    pub(crate) touch_stack: u32,
    pub(crate) page: u64,
    /// Run: pages from one fault to the next.
    pub(crate) stride: i32,
    /// Faults.
    pub(crate) count: u32,
    /// From the release to the touch; of a run: to its middle.
    pub(crate) gap_ns: i64,
    /// Service time; negative: not measured.
    pub(crate) dur: i64,
}

/// Refaults with the same releaser and toucher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChurnRow {
    pub(crate) pid: u32,
    pub(crate) releaser: u32,
    pub(crate) toucher: u32,
    pub(crate) refaults: u64,
    pub(crate) pages: u64,
    pub(crate) sum_ns: i64,
    pub(crate) median_gap_ns: Option<i64>,
    pub(crate) release_stack: u32,
    pub(crate) touch_stack: u32,
}

const KEYS: [&str; 3] = ["pid", "releaser", "toucher"];

/// Groups refaults; most time first.
pub(crate) fn churn(rows: &[RefaultRow]) -> Result<Vec<ChurnRow>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let column = |value: &dyn Fn(&RefaultRow) -> u32| Values::U32(rows.iter().map(value).collect());
    let time = |value: &dyn Fn(&RefaultRow) -> Option<i64>| Values::I64(rows.iter().map(value).collect());
    let lazy = frame(
        rows.len(),
        vec![
            (KEYS[0], column(&|r| r.pid)),
            (KEYS[1], column(&|r| r.releaser)),
            (KEYS[2], column(&|r| r.toucher)),
            ("release_stack", column(&|r| r.release_stack)),
            ("touch_stack", column(&|r| r.touch_stack)),
            ("n", time(&|r| Some(i64::from(r.count)))),
            ("dur", time(&|r| nullable(r.dur))),
        ],
    )?
    .lazy();
    let df = group(&lazy, &KEYS, &[col("n").sum().alias("refaults"), col("dur").sum().alias("sum")])?;
    let stacks = |column: &str| -> Result<_> {
        let df = group(&lazy, &[&KEYS[..], &[column]].concat(), &[col("n").sum().alias("faults")])?;
        let n: Vec<u64> = i64s(&df, "faults")?.into_iter().map(|n| n.unwrap_or(0).unsigned_abs()).collect();
        let stacks = u32s(&df, column)?;
        Ok(heaviest(keys(&df)?.into_iter().zip(n).zip(stacks).map(|((k, n), s)| (k, n, s))))
    };
    let (release_stacks, touch_stacks) = (stacks("release_stack")?, stacks("touch_stack")?);
    let (refaults, sums) = (i64s(&df, "refaults")?, i64s(&df, "sum")?);
    let places = places(rows);
    let mut out: Vec<ChurnRow> = keys(&df)?
        .into_iter()
        .enumerate()
        .map(|(i, key)| ChurnRow {
            pid: key.0,
            releaser: key.1,
            toucher: key.2,
            refaults: refaults[i].unwrap_or(0).unsigned_abs(),
            pages: places.get(&key).map_or(0, |p| p.0),
            sum_ns: sums[i].unwrap_or(0),
            median_gap_ns: places.get(&key).and_then(|p| p.1),
            release_stack: release_stacks.get(&key).copied().unwrap_or(u32::MAX),
            touch_stack: touch_stacks.get(&key).copied().unwrap_or(u32::MAX),
        })
        .collect();
    out.sort_by_key(|r| (std::cmp::Reverse((r.sum_ns, r.refaults)), r.pid, r.releaser, r.toucher));
    Ok(out)
}

/// Distinct pages and the median time between release and touch, by group.
fn places(rows: &[RefaultRow]) -> HashMap<(u32, u32, u32), (u64, Option<i64>)> {
    let mut numbers: HashMap<(u32, u32, u32), u32> = HashMap::new();
    let mut gaps: Vec<Vec<(i64, u64)>> = Vec::new();
    let mut ranges = Vec::with_capacity(rows.len());
    for r in rows {
        let next = numbers.len() as u32;
        let number = *numbers.entry((r.pid, r.releaser, r.toucher)).or_insert(next);
        if number as usize == gaps.len() {
            gaps.push(Vec::new());
        }
        gaps[number as usize].push((r.gap_ns.max(0), u64::from(r.count)));
        weighted::page_ranges(r.page, r.stride, r.count, |a, b| ranges.push((number, a, b)));
    }
    let mut pages = vec![0; gaps.len()];
    weighted::distinct_pages(&mut ranges, |number, n| pages[number as usize] = n);
    numbers
        .into_iter()
        .map(|(key, n)| (key, (pages[n as usize], weighted::percentile(&mut gaps[n as usize], 50))))
        .collect()
}

fn keys(df: &polars::prelude::DataFrame) -> Result<Vec<(u32, u32, u32)>> {
    let [pid, releaser, toucher] = [u32s(df, KEYS[0])?, u32s(df, KEYS[1])?, u32s(df, KEYS[2])?];
    Ok((0..df.height()).map(|i| (pid[i], releaser[i], toucher[i])).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rounds_and_gaps_are_by_releaser_and_toucher() {
        let row = |page, gap_ns, dur, touch_stack| RefaultRow {
            pid: 1,
            releaser: 2,
            toucher: 3,
            release_stack: 4,
            touch_stack,
            page,
            stride: 0,
            count: 1,
            gap_ns,
            dur,
        };
        let got = churn(&[row(1, 10, 5, 7), row(1, 20, 6, 7), row(2, 90, -1, 8)]).unwrap();
        let expected = ChurnRow {
            pid: 1,
            releaser: 2,
            toucher: 3,
            refaults: 3,
            pages: 2,
            sum_ns: 11,
            median_gap_ns: Some(20),
            release_stack: 4,
            touch_stack: 7,
        };
        assert_eq!(got, [expected]);
    }
}
