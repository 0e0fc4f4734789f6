//! Room in the address space: gaps, VMAs against their limit, who mapped, calls that failed.

use askama::Template;

use super::shared::{self, StackView};
use super::{Context, Section};
use crate::model::{AddressSpace, EnomemGroup, Envelope, GapPoint, GrowthByOwner, Series};
use crate::report::escape::Html;
use crate::report::render::chart::{Axis, Column, Panel, axis_labels, extent, histogram};
use crate::report::{Error, format};

pub(super) const SECTION: Section = Section { id: "address-space", title: "Address space", render };

/// Processes shown: a capture may hold thousands of them.
const SPACES: usize = 20;
/// Owners listed.
const OWNERS: usize = 20;
/// Failed calls listed.
const FAILED: usize = 20;
/// Part of the limit from which on the limit is drawn.
const NEAR_LIMIT: f64 = 0.25;

#[derive(Template)]
#[template(path = "sections/address_space.html")]
struct View {
    failed: Vec<FailedView>,
    more_failed: usize,
    unseen: &'static str,
    spaces: Vec<SpaceView>,
    more_spaces: usize,
}

struct FailedView {
    call: String,
    errno: String,
    count: String,
    first: String,
    largest: String,
    kind: &'static str,
    state: String,
    caller: Html,
    stack: Option<StackView>,
}

