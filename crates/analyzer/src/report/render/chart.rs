//! Charts drawn by us as SVG: they stretch with the page while their letters keep their size.
//!
//! Positions along the time axis are per cent of the width; shapes live in a nested SVG that is stretched.
//! Colours come from classes, so that light, dark and print differ by style sheet alone. Patterns (`#hatch`,
//! `#dots`) are defined once per page.

use std::fmt::Write;

use crate::model::{Band, Envelope, Series};
use crate::report::escape::{Html, html};
use crate::report::format;

/// Columns that a panel is thinned to.
const COLUMNS: usize = 600;
/// Narrowest band, in per cent of the width.
const MIN_BAND_PERCENT: f64 = 0.15;
/// Width that names in a stacked bar are chosen for; on a smaller screen the longest ones are clipped.
const BAR_PX: f64 = 1_000.0;
/// Mean width of a letter.
const LETTER_PX: f64 = 7.2;

/// A stretch of time along the width of a chart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    /// Left end.
    pub start: i64,
    /// Right end, later than `start`.
    pub end: i64,
    /// The moment that is labelled 0.
    pub zero: i64,
}

impl Axis {
    /// Null if no time passes.
    pub(crate) fn new(start: i64, end: i64, zero: i64) -> Option<Self> {
        (end > start && end.checked_sub(start).is_some()).then_some(Self { start, end, zero })
    }

    /// Position in per cent, kept inside the chart.
    pub(crate) fn percent(&self, ts: i64) -> f64 {
        let part = ts.clamp(self.start, self.end).saturating_sub(self.start) as f64;
        100.0 * part / (self.end - self.start) as f64
    }

    /// Four to ten round moments with their labels.
    pub(crate) fn ticks(&self) -> Vec<(f64, String)> {
        let span = self.end - self.start;
        let step = round_step(span / 5);
        let first = -self.zero.saturating_sub(self.start).div_euclid(step);
        (first..first + 12)
            .map(|i| self.zero.saturating_add(i.saturating_mul(step)))
            .take_while(|ts| *ts < self.end)
            .map(|ts| (self.percent(ts), format::offset(ts, self.zero)))
            .filter(|(x, _)| *x <= 97.0)
            .collect()
    }

    fn overlaps(&self, band: &Band) -> bool {
        band.end_ns >= self.start && band.start_ns <= self.end
    }
}

/// The next of 1, 2, 5, 10, … that is not smaller.
fn round_step(at_least: i64) -> i64 {
    let mut step = 1_i64;
    loop {
        for factor in [1, 2, 5] {
            let candidate = step.saturating_mul(factor);
            if candidate >= at_least {
                return candidate;
            }
        }
        step = step.saturating_mul(10);
    }
}

/// The labels under a stack of panels.
pub(crate) fn axis_labels(axis: &Axis) -> Html {
    let mut svg = String::from("<svg class=\"chart ticks\" width=\"100%\" height=\"20\" aria-hidden=\"true\">");
    for (x, label) in axis.ticks() {
        let anchor = if x < 3.0 { "start" } else { "middle" };
        let _ = write!(
            svg,
            "<line x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"4\"/><text x=\"{x:.2}%\" y=\"16\" text-anchor=\"{anchor}\">{}</text>",
            html(&label)
        );
    }
    svg.push_str("</svg>");
    Html::from_markup(svg)
}

/// A panel of a series over time.
pub(crate) struct Panel<'a> {
    /// The values.
    pub series: &'a Series,
    /// Where they stand.
    pub axis: &'a Axis,
    /// Stretches behind the values: windows and losses.
    pub bands: &'a [Band],
    /// A horizontal line with its name.
    pub limit: Option<(f64, String)>,
    /// True if the height is the logarithm of the value.
    pub logarithmic: bool,
}

/// Smallest and largest value of a panel, with the moment of the largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extent {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// When the largest was.
    pub max_ts: i64,
}

/// Extent of the values inside an axis; null if there are none.
pub(crate) fn extent(series: &Series, axis: &Axis) -> Option<Extent> {
    inside(&series.points, axis).fold(None, |acc: Option<Extent>, p| {
        let (low, high) = (p.min.min(p.max), p.max.max(p.min));
        Some(match acc {
            None => Extent { min: low, max: high, max_ts: p.ts },
            Some(e) if high > e.max => Extent { min: e.min.min(low), max: high, max_ts: p.ts },
            Some(e) => Extent { min: e.min.min(low), ..e },
        })
    })
}

