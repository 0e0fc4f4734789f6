//! Statistics over values that occur more than once, and over pages in runs.

/// The smallest value that at least `percent` of all do not exceed (nearest rank). Sorts `values`.
pub(crate) fn percentile(values: &mut [(i64, u64)], percent: u64) -> Option<i64> {
    let all = values.iter().fold(0_u64, |sum, (_, n)| sum.saturating_add(*n));
    let rank = u64::try_from((u128::from(all) * u128::from(percent)).div_ceil(100)).unwrap_or(u64::MAX);
    if rank == 0 {
        return None;
    }
    values.sort_unstable();
    let mut seen = 0_u64;
    values.iter().find_map(|(value, n)| {
        seen = seen.saturating_add(*n);
        (seen >= rank).then_some(*value)
    })
}

/// Pages that a row touches, as ranges `[start, end)`: one range where they are neighbours.
pub(crate) fn page_ranges(first: u64, stride: i32, count: u32, mut each: impl FnMut(u64, u64)) {
    let n = u64::from(count.max(1));
    let page = |i: u64| first.wrapping_add_signed(i64::from(stride).wrapping_mul(i as i64));
    match stride {
        0 => each(first, first.saturating_add(1)),
        1 => each(first, first.saturating_add(n)),
        -1 => each(page(n - 1), first.saturating_add(1)),
        _ => (0..n).for_each(|i| each(page(i), page(i).saturating_add(1))),
    }
}

/// Distinct pages by key: the lengths of the unions of the ranges. Sorts `ranges`.
pub(crate) fn distinct_pages(ranges: &mut [(u32, u64, u64)], mut each: impl FnMut(u32, u64)) {
    ranges.sort_unstable();
    for of_key in ranges.chunk_by(|a, b| a.0 == b.0) {
        let (mut pages, mut until) = (0, 0);
        for (_, start, end) in of_key {
            let from = (*start).max(until);
            pages += end.saturating_sub(from);
            until = until.max(*end);
        }
        each(of_key[0].0, pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_as_often_as_it_occurs() {
        let mut values = [(30, 1), (10, 98), (20, 1)];
        assert_eq!(percentile(&mut values, 50), Some(10));
        assert_eq!(percentile(&mut values, 99), Some(20));
        assert_eq!(percentile(&mut values, 100), Some(30));
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn pages_are_counted_once_whatever_the_direction() {
        let mut ranges = Vec::new();
        page_ranges(100, 1, 10, |a, b| ranges.push((0, a, b)));
        page_ranges(112, -1, 8, |a, b| ranges.push((0, a, b)));
        page_ranges(0, 16, 3, |a, b| ranges.push((1, a, b)));
        page_ranges(16, 0, 1, |a, b| ranges.push((1, a, b)));
        let mut found = Vec::new();
        distinct_pages(&mut ranges, |key, pages| found.push((key, pages)));
        assert_eq!(found, [(0, 13), (1, 3)]);
    }
}
