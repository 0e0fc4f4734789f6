//! Thinning that keeps the spikes: the smallest and the largest value of every stretch.

use crate::model::Envelope;

/// Collects a quantity over a fixed span in at most `n` stretches.
#[derive(Debug, Clone)]
pub(crate) struct EnvelopeBuilder {
    start: i64,
    width: i64,
    stretches: Vec<Option<(f64, f64)>>,
    /// The value that holds until the next change; for step functions.
    held: Option<(usize, f64)>,
}

impl EnvelopeBuilder {
    pub(crate) fn new(start: i64, end: i64, n: usize) -> Self {
        let n = n.max(1);
        let width = ((end.saturating_sub(start)).max(1) as u64).div_ceil(n as u64).max(1) as i64;
        Self { start, width, stretches: vec![None; n], held: None }
    }

    /// Number of the stretch at `ts`; outside of the span the nearest one.
    pub(crate) fn index(&self, ts: i64) -> usize {
        let i = ts.saturating_sub(self.start).max(0) / self.width;
        (i as usize).min(self.stretches.len() - 1)
    }

    /// Length of a stretch.
    pub(crate) fn width_ns(&self) -> i64 {
        self.width
    }

    /// A value at one moment.
    pub(crate) fn sample(&mut self, ts: i64, value: f64) {
        let i = self.index(ts);
        widen(&mut self.stretches[i], value);
    }

    /// A value that holds from `ts` until the next call; calls must come in order of time.
    pub(crate) fn set(&mut self, ts: i64, value: f64) {
        let i = self.index(ts);
        if let Some((from, held)) = self.held {
            for s in &mut self.stretches[from..=i.max(from)] {
                widen(s, held);
            }
        }
        widen(&mut self.stretches[i], value);
        self.held = Some((i, value));
    }

    /// The points of the stretches that have one, and whether the last held value reaches to `ts`.
    pub(crate) fn finish(mut self, until: i64) -> Vec<Envelope> {
        if let Some((from, held)) = self.held {
            let last = self.index(until).max(from);
            for s in &mut self.stretches[from..=last] {
                widen(s, held);
            }
        }
        let (start, width) = (self.start, self.width);
        self.stretches
            .into_iter()
            .enumerate()
            .filter_map(|(i, s)| s.map(|(min, max)| Envelope { ts: start + i as i64 * width, min, max }))
            .collect()
    }
}

fn widen(stretch: &mut Option<(f64, f64)>, value: f64) {
    let s = stretch.get_or_insert((value, value));
    *s = (s.0.min(value), s.1.max(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_survives_thinning() {
        let mut b = EnvelopeBuilder::new(0, 1_000_000, 10);
        for ts in 0..1_000_000 {
            b.sample(ts, if ts == 777_777 { 99.0 } else { 1.0 });
        }
        let points = b.finish(1_000_000);
        assert_eq!(points.len(), 10);
        assert_eq!((points[7].min, points[7].max), (1.0, 99.0));
        assert_eq!((points[6].min, points[6].max), (1.0, 1.0));
    }

    #[test]
    fn a_step_function_holds_its_value_over_silence() {
        let mut b = EnvelopeBuilder::new(100, 200, 10);
        b.set(105, 5.0);
        b.set(155, 7.0);
        let points = b.finish(200);
        assert_eq!(points.len(), 10);
        assert_eq!((points[3].min, points[3].max), (5.0, 5.0));
        assert_eq!((points[5].min, points[5].max), (5.0, 7.0));
        assert_eq!((points[9].min, points[9].max), (7.0, 7.0));
    }
}