/// Points that are valid at some moment inside the axis: the last one before it counts as well.
fn inside<'a>(points: &'a [Envelope], axis: &Axis) -> impl Iterator<Item = &'a Envelope> {
    let first = points.partition_point(|p| p.ts < axis.start).saturating_sub(1);
    let end = axis.end;
    points[first.min(points.len())..]
        .iter()
        .take_while(move |p| p.ts <= end)
        .filter(|p| p.min.is_finite() && p.max.is_finite())
}

impl Panel<'_> {
    /// Draws it; the title is for screen readers and tooltips.
    pub(crate) fn draw(&self, title: &str) -> Html {
        let mut svg = format!(
            "<svg class=\"chart panel\" width=\"100%\" height=\"72\" role=\"img\"><title>{}</title>",
            html(title)
        );
        push_backdrop(&mut svg, self.axis, self.bands);
        let scale = self.scale();
        let columns = thin(self.series, self.axis);
        svg.push_str(
            "<svg y=\"4\" width=\"100%\" height=\"64\" viewBox=\"0 0 1000 100\" preserveAspectRatio=\"none\">",
        );
        push_paths(&mut svg, &columns, &scale);
        svg.push_str("</svg>");
        if let Some((value, name)) = &self.limit {
            let y = 4.0 + 0.64 * scale.y(*value);
            let _ = write!(
                svg,
                "<line class=\"limit\" x1=\"0\" x2=\"100%\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"limit-name\" x=\"6\" y=\"{:.1}\">{}</text>",
                y + 12.0,
                html(name)
            );
        }
        svg.push_str("<line class=\"base\" x1=\"0\" x2=\"100%\" y1=\"68\" y2=\"68\"/></svg>");
        Html::from_markup(svg)
    }

    fn scale(&self) -> Scale {
        let e = extent(self.series, self.axis);
        let top = e.map_or(1.0, |e| e.max).max(self.limit.as_ref().map_or(0.0, |l| l.0));
        if self.logarithmic {
            let low = e.map_or(1.0, |e| e.min).max(1.0).log2() - 1.0;
            Scale { low, high: top.max(2.0).log2().max(low + 2.0), logarithmic: true }
        } else {
            Scale {
                low: e.map_or(0.0, |e| e.min).min(0.0),
                high: if top > 0.0 { top } else { 1.0 },
                logarithmic: false,
            }
        }
    }
}

struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// 0 at the top, 100 at the bottom.
    fn y(&self, value: f64) -> f64 {
        let v = if self.logarithmic { value.max(1.0).log2() } else { value };
        100.0 - 100.0 * ((v - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// Merges points into columns of the picture: a spike stays, because the largest and smallest of a column are kept.
fn thin(series: &Series, axis: &Axis) -> Vec<(f64, f64, f64)> {
    let mut columns: Vec<(f64, f64, f64)> = Vec::new();
    let mut last = usize::MAX;
    for p in inside(&series.points, axis) {
        let x = axis.percent(p.ts) * 10.0;
        let column = (x / 1000.0 * COLUMNS as f64) as usize;
        let (low, high) = (p.min.min(p.max), p.max.max(p.min));
        match columns.last_mut() {
            Some(c) if column == last => {
                c.1 = c.1.min(low);
                c.2 = c.2.max(high);
            }
            _ => columns.push((x, low, high)),
        }
        last = column;
    }
    columns
}

/// Steps: a value holds until the next point.
fn push_paths(svg: &mut String, columns: &[(f64, f64, f64)], scale: &Scale) {
    let (Some(first), Some(last)) = (columns.first(), columns.last()) else { return };
    let ends = columns.iter().skip(1).map(|c| c.0).chain([1000.0]);
    let mut top = String::new();
    let mut bottom = Vec::new();
    for ((x, low, high), end) in columns.iter().zip(ends) {
        let _ = write!(top, "{}{x:.1},{:.1}H{end:.1}", if top.is_empty() { "M" } else { "L" }, scale.y(*high));
        bottom.push((*x, end, scale.y(*low)));
    }
    let mut band = top.clone();
    for (x, end, y) in bottom.into_iter().rev() {
        let _ = write!(band, "L{end:.1},{y:.1}H{x:.1}");
    }
    let _ = write!(
        svg,
        "<path class=\"area\" d=\"{top}L1000,100H{:.1}Z\"/><path class=\"band\" d=\"{band}Z\"/><path class=\"line\" d=\"{top}\"/>",
        first.0
    );
    // A single point would leave a line of no length in some renderers.
    if columns.len() == 1 {
        let _ = write!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>", last.0, scale.y(last.2));
    }
}

/// Windows and losses behind a panel.
fn push_backdrop(svg: &mut String, axis: &Axis, bands: &[Band]) {
    for band in bands.iter().filter(|b| axis.overlaps(b)) {
        let class = match band.kind.as_str() {
            "window" => "window",
            "loss" => "loss",
            _ => continue,
        };
        push_band(svg, axis, band, class, 72);
    }
}

fn push_band(svg: &mut String, axis: &Axis, band: &Band, class: &str, height: u32) {
    let x = axis.percent(band.start_ns);
    let width = (axis.percent(band.end_ns) - x).max(MIN_BAND_PERCENT);
    let _ = write!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.3}%\" width=\"{width:.3}%\" y=\"0\" height=\"{height}\"><title>{}: {}, {}</title></rect>",
        html(&band.label),
        html(&format::offset(band.start_ns, axis.zero)),
        html(&format::duration(band.end_ns.saturating_sub(band.start_ns)))
    );
}

/// One row of bands of a kind: GC cycles, stop-the-world, losses. Neighbours that would touch become one.
pub(crate) fn lane(axis: &Axis, bands: &[&Band], class: &str, title: &str) -> Html {
    let mut svg =
        format!("<svg class=\"chart lane\" width=\"100%\" height=\"14\" role=\"img\"><title>{}</title>", html(title));
    for band in merge_close(axis, bands) {
        push_band(&mut svg, axis, &band, class, 14);
    }
    svg.push_str("</svg>");
    Html::from_markup(svg)
}

fn merge_close(axis: &Axis, bands: &[&Band]) -> Vec<Band> {
    let mut sorted: Vec<&&Band> = bands.iter().filter(|b| axis.overlaps(b)).collect();
    sorted.sort_by_key(|b| (b.start_ns, b.end_ns));
    let mut merged: Vec<(Band, u64)> = Vec::new();
    for band in sorted {
        match merged.last_mut() {
            Some((m, n)) if axis.percent(band.start_ns) - axis.percent(m.end_ns) < MIN_BAND_PERCENT / 2.0 => {
                m.end_ns = m.end_ns.max(band.end_ns);
                *n += 1;
            }
            _ => merged.push(((*band).clone(), 1)),
        }
    }
    merged
        .into_iter()
        .map(|(mut band, n)| {
            if n > 1 {
                band.label = format!("{n} × {}", band.kind);
            }
            band
        })
        .collect()
}

/// A part of a stacked bar.
pub(crate) struct Segment {
    /// Class that colours it.
    pub class: &'static str,
    /// Names inside it, the longest first: the first one that fits is shown.
    pub labels: Vec<String>,
    /// Tooltip.
    pub title: String,
    /// Size.
    pub value: f64,
}

/// A stacked bar over the whole width.
pub(crate) fn stacked_bar(segments: &[Segment], height: u32, title: &str) -> Html {
    let total: f64 = segments.iter().map(|s| s.value.max(0.0)).sum();
    let mut svg = format!(
        "<svg class=\"chart stacked\" width=\"100%\" height=\"{height}\" role=\"img\"><title>{}</title>",
        html(title)
    );
    let mut x = 0.0;
    for s in segments.iter().filter(|s| s.value > 0.0 && total > 0.0) {
        let width = 100.0 * s.value / total;
        // The inner picture clips a name that does not fit.
        let _ = write!(
            svg,
            "<svg x=\"{x:.3}%\" width=\"{width:.3}%\" height=\"{height}\"><title>{}</title><rect class=\"{}\" width=\"100%\" height=\"100%\"/>",
            html(&s.title),
            s.class
        );
        let room = width / 100.0 * BAR_PX - 12.0;
        if let Some(label) = s.labels.iter().find(|l| l.chars().count() as f64 * LETTER_PX <= room) {
            let _ =
                write!(svg, "<text class=\"on {}\" x=\"7\" y=\"{}\">{}</text>", s.class, height / 2 + 5, html(label));
        }
        svg.push_str("</svg>");
        x += width;
    }
    svg.push_str("</svg>");
    Html::from_markup(svg)
}

/// A column of a histogram.
pub(crate) struct Column {
    /// Under the column, where there is room.
    pub label: String,
    /// Tooltip.
    pub title: String,
    /// Height.
    pub value: u64,
    /// Class that colours it.
    pub class: &'static str,
}

/// A histogram with at most `labels` labels; small values stay visible as a line of 2 px.
pub(crate) fn histogram(columns: &[Column], labels: usize, title: &str) -> Html {
    let every = columns.len().div_ceil(labels.max(1)).max(1);
    let top = columns.iter().map(|c| c.value).max().unwrap_or(0).max(1) as f64;
    let width = 100.0 / columns.len().max(1) as f64;
    let mut svg = format!(
        "<svg class=\"chart histogram\" width=\"100%\" height=\"112\" role=\"img\"><title>{}</title>",
        html(title)
    );
    for (i, c) in columns.iter().enumerate() {
        let x = width * i as f64;
        let height = if c.value == 0 { 0.0 } else { (76.0 * c.value as f64 / top).max(2.0) };
        let middle = x + width / 2.0;
        let _ = write!(
            svg,
            "<g><title>{}</title><rect class=\"{}\" x=\"{:.3}%\" width=\"{:.3}%\" y=\"{:.1}\" height=\"{height:.1}\"/>",
            html(&c.title),
            c.class,
            x + width * 0.06,
            width * 0.88,
            92.0 - height
        );
        if c.value > 0 {
            let _ = write!(
                svg,
                "<text x=\"{middle:.2}%\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                88.0 - height,
                compact(c.value)
            );
        }
        if i % every == 0 {
            // On a narrow screen there is room for every second one of these.
            let class = if (i / every).is_multiple_of(2) { "dim" } else { "dim minor" };
            let _ = write!(
                svg,
                "<text class=\"{class}\" x=\"{middle:.2}%\" y=\"107\" text-anchor=\"middle\">{}</text>",
                html(&c.label)
            );
        }
        svg.push_str("</g>");
    }
    svg.push_str("<line class=\"base\" x1=\"0\" x2=\"100%\" y1=\"92\" y2=\"92\"/></svg>");
    Html::from_markup(svg)
}

/// `54301` → `54k`: room is short over a column; the tooltip and the table have all digits.
fn compact(n: u64) -> String {
    match n {
        0..=9_999 => n.to_string(),
        10_000..=999_999 => format!("{}k", n / 1_000),
        1_000_000..=999_999_999 => format!("{}M", n / 1_000_000),
        _ => format!("{}G", n / 1_000_000_000),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        let points = values.iter().enumerate().map(|(i, v)| Envelope { ts: i as i64, min: *v, max: *v }).collect();
        Series { name: "s".into(), unit: "bytes".into(), points }
    }

    #[test]
    fn a_spike_survives_thinning() {
        let mut values = vec![1.0; 100_000];
        values[54_321] = 900.0;
        let s = series(&values);
        let axis = Axis::new(0, 100_000, 0).unwrap();
        let columns = thin(&s, &axis);
        assert!(columns.len() <= COLUMNS + 1);
        assert!(columns.iter().any(|c| c.2 == 900.0 && c.1 == 1.0));
        assert_eq!(extent(&s, &axis).unwrap(), Extent { min: 1.0, max: 900.0, max_ts: 54_321 });
    }

    #[test]
    fn a_value_before_the_axis_holds_into_it() {
        let s = series(&[5.0, 6.0]);
        let axis = Axis::new(100, 200, 100).unwrap();
        assert_eq!(extent(&s, &axis).unwrap().max, 6.0);
    }

    #[test]
    fn odd_numbers_do_not_break_a_picture() {
        let s = series(&[f64::NAN, f64::INFINITY, -3.0, 1e300]);
        let axis = Axis::new(0, 4, 0).unwrap();
        let svg = Panel { series: &s, axis: &axis, bands: &[], limit: None, logarithmic: true }.draw("t").to_string();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(Axis::new(5, 5, 0).is_none() && Axis::new(i64::MIN, i64::MAX, 0).is_none());
    }

    #[test]
    fn ticks_are_round_and_few() {
        for span in [1, 7, 286_000_000, 3_000_000_000, i64::MAX / 2] {
            let ticks = Axis::new(0, span, 0).unwrap().ticks();
            assert!(ticks.len() <= 12, "{span}: {ticks:?}");
        }
        let labels: Vec<String> =
            Axis::new(-50_000_000, 286_000_000, 0).unwrap().ticks().into_iter().map(|t| t.1).collect();
        assert_eq!(labels, ["0", "+100 ms", "+200 ms"]);
    }

    #[test]
    fn ten_thousand_bands_become_few_rectangles() {
        let bands: Vec<Band> = (0..10_000)
            .map(|i| Band { kind: "gc".into(), label: "x".into(), start_ns: i * 10, end_ns: i * 10 + 9 })
            .collect();
        let axis = Axis::new(0, 100_000, 0).unwrap();
        assert!(merge_close(&axis, &bands.iter().collect::<Vec<_>>()).len() <= 1400);
    }

    #[test]
    fn labels_are_escaped() {
        let axis = Axis::new(0, 10, 0).unwrap();
        let band = Band { kind: "loss".into(), label: "<b>\"".into(), start_ns: 1, end_ns: 2 };
        let svg = lane(&axis, &[&band], "loss", "<i>").to_string();
        assert!(!svg.contains("<b>") && !svg.contains("<i>"));
    }
}
