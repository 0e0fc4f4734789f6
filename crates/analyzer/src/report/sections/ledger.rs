//! Where the wall time of each window went: a stacked bar and its table.

use askama::Template;

use super::{Context, Section, shared};
use crate::model::Ledger;
use crate::report::escape::Html;
use crate::report::render::chart::{Segment, stacked_bar};
use crate::report::{Error, format};

pub(super) const SECTION: Section = Section { id: "ledger", title: "Ledger", render };

/// Parts of the critical path listed.
const THREADS: usize = 12;

#[derive(Template)]
#[template(path = "sections/ledger.html")]
struct View {
    ledgers: Vec<LedgerView>,
}

struct LedgerView {
    bar: Bar,
    pid: u32,
    begins: Html,
    ends: Html,
    offset: String,
    assumptions: Vec<Html>,
    rows: Vec<Row>,
    gap: Option<String>,
    path: Option<String>,
    threads: Vec<(u32, String, String)>,
    more_threads: usize,
}

struct Row {
    class: &'static str,
    name: &'static str,
    help: &'static str,
    wall: String,
    share: String,
    count: String,
    top: Html,
}

/// The bar of one window, also for the first screen.
pub(super) struct Bar {
    /// Name of the window.
    pub name: String,
    /// Its length.
    pub total: String,
    /// The drawing.
    pub chart: Html,
}

/// Draws the bar of a window.
pub(super) fn bar(ledger: &Ledger, height: u32) -> Bar {
    let total = ledger.total_ns();
    let segments: Vec<Segment> = ledger
        .rows
        .iter()
        .map(|r| {
            let share = format::share(r.wall_ns as f64, total as f64);
            let name = format::category(r.category);
            Segment {
                class: shared::category_class(r.category),
                labels: vec![format!("{name} {share}"), share.clone()],
                title: format!("{name}: {}, {share}", format::duration(r.wall_ns)),
                value: r.wall_ns as f64,
            }
        })
        .collect();
    let words: Vec<&str> = segments.iter().map(|s| s.title.as_str()).collect();
    let title = format!("{}, {}: {}", ledger.window.name, format::duration(total), words.join("; "));
    Bar {
        name: ledger.window.name.clone(),
        total: format::duration(total),
        chart: stacked_bar(&segments, height, &title),
    }
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let ledgers = context.analysis.facts.ledgers.iter().map(|l| ledger(l, context.zero_ns)).collect();
    Ok(Html::from_markup(View { ledgers }.render()?))
}

fn ledger(l: &Ledger, zero: i64) -> LedgerView {
    let total = l.total_ns();
    let sum = l.rows.iter().fold(0_i64, |sum, r| sum.saturating_add(r.wall_ns));
    LedgerView {
        bar: bar(l, 34),
        pid: l.pid,
        begins: Html::rich(&l.window.begins_with),
        ends: Html::rich(&l.window.ends_with),
        offset: format!("{} to {}", format::offset(l.window.start_ns, zero), format::offset(l.window.end_ns, zero)),
        assumptions: l.window.assumptions.iter().map(|a| Html::rich(a)).collect(),
        rows: l.rows.iter().map(|r| row(r, total)).collect(),
        // Cannot happen by construction; if it does, the reader must know before trusting a share.
        gap: (sum != total).then(|| {
            format!("The rows add up to {}, not to the window's {}.", format::duration(sum), format::duration(total))
        }),
        path: l.path_measured_ns.map(|ns| {
            let measured = format::share(ns as f64, total as f64);
            format!("Whose time it is: for {measured} of the window recorded wake-ups say so; the rest is inferred from who was active.")
        }),
        threads: l
            .critical_threads
            .iter()
            .take(THREADS)
            .map(|(tid, start, end)| (*tid, format::offset(*start, zero), format::duration(end.saturating_sub(*start))))
            .collect(),
        more_threads: l.critical_threads.len().saturating_sub(THREADS),
    }
}

fn row(r: &crate::model::LedgerRow, total: i64) -> Row {
    Row {
        class: shared::category_class(r.category),
        name: format::category(r.category),
        help: shared::category_help(r.category),
        wall: format::duration(r.wall_ns),
        share: format::share(r.wall_ns as f64, total as f64),
        count: r.count.map(format::count).unwrap_or_default(),
        top: r.top.as_deref().map(shared::name_or_sentence).unwrap_or_default(),
    }
}
