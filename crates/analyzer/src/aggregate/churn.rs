use polars::prelude::{IntoLazy as _, col, len};

use super::Result;
use super::frame::{Values, counts, frame, group, heaviest, i64s, nullable, quantile, quantiles, u32s};

/// A fault on a page that had been given back.
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
    /// From the release to the touch.
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
            ("page", time(&|r| Some(r.page as i64))),
            ("gap", time(&|r| Some(r.gap_ns.max(0)))),
            ("dur", time(&|r| nullable(r.dur))),
        ],
    )?
    .lazy();
    let df = group(
        &lazy,
        &KEYS,
        &[
            len().alias("refaults"),
            col("page").n_unique().alias("pages"),
            col("dur").sum().alias("sum"),
            quantile("gap", 0.5, "gap"),
        ],
    )?;
    let stacks = |column: &str| -> Result<_> {
        let df = group(&lazy, &[&KEYS[..], &[column]].concat(), &[len().alias("n")])?;
        let (n, stacks) = (counts(&df, "n")?, u32s(&df, column)?);
        Ok(heaviest(keys(&df)?.into_iter().zip(n).zip(stacks).map(|((k, n), s)| (k, n, s))))
    };
    let (release_stacks, touch_stacks) = (stacks("release_stack")?, stacks("touch_stack")?);
    let (refaults, pages, sums) = (counts(&df, "refaults")?, counts(&df, "pages")?, i64s(&df, "sum")?);
    let gaps = quantiles(&df, "gap")?;
    let mut out: Vec<ChurnRow> = keys(&df)?
        .into_iter()
        .enumerate()
        .map(|(i, key)| ChurnRow {
            pid: key.0,
            releaser: key.1,
            toucher: key.2,
            refaults: refaults[i],
            pages: pages[i],
            sum_ns: sums[i].unwrap_or(0),
            median_gap_ns: gaps[i],
            release_stack: release_stacks.get(&key).copied().unwrap_or(u32::MAX),
            touch_stack: touch_stacks.get(&key).copied().unwrap_or(u32::MAX),
        })
        .collect();
    out.sort_by_key(|r| (std::cmp::Reverse((r.sum_ns, r.refaults)), r.pid, r.releaser, r.toucher));
    Ok(out)
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
