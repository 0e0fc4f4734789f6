//! What happened when, thinned to envelopes.

use std::collections::BTreeMap;

use mtrace_formats::tables::{Loss, MemoryCall, Sample, SampleSource};

use super::gc::Timing;
use crate::envelope::EnvelopeBuilder;
use crate::load::FaultRow;
use crate::model::{Band, GapPoint, Ledger, Series, Timeline};
use crate::replay::Replay;

const POINTS: usize = 400;
/// Bands shown of one kind; a capture may have thousands of cycles.
const MAX_BANDS: usize = 2000;

pub(crate) struct Sources<'a> {
    pub(crate) span: (i64, i64),
    /// The process shown where only one can be: mapped bytes.
    pub(crate) main_pid: Option<u32>,
    pub(crate) faults: &'a [FaultRow],
    pub(crate) calls: &'a [MemoryCall],
    pub(crate) samples: &'a [Sample],
    pub(crate) losses: &'a [Loss],
    pub(crate) replay: &'a Replay,
    pub(crate) gc: &'a BTreeMap<u32, Timing>,
    pub(crate) ledgers: &'a [Ledger],
}

pub(crate) fn timeline(s: &Sources<'_>) -> Timeline {
    let mut series = Vec::new();
    series.extend(rss(s));
    series.extend(mapped(s));
    let of_main = |pid: u32| s.main_pid.is_none_or(|main| main == pid);
    series.extend(rate("faults", s.span, s.faults.iter().filter(|f| of_main(f.pid)).flat_map(parts)));
    series.extend(rate("memory calls", s.span, s.calls.iter().filter(|c| of_main(c.pid)).map(|c| (c.ts, 1))));
    series.extend(pressure(s));
    Timeline { start_ns: s.span.0, end_ns: s.span.1, series, bands: bands(s) }
}

/// RSS of the main process: statm is read most often, smaps_rollup is more exact; both are the same quantity.
fn rss(s: &Sources<'_>) -> Option<Series> {
    let of = |source, key: &str| {
        s.samples
            .iter()
            .filter(|r| r.source == source && r.key == key && (s.main_pid.is_none() || r.pid == s.main_pid))
            .filter_map(|r| Some((r.ts, r.value? as f64)))
            .collect::<Vec<_>>()
    };
    let mut values = of(SampleSource::Statm, "resident_bytes");
    if values.is_empty() {
        values = of(SampleSource::SmapsRollup, "Rss_bytes");
    }
    sampled("RSS", "bytes", s.span, &values)
}

fn sampled(name: &str, unit: &str, span: (i64, i64), values: &[(i64, f64)]) -> Option<Series> {
    if values.is_empty() {
        return None;
    }
    let mut b = EnvelopeBuilder::new(span.0, span.1, POINTS);
    values.iter().for_each(|(ts, v)| b.sample(*ts, *v));
    Some(Series { name: name.to_owned(), unit: unit.to_owned(), points: b.finish(span.1) })
}

fn mapped(s: &Sources<'_>) -> Vec<Series> {
    let Some(p) = s.main_pid.and_then(|pid| s.replay.processes.get(&pid)) else { return Vec::new() };
    let mut out = Vec::new();
    if !p.accessible.is_empty() {
        out.push(Series { name: "mapped, usable".to_owned(), unit: "bytes".to_owned(), points: p.accessible.clone() });
    }
    let reserved = |p: &GapPoint| (p.ts, p.mapped_bytes as f64);
    let values: Vec<(i64, f64)> = p.points.iter().map(reserved).collect();
    out.extend(sampled("mapped, reserved included", "bytes", s.span, &values));
    out
}

/// A run's faults at a few moments of it: it is short against what a picture can show, but not always against a bin.
fn parts(f: &FaultRow) -> impl Iterator<Item = (i64, u64)> + use<> {
    const PARTS: u32 = 8;
    let f = *f;
    let parts = f.count.clamp(1, PARTS);
    (0..parts).map(move |i| {
        let (from, to) = (f.count * i / parts, f.count * (i + 1) / parts);
        (f.ts_of(from), u64::from(to - from))
    })
}

