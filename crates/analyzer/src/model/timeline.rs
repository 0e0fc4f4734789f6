use serde::Serialize;

/// A quantity over time, thinned to envelopes so that spikes stay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// "RSS", "faults per ms".
    pub name: String,
    /// "bytes", "1/s", "ns".
    pub unit: String,
    /// Points in order.
    pub points: Vec<Envelope>,
}

/// Smallest and largest value in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Envelope {
    /// Begin of the stretch.
    pub ts: i64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// A stretch of time with a name: a GC cycle, stop-the-world, a loss interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Band {
    /// "gc", "stw", "loss", "window".
    pub kind: String,
    /// What to show on it.
    pub label: String,
    /// Begin.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
}

/// What happened when.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Timeline {
    /// Begin.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
    /// RSS, mapped bytes, faults and memory calls per interval, pressure.
    pub series: Vec<Series>,
    /// Cycles, stop-the-world, windows, losses.
    pub bands: Vec<Band>,
}
