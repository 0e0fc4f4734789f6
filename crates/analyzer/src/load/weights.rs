//! Sampled faults as what they stand for, so that every later sum is an unbiased estimate.

use super::{FaultRow, NONE, Shape};

/// Later sums of service times stay inside i64.
const MAX_DUR: i64 = 1 << 50;

/// After the replay, which looks at each fault that was seen and at no other: makes a row of weight N a run of N faults
/// at one page with N times its service time. The pages between are not known, and none are made up.
pub(crate) fn apply(faults: &mut [FaultRow], shapes: &mut Vec<Shape>) {
    for f in faults.iter_mut().filter(|f| f.weight > 1) {
        let weight = f.weight;
        match shapes.get_mut(f.shape as usize) {
            Some(shape) => shape.histogram.iter_mut().for_each(|n| *n = n.saturating_mul(weight)),
            None if f.dur >= 0 => {
                f.shape = u32::try_from(shapes.len()).unwrap_or(NONE);
                shapes.push(Shape::of_equal(f.dur, weight));
            }
            None => {}
        }
        f.count = f.count.saturating_mul(weight);
        if f.dur >= 0 {
            f.dur = f.dur.saturating_mul(i64::from(weight)).min(MAX_DUR);
        }
        (f.stride, f.span) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use mtrace_formats::tables::Fault;

    use super::*;
    use crate::test_rows;

    fn row(weight: Option<u32>, dur: Option<i64>) -> FaultRow {
        FaultRow::from(Fault { weight, dur, ..test_rows::fault(1000, 1, 0x7000, 6, 3) })
    }

    #[test]
    fn a_sampled_fault_counts_for_all_that_it_stands_for() {
        let mut rows = [row(Some(16), Some(700)), row(Some(1), Some(700)), row(None, Some(700)), row(Some(4), None)];
        let mut shapes = Vec::new();
        apply(&mut rows, &mut shapes);
        assert_eq!(rows.map(|f| (f.count, f.dur)), [(16, 11_200), (1, 700), (1, 700), (4, -1)]);
        let values: Vec<_> = shapes[0].values(11_200).collect();
        assert_eq!((values, shapes.len()), (vec![(700, 16)], 1));
        assert_eq!((rows[1].shape, rows[3].shape), (NONE, NONE));
    }

    #[test]
    fn no_weight_of_a_hostile_capture_overflows() {
        let mut rows = [row(Some(u32::MAX), Some(i64::MAX)), row(Some(0), Some(1))];
        apply(&mut rows, &mut Vec::new());
        assert!(rows[0].ts + rows[0].dur > 0 && rows[0].count <= 1 << 15);
        assert_eq!(rows[1].count, 1);
    }
}
