use polars::prelude::{IntoLazy as _, LazyFrame, col, len, lit};

use super::Result;
use super::frame::{Values, counts, frame, group, heaviest, i64s, u32s};

/// A call as the GC table counts it; the numbers of `phase` and `kind` are the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CallKey {
    pub(crate) pid: u32,
    pub(crate) phase: u32,
    pub(crate) kind: u32,
    /// Function of the caller.
    pub(crate) function: u32,
}

/// Calls with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallRow {
    pub(crate) key: CallKey,
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
    /// The stack with most bytes.
    pub(crate) stack: u32,
}

const KEYS: [&str; 4] = ["pid", "phase", "kind", "function"];

/// Groups calls, given as (key, bytes, stack); most bytes first.
pub(crate) fn calls_by_phase(rows: &[(CallKey, u64, u32)]) -> Result<Vec<CallRow>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let column = |value: &dyn Fn(&CallKey) -> u32| Values::U32(rows.iter().map(|(k, ..)| value(k)).collect());
    let df = frame(
        rows.len(),
        vec![
            (KEYS[0], column(&|k| k.pid)),
            (KEYS[1], column(&|k| k.phase)),
            (KEYS[2], column(&|k| k.kind)),
            (KEYS[3], column(&|k| k.function)),
            ("stack", Values::U32(rows.iter().map(|r| r.2).collect())),
            ("bytes", Values::I64(rows.iter().map(|r| Some(i64::try_from(r.1).unwrap_or(i64::MAX / 2))).collect())),
        ],
    )?;
    let lazy: LazyFrame = df.lazy();
    let aggregates = [len().alias("calls"), col("bytes").sum()];
    let df = group(&lazy, &KEYS, &aggregates)?;
    let (calls, bytes) = (counts(&df, "calls")?, i64s(&df, "bytes")?);
    let with_stack = group(&lazy.filter(col("bytes").gt_eq(lit(0))), &[&KEYS[..], &["stack"]].concat(), &aggregates)?;
    let weights = i64s(&with_stack, "bytes")?.into_iter().map(|b| b.unwrap_or(0).max(0) as u64);
    let stacks = u32s(&with_stack, "stack")?;
    let heaviest = heaviest(keys(&with_stack)?.into_iter().zip(weights).zip(stacks).map(|((k, w), s)| (k, w, s)));
    let mut out: Vec<CallRow> = keys(&df)?
        .into_iter()
        .enumerate()
        .map(|(i, key)| CallRow {
            key,
            calls: calls[i],
            bytes: bytes[i].unwrap_or(0).max(0) as u64,
            stack: heaviest.get(&key).copied().unwrap_or(u32::MAX),
        })
        .collect();
    out.sort_by_key(|r| (std::cmp::Reverse((r.bytes, r.calls)), r.key));
    Ok(out)
}

fn keys(df: &polars::prelude::DataFrame) -> Result<Vec<CallKey>> {
    let [pid, phase, kind, function] = [u32s(df, KEYS[0])?, u32s(df, KEYS[1])?, u32s(df, KEYS[2])?, u32s(df, KEYS[3])?];
    Ok((0..df.height())
        .map(|i| CallKey { pid: pid[i], phase: phase[i], kind: kind[i], function: function[i] })
        .collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_and_the_heaviest_stack_is_kept() {
        let key = |phase, function| CallKey { pid: 1, phase, kind: 0, function };
        let rows =
            [(key(0, 5), 100, 1), (key(0, 5), 50, 2), (key(0, 5), 60, 2), (key(1, 5), 7, 3), (key(0, 6), 300, 9)];
        let got = calls_by_phase(&rows).unwrap();
        let shown: Vec<_> = got.iter().map(|r| (r.key.phase, r.key.function, r.calls, r.bytes, r.stack)).collect();
        assert_eq!(shown, [(0, 6, 1, 300, 9), (0, 5, 3, 210, 2), (1, 5, 1, 7, 3)]);
        assert!(calls_by_phase(&[]).unwrap().is_empty());
    }
}
