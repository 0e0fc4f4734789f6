//! What happened when: panels over one time axis, and the same as a table.

use askama::Template;

use super::{Context, Section};
use crate::model::{Band, Timeline};
use crate::report::escape::Html;
use crate::report::render::chart::{Axis, Panel, axis_labels, extent, lane};
use crate::report::{Error, format, summary};

pub(super) const SECTION: Section = Section { id: "timeline", title: "Timeline", render };

/// Bands listed in the table.
const BAND_ROWS: usize = 60;
/// A window that is a smaller part of the capture than this gets a drawing of its own.
const ZOOM_BELOW: f64 = 0.5;
/// Windows with a row of their own.
const WINDOWS: usize = 6;
/// Kinds of bands with a row of their own: kind, class, name.
const LANES: [(&str, &str, &str); 3] =
    [("gc", "gc", "GC cycles"), ("stw", "stw", "stop-the-world"), ("loss", "loss", "events lost")];

#[derive(Template)]
#[template(path = "sections/timeline.html")]
struct View {
    zero: Html,
    drawings: Vec<Drawing>,
    series: Vec<SeriesRow>,
    bands: Vec<BandRow>,
    more_bands: usize,
}

/// All panels over one stretch of time.
struct Drawing {
    title: String,
    open: bool,
    lanes: Vec<Strip>,
    panels: Vec<Strip>,
    labels: Html,
}

struct Strip {
    name: String,
    note: String,
    chart: Html,
}

struct SeriesRow {
    name: String,
    min: String,
    max: String,
    at: String,
}

struct BandRow {
    kind: String,
    label: Html,
    start: String,
    length: String,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let timeline = &context.analysis.facts.timeline;
    let zero = context.zero_ns;
    let backdrop = backdrop(context);
    let view = View {
        zero: Html::rich(&summary::zero_name(context.analysis)),
        drawings: axes(context)
            .into_iter()
            .enumerate()
            .map(|(i, (title, axis))| drawing(i, title, timeline, &backdrop, &axis))
            .collect(),
        series: series_rows(timeline, zero),
        bands: timeline.bands.iter().take(BAND_ROWS).map(|b| band_row(b, zero)).collect(),
        more_bands: timeline.bands.len().saturating_sub(BAND_ROWS),
    };
    Ok(Html::from_markup(view.render()?))
}

/// The main window with some surroundings, where it would be small otherwise, and the whole capture.
fn axes(context: &Context<'_>) -> Vec<(String, Axis)> {
    let t = &context.analysis.facts.timeline;
    let Some(whole) = Axis::new(t.start_ns, t.end_ns, context.zero_ns) else { return Vec::new() };
    let mut axes = Vec::new();
    if let Some(window) = context.analysis.facts.ledgers.first().map(|l| &l.window) {
        let length = window.end_ns.saturating_sub(window.start_ns);
        let span = t.end_ns - t.start_ns;
        let margin = length / 5;
        let zoom = Axis::new(
            window.start_ns.saturating_sub(margin).max(t.start_ns),
            window.end_ns.saturating_add(margin).min(t.end_ns),
            context.zero_ns,
        );
        if let Some(zoom) = zoom.filter(|_| (length as f64) < ZOOM_BELOW * span as f64) {
            axes.push((format!("Around the {} ({})", window.name, format::duration(length)), zoom));
        }
    }
    axes.push((format!("Whole capture ({})", format::duration(t.end_ns - t.start_ns)), whole));
    axes
}

fn drawing(index: usize, title: String, timeline: &Timeline, backdrop: &[Band], axis: &Axis) -> Drawing {
    Drawing {
        title,
        open: index == 0,
        lanes: windows(timeline, axis)
            .into_iter()
            .chain(LANES.iter().filter_map(|l| strip_of_bands(timeline, axis, *l)))
            .collect(),
        panels: timeline.series.iter().filter_map(|s| strip_of_values(s, backdrop, axis)).collect(),
        labels: axis_labels(axis),
    }
}

/// The main window and the losses stand behind every panel; tints of further windows would only blur it.
fn backdrop(context: &Context<'_>) -> Vec<Band> {
    let main = context.analysis.facts.ledgers.first().map(|l| (l.window.start_ns, l.window.end_ns));
    let shown =
        |b: &&Band| b.kind == "loss" || (b.kind == "window" && main.is_none_or(|m| m == (b.start_ns, b.end_ns)));
    context.analysis.facts.timeline.bands.iter().filter(shown).cloned().collect()
}

/// A row per window, except for those that fill the drawing: windows overlap.
fn windows(timeline: &Timeline, axis: &Axis) -> Vec<Strip> {
    let part = |b: &&Band| {
        let outside = b.end_ns < axis.start || b.start_ns > axis.end;
        b.kind == "window" && !outside && (b.start_ns > axis.start || b.end_ns < axis.end)
    };
    let strip = |b: &Band| {
        let note = format::duration(b.end_ns.saturating_sub(b.start_ns));
        Strip { name: b.label.clone(), chart: lane(axis, &[b], "window-lane", &format!("{}: {note}", b.label)), note }
    };
    timeline.bands.iter().filter(part).take(WINDOWS).map(strip).collect()
}

fn strip_of_bands(timeline: &Timeline, axis: &Axis, (kind, class, name): (&str, &str, &str)) -> Option<Strip> {
    let bands: Vec<&Band> =
        timeline.bands.iter().filter(|b| b.kind == kind && b.end_ns >= axis.start && b.start_ns <= axis.end).collect();
    if bands.is_empty() {
        return None;
    }
    let sum = bands.iter().fold(0_i64, |sum, b| sum.saturating_add(b.end_ns.saturating_sub(b.start_ns)));
    let note = format!("{}, {} in all", format::count(bands.len() as u64), format::duration(sum));
    let chart = lane(axis, &bands, class, &format!("{name}: {note}"));
    Some(Strip { name: name.to_owned(), note, chart })
}

fn strip_of_values(series: &crate::model::Series, backdrop: &[Band], axis: &Axis) -> Option<Strip> {
    let e = extent(series, axis)?;
    let note = format::quantity_range(e.min, e.max, &series.unit);
    if note.ends_with(format::LEVEL) {
        // A level line says no more than its number: the room is for what changes.
        return Some(Strip { name: series.name.clone(), note, chart: Html::default() });
    }
    let title = format!("{}: {note}; largest at {}", series.name, format::offset(e.max_ts, axis.zero));
    let panel = Panel { series, axis, bands: backdrop, limit: None, logarithmic: false };
    Some(Strip { name: series.name.clone(), note, chart: panel.draw(&title) })
}

fn series_rows(timeline: &Timeline, zero: i64) -> Vec<SeriesRow> {
    let Some(axis) = Axis::new(timeline.start_ns, timeline.end_ns, zero) else { return Vec::new() };
    let row = |s: &crate::model::Series| {
        let e = extent(s, &axis)?;
        Some(SeriesRow {
            name: s.name.clone(),
            min: format::quantity(e.min, &s.unit),
            max: format::quantity(e.max, &s.unit),
            at: format::offset(e.max_ts, zero),
        })
    };
    timeline.series.iter().filter_map(row).collect()
}

fn band_row(b: &Band, zero: i64) -> BandRow {
    let kind = LANES.iter().find(|l| l.0 == b.kind).map_or(b.kind.as_str(), |l| l.2);
    BandRow {
        kind: kind.to_owned(),
        label: Html::rich(&b.label),
        start: format::offset(b.start_ns, zero),
        length: format::duration(b.end_ns.saturating_sub(b.start_ns)),
    }
}
