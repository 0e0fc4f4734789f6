//! Faults by kind and by who mapped and touched; pages given back and touched again.

use std::ops::Range;

use askama::Template;

use super::shared::{self, StackView};
use super::{Context, Section};
use crate::model::{ChurnGroup, FaultGroup, FaultKindTotals, LatencyHistogram};
use crate::report::escape::Html;
use crate::report::render::chart::{Column, histogram};
use crate::report::{Error, format};

pub(super) const SECTION: Section = Section { id: "faults", title: "Faults", render };

/// Kinds shown, each of one process: a capture may hold thousands of processes.
const KINDS: usize = 60;
/// Groups listed.
const GROUPS: usize = 20;
/// Groups whose stacks are shown.
const GROUP_STACKS: usize = 5;

#[derive(Template)]
#[template(path = "sections/faults.html")]
struct View {
    kinds: Vec<KindView>,
    more_kinds: usize,
    groups: Vec<GroupView>,
    more_groups: usize,
    window: Option<String>,
    churn: Vec<ChurnView>,
    more_churn: usize,
    unseen: &'static str,
}

struct KindView {
    pid: u32,
    name: &'static str,
    faults: String,
    pages: String,
    sum: String,
    p50: String,
    p99: String,
    max: String,
    chart: Option<Html>,
    buckets: Vec<(String, String)>,
}

struct GroupView {
    kind: &'static str,
    toucher: Html,
    mapper: Html,
    mapping: Html,
    faults: String,
    pages: String,
    sum: String,
    in_window: String,
    stacks: Vec<StackView>,
}

struct ChurnView {
    releaser: Html,
    toucher: Html,
    calls: String,
    released: String,
    refaults: String,
    ratio: String,
    time: String,
    gap: String,
    rounds: String,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let faults = &context.analysis.facts.faults;
    let churn = &context.analysis.facts.churn.groups;
    let window = context.analysis.facts.ledgers.first().map(|l| l.window.name.clone());
    let kinds = shared::heaviest(&faults.kinds, KINDS, |k| k.faults);
    let buckets = shared_buckets(&kinds);
    let view = View {
        more_kinds: faults.kinds.len() - kinds.len(),
        kinds: kinds.into_iter().map(|k| kind(k, &buckets)).collect(),
        groups: faults.groups.iter().take(GROUPS).enumerate().map(|(i, g)| group(i, g, window.as_deref())).collect(),
        more_groups: faults.groups.len().saturating_sub(GROUPS),
        window,
        churn: churn.iter().take(GROUPS).map(churn_row).collect(),
        more_churn: churn.len().saturating_sub(GROUPS),
        unseen: context.unseen(),
    };
    Ok(Html::from_markup(view.render()?))
}

fn kind(k: &FaultKindTotals, range: &Range<usize>) -> KindView {
    let measured = |ns: Option<i64>| ns.map_or_else(|| "–".to_owned(), format::duration);
    let name = shared::touch_kind(k.kind);
    KindView {
        pid: k.pid,
        name,
        faults: format::count(k.faults),
        pages: format::count(k.pages),
        // Zero measured faults have no sum: that is not zero time.
        sum: if k.latency.measured > 0 { format::duration(k.latency.sum_ns) } else { "–".to_owned() },
        p50: measured(k.latency.p50_ns),
        p99: measured(k.latency.p99_ns),
        max: measured(k.latency.max_ns),
        chart: latency_chart(name, &k.latency, range),
        buckets: filled(&k.latency)
            .map(|i| (i, k.latency.counts[i]))
            .map(|(low, n)| (bucket_name(low), format::count(n)))
            .collect(),
    }
}

/// Buckets from the first to the last that holds anything.
fn filled(h: &LatencyHistogram) -> Range<usize> {
    let first = h.counts.iter().position(|c| *c > 0).unwrap_or(0);
    first..h.counts.iter().rposition(|c| *c > 0).map_or(first, |i| i + 1)
}

/// The same buckets for all kinds, so that their charts can be compared.
fn shared_buckets(kinds: &[&FaultKindTotals]) -> Range<usize> {
    let ranges = kinds.iter().map(|k| filled(&k.latency)).filter(|r| !r.is_empty());
    ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
}

fn bucket_name(exponent: usize) -> String {
    format!("{} to {}", format::duration(power(exponent)), format::duration(power(exponent + 1)))
}

fn power(exponent: usize) -> i64 {
    i64::try_from(exponent).ok().and_then(|e| 1_i64.checked_shl(e.min(62) as u32)).unwrap_or(i64::MAX)
}

fn latency_chart(name: &str, h: &LatencyHistogram, range: &Range<usize>) -> Option<Html> {
    if filled(h).is_empty() {
        return None;
    }
    let columns: Vec<Column> = range
        .clone()
        .map(|i| (i, h.counts.get(i).copied().unwrap_or(0)))
        .map(|(i, n)| Column {
            label: format::duration(power(i)),
            title: format!("{}: {}", bucket_name(i), format::counted(n, "fault", "faults")),
            value: n,
            class: "bar",
        })
        .collect();
    Some(histogram(&columns, 8, &format!("service time of faults, {name}; the table has the same numbers")))
}

fn group(index: usize, g: &FaultGroup, window: Option<&str>) -> GroupView {
    let in_window = g.in_windows.iter().find(|(name, _, _)| Some(name.as_str()) == window);
    let stack = |title: &str, frames: &[crate::model::StackFrame], marked| {
        (index < GROUP_STACKS && !frames.is_empty()).then(|| shared::stack(title, "", frames, marked))
    };
    GroupView {
        kind: shared::touch_kind(g.kind),
        toucher: shared::location_or(g.toucher.as_ref(), "unknown"),
        mapper: shared::location_or(g.mapper.as_ref(), "before the capture"),
        mapping: Html::name_with_title(format::file_name(&g.mapping), &g.mapping),
        faults: format::count(g.faults),
        pages: format::count(g.pages),
        sum: format::duration(g.sum_ns),
        in_window: in_window.map_or_else(
            || "–".to_owned(),
            |(_, n, ns)| {
                if *n == 0 { "0".to_owned() } else { format!("{}, {}", format::count(*n), format::duration(*ns)) }
            },
        ),
        stacks: [
            stack("touched by", &g.touch_stack, g.toucher.as_ref()),
            stack("mapped by", &g.map_stack, g.mapper.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

fn churn_row(g: &ChurnGroup) -> ChurnView {
    ChurnView {
        releaser: shared::location_or(g.releaser.as_ref(), "unknown"),
        toucher: shared::location_or(g.toucher.as_ref(), "unknown"),
        calls: format::count(g.calls),
        released: format::count(g.released_pages),
        refaults: format::count(g.refaults),
        ratio: format::share_of((g.refaults, g.released_pages)),
        time: format!("{} + {}", format::duration(g.refault_ns), format::duration(g.madvise_ns)),
        gap: g.median_gap_ns.map_or_else(|| "–".to_owned(), format::duration),
        rounds: format::quantity(g.rounds_per_page, ""),
    }
}
