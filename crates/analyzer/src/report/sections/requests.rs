//! The requests of each process: how long they took, and where the slowest ones spent their time.

use askama::Template;

use super::{Context, Section, shared};
use crate::model::{LedgerRow, RequestTable, SlowRequest};
use crate::report::escape::Html;
use crate::report::{Error, format};

pub(super) const SECTION: Section = Section { id: "requests", title: "Requests", render };

#[derive(Template)]
#[template(path = "sections/requests.html")]
struct View {
    processes: Vec<ProcessView>,
}

struct ProcessView {
    pid: u32,
    facts: Vec<(&'static str, String)>,
    unseen: Vec<Html>,
    slowest: Vec<SlowView>,
    of: String,
}

struct SlowView {
    number: String,
    clock: String,
    begin: String,
    duration: String,
    answered: bool,
    tid: u32,
    parts: Vec<PartView>,
}

struct PartView {
    class: &'static str,
    text: String,
    top: Html,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let processes = context.analysis.facts.requests.iter().map(|r| process(r, context.zero_ns)).collect();
    Ok(Html::from_markup(View { processes }.render()?))
}

fn process(r: &RequestTable, zero: i64) -> ProcessView {
    let mut facts = vec![
        ("answered", format::count(r.answered)),
        ("without an answer", format::count(r.unanswered)),
        ("connections", format::count(r.connections)),
    ];
    let durations = [("median", r.p50_ns), ("p90", r.p90_ns), ("p99", r.p99_ns), ("longest", r.max_ns)];
    facts.extend(durations.into_iter().filter_map(|(name, ns)| Some((name, format::duration(ns?)))));
    ProcessView {
        pid: r.pid,
        facts,
        unseen: r.unseen.iter().map(|u| Html::rich(u)).collect(),
        slowest: r.slowest.iter().map(|s| slow(s, zero)).collect(),
        of: format::count(r.answered.saturating_add(r.unanswered)),
    }
}

fn slow(s: &SlowRequest, zero: i64) -> SlowView {
    let total = s.end_ns.saturating_sub(s.start_ns);
    SlowView {
        number: format::count(s.number),
        clock: s.start_realtime_ns.map_or_else(|| "unknown".to_owned(), format::utc_ms),
        begin: format::offset(s.start_ns, zero),
        duration: format::duration(total),
        answered: s.answered,
        tid: s.tid,
        parts: s.largest.iter().map(|row| part(row, total)).collect(),
    }
}

fn part(row: &LedgerRow, total: i64) -> PartView {
    let share = format::share(row.wall_ns as f64, total as f64);
    PartView {
        class: shared::category_class(row.category),
        text: format!("{} {share}", format::category(row.category)),
        top: row.top.as_deref().map(shared::name_or_sentence).unwrap_or_default(),
    }
}
