//! Columns in, columns out.

use std::collections::HashMap;
use std::hash::Hash;

use polars::prelude::{Column, DataFrame, Expr, IdxSize, LazyFrame, col};

use super::Result;

/// A nullable duration: the rows hold a negative number for "not measured".
pub(super) fn nullable(ns: i64) -> Option<i64> {
    (ns >= 0).then_some(ns)
}

/// A column of a result.
pub(super) enum Values {
    U32(Vec<u32>),
    I64(Vec<Option<i64>>),
}

pub(super) fn u32s(df: &DataFrame, name: &str) -> Result<Vec<u32>> {
    Ok(df.column(name)?.u32()?.iter().map(|v| v.unwrap_or(u32::MAX)).collect())
}

pub(super) fn counts(df: &DataFrame, name: &str) -> Result<Vec<u64>> {
    let column = df.column(name)?.idx()?;
    Ok(column.iter().map(|v: Option<IdxSize>| u64::from(v.unwrap_or(0))).collect())
}

pub(super) fn i64s(df: &DataFrame, name: &str) -> Result<Vec<Option<i64>>> {
    Ok(df.column(name)?.i64()?.iter().collect())
}

/// For every key the stack with the largest weight; of equals the smallest number.
pub(super) fn heaviest<K: Eq + Hash>(rows: impl Iterator<Item = (K, u64, u32)>) -> HashMap<K, u32> {
    let mut best: HashMap<K, (u64, u32)> = HashMap::new();
    for (key, weight, stack) in rows {
        let b = best.entry(key).or_insert((weight, stack));
        if weight > b.0 || weight == b.0 && stack < b.1 {
            *b = (weight, stack);
        }
    }
    best.into_iter().map(|(key, (_, stack))| (key, stack)).collect()
}

pub(super) fn frame(rows: usize, columns: Vec<(&str, Values)>) -> Result<DataFrame> {
    let columns = columns
        .into_iter()
        .map(|(name, values)| match values {
            Values::U32(v) => Column::new(name.into(), v),
            Values::I64(v) => Column::new(name.into(), v),
        })
        .collect();
    DataFrame::new(rows, columns)
}

pub(super) fn group(lazy: &LazyFrame, keys: &[&str], aggregates: &[Expr]) -> Result<DataFrame> {
    let keys: Vec<Expr> = keys.iter().map(|k| col(*k)).collect();
    lazy.clone().group_by(keys).agg(aggregates).collect()
}