struct SpaceView {
    pid: u32,
    facts: Vec<(&'static str, String)>,
    panels: Vec<Strip>,
    labels: Option<Html>,
    classes: Vec<(&'static str, String, String)>,
    histogram: Option<Html>,
    buckets: Vec<(String, String, String)>,
    owners: Vec<(Html, String, String, String)>,
    more_owners: usize,
}

struct Strip {
    name: &'static str,
    note: String,
    chart: Html,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let failed = &context.analysis.facts.failed_calls;
    let all = &context.analysis.facts.address_spaces;
    let mapped = |s: &AddressSpace| s.owners.iter().fold(0_u64, |sum, o| sum.saturating_add(o.mapped_bytes));
    // The main process comes first in the list and stays, whatever it mapped.
    let main = all.first().map(|s| s.pid);
    let spaces = shared::heaviest(all, SPACES, |s| if Some(s.pid) == main { u64::MAX } else { mapped(s) });
    let view = View {
        failed: failed.iter().take(FAILED).map(|f| failed_call(f, context.zero_ns)).collect(),
        more_failed: failed.len().saturating_sub(FAILED),
        unseen: context.unseen(),
        more_spaces: all.len() - spaces.len(),
        spaces: spaces.into_iter().map(|s| space(s, context)).collect(),
    };
    Ok(Html::from_markup(view.render()?))
}

fn failed_call(f: &EnomemGroup, zero: i64) -> FailedView {
    FailedView {
        call: f.call.clone(),
        errno: errno(f.errno),
        count: format::count(f.count),
        first: format::offset(f.first_ns, zero),
        largest: format::bytes(f.max_len_bytes),
        kind: match (f.prot_none, f.accountable) {
            (true, _) => "PROT_NONE",
            (false, true) => "private writable",
            (false, false) => "not accountable",
        },
        state: format!(
            "{} VMAs, {} mapped, {} private writable, largest gap {}",
            format::count(f.vmas),
            format::bytes(f.mapped_bytes),
            format::bytes(f.data_bytes),
            format::bytes(f.largest_gap_bytes)
        ),
        caller: shared::location_or(f.caller.as_ref(), "unknown"),
        stack: (!f.stack.is_empty()).then(|| shared::stack("called by", "", &f.stack, f.caller.as_ref())),
    }
}

fn errno(errno: i32) -> String {
    match errno {
        12 => "ENOMEM".to_owned(),
        11 => "EAGAIN".to_owned(),
        other => format!("errno {other}"),
    }
}

fn space(s: &AddressSpace, context: &Context<'_>) -> SpaceView {
    let t = &context.analysis.facts.timeline;
    let axis = Axis::new(t.start_ns, t.end_ns, context.zero_ns);
    SpaceView {
        pid: s.pid,
        facts: facts(s),
        panels: axis.as_ref().map(|a| panels(s, a)).unwrap_or_default(),
        labels: axis.as_ref().filter(|_| !s.points.is_empty()).map(axis_labels),
        classes: s.points.last().map(classes).unwrap_or_default(),
        histogram: gap_chart(s),
        buckets: buckets(s).map(|(i, n, b)| (bucket_name(i), format::count(n), format::bytes(b))).collect(),
        owners: s.owners.iter().take(OWNERS).map(owner).collect(),
        more_owners: s.owners.len().saturating_sub(OWNERS),
    }
}

fn facts(s: &AddressSpace) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(smallest) = s.points.iter().map(|p| p.largest_bytes).min() {
        facts.push(("largest hole, at its smallest", format::bytes(smallest)));
    }
    facts.push((
        "most VMAs",
        match s.max_map_count {
            Some(limit) => format!(
                "{} of {} ({})",
                format::count(s.max_vmas),
                format::count(limit),
                format::share_of((s.max_vmas, limit))
            ),
            None => format!("{} (vm.max_map_count unknown)", format::count(s.max_vmas)),
        },
    ));
    if let Some(last) = s.points.last() {
        facts.push((
            "mapped at the end",
            format!("{}, of it {} accessible", format::bytes(last.mapped_bytes), format::bytes(last.accessible_bytes)),
        ));
    }
    facts
}

fn panels(s: &AddressSpace, axis: &Axis) -> Vec<Strip> {
    let limit = s
        .max_map_count
        .map(|limit| limit as f64)
        .filter(|limit| s.max_vmas as f64 > NEAR_LIMIT * limit)
        .map(|limit| (limit, "vm.max_map_count".to_owned()));
    [
        strip("largest hole (log scale)", "bytes", s, axis, None, true, |p| p.largest_bytes),
        strip("VMAs", "", s, axis, limit, false, |p| p.vmas),
        strip("mapped bytes, PROT_NONE excluded", "bytes", s, axis, None, false, |p| p.accessible_bytes),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn strip(
    name: &'static str,
    unit: &str,
    s: &AddressSpace,
    axis: &Axis,
    limit: Option<(f64, String)>,
    logarithmic: bool,
    value: fn(&GapPoint) -> u64,
) -> Option<Strip> {
    let points = s.points.iter().map(|p| Envelope { ts: p.ts, min: value(p) as f64, max: value(p) as f64 }).collect();
    let series = Series { name: name.to_owned(), unit: unit.to_owned(), points };
    let e = extent(&series, axis)?;
    let note = format::quantity_range(e.min, e.max, unit);
    if note.ends_with(format::LEVEL) {
        return Some(Strip { name, note, chart: Html::default() });
    }
    let chart = Panel { series: &series, axis, bands: &[], limit, logarithmic }.draw(&format!("{name}: {note}"));
    Some(Strip { name, note, chart })
}

fn classes(p: &GapPoint) -> Vec<(&'static str, String, String)> {
    ["more than 128 MiB", "4 to 128 MiB", "less than 4 MiB"]
        .into_iter()
        .zip(p.classes)
        .map(|(name, (n, b))| (name, format::count(n), format::bytes(b)))
        .collect()
}

/// Filled stretch of the histogram: (exponent, gaps, bytes).
fn buckets(s: &AddressSpace) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
    let h = &s.histogram;
    let first = h.counts.iter().position(|c| *c > 0).unwrap_or(0);
    let end = h.counts.iter().rposition(|c| *c > 0).map_or(0, |i| i + 1);
    (first..end).map(|i| (i, h.counts[i], h.bytes.get(i).copied().unwrap_or(0)))
}

fn bucket_name(exponent: usize) -> String {
    let power = |e: usize| format::bytes(1_u64.checked_shl(e as u32).unwrap_or(u64::MAX));
    format!("{} to {}", power(exponent), power(exponent + 1))
}

fn gap_chart(s: &AddressSpace) -> Option<Html> {
    let columns: Vec<Column> = buckets(s)
        .map(|(i, n, b)| Column {
            label: format::bytes(1_u64.checked_shl(i as u32).unwrap_or(u64::MAX)),
            title: format!("{}: {}, {}", bucket_name(i), format::counted(n, "gap", "gaps"), format::bytes(b)),
            value: n,
            class: match i {
                0..=21 => "bar small",
                22..=26 => "bar medium",
                _ => "bar large",
            },
        })
        .collect();
    (!columns.is_empty())
        .then(|| histogram(&columns, 18, "gaps by size at the end of the capture; the table has the same numbers"))
}

fn owner(o: &GrowthByOwner) -> (Html, String, String, String) {
    (
        shared::location_or(o.owner.as_ref(), "before the capture"),
        format::count(o.calls),
        format::bytes(o.mapped_bytes),
        format::bytes(o.live_bytes),
    )
}