/// Events per second: the envelope of counts in short intervals, so that a burst shows at its height.
fn rate(name: &str, (start, end): (i64, i64), times: impl Iterator<Item = (i64, u64)>) -> Option<Series> {
    /// Short intervals in one point.
    const FINE: usize = 10;
    let fine = EnvelopeBuilder::new(start, end, POINTS * FINE);
    let mut counts = vec![0_u64; POINTS * FINE];
    for (ts, n) in times {
        counts[fine.index(ts)] += n;
    }
    if counts.iter().all(|n| *n == 0) {
        return None;
    }
    let width = fine.width_ns();
    let per_second = 1e9 / width as f64;
    let mut b = EnvelopeBuilder::new(start, end, POINTS);
    for (i, n) in counts.iter().enumerate() {
        let ts = start + i as i64 * width;
        if ts < end {
            b.sample(ts, *n as f64 * per_second);
        }
    }
    Some(Series { name: name.to_owned(), unit: "1/s".to_owned(), points: b.finish(end) })
}

/// Share of the time in which some task waited for memory, between two readings of PSI.
fn pressure(s: &Sources<'_>) -> Option<Series> {
    let of = |source| {
        let totals: Vec<(i64, u64)> = s
            .samples
            .iter()
            .filter(|r| r.source == source && r.key == "memory.some.total_us")
            .filter(|r| r.pid.is_none() || s.main_pid.is_none() || r.pid == s.main_pid)
            .filter_map(|r| Some((r.ts, r.value?)))
            .collect();
        let shares = totals.windows(2).filter(|w| w[1].0 > w[0].0).map(|w| {
            let us = w[1].1.saturating_sub(w[0].1);
            (w[1].0, us as f64 * 1000.0 / (w[1].0 - w[0].0) as f64)
        });
        shares.collect::<Vec<_>>()
    };
    let mut values = of(SampleSource::CgroupPressure);
    if values.is_empty() {
        values = of(SampleSource::HostPressure);
    }
    sampled("memory pressure (some)", "share", s.span, &values)
}

fn bands(s: &Sources<'_>) -> Vec<Band> {
    let band = |kind: &str, label: String, start_ns, end_ns| Band { kind: kind.to_owned(), label, start_ns, end_ns };
    let mut out: Vec<Band> =
        s.ledgers.iter().map(|l| band("window", l.window.name.clone(), l.window.start_ns, l.window.end_ns)).collect();
    let cycles = s.gc.values().flat_map(|t| &t.cycles);
    out.extend(
        cycles
            .enumerate()
            .take(MAX_BANDS)
            .map(|(i, c)| band("gc", format!("GC cycle {}", i + 1), c.start_ns, c.mark_end_ns.unwrap_or(s.span.1))),
    );
    let mut stops: Vec<_> = s.gc.values().flat_map(|t| &t.stops).collect();
    // Of too many the longest are worth seeing.
    stops.sort_by_key(|s| std::cmp::Reverse(s.end - s.start));
    stops.truncate(MAX_BANDS);
    stops.sort_by_key(|s| s.start);
    out.extend(stops.iter().map(|s| {
        let reason = s.reason.map_or_else(String::new, |r| format!(" ({})", stop_reason(r)));
        band("stw", format!("world stopped{reason}"), s.start, s.end)
    }));
    out.extend(
        s.losses
            .iter()
            .take(MAX_BANDS)
            .map(|l| band("loss", format!("{} × {} lost: {}", l.count, l.probe, l.reason), l.ts, l.ts + l.dur)),
    );
    out
}

/// `stwReason` of runtime/proc.go, Go 1.21 and later.
fn stop_reason(reason: u32) -> String {
    match reason {
        1 => "GC mark termination".to_owned(),
        2 => "GC sweep termination".to_owned(),
        n => format!("reason {n}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_shows_at_its_height() {
        // 4,000 intervals of 1 ms: 100 events in one of them.
        let times = std::iter::repeat_n((2_000_500_000, 1), 100).chain([(10, 1), (3_999_999_999, 1)]);
        let s = rate("faults", (0, 4_000_000_000), times).unwrap();
        let peak = s.points.iter().map(|p| p.max).fold(0.0, f64::max);
        assert_eq!(s.points.len(), POINTS);
        assert!((peak - 100_000.0).abs() < 1.0, "{peak}");
        assert_eq!(s.points[3].max, 0.0);
        assert!(rate("none", (0, 10), std::iter::empty()).is_none());
    }
}
