//! The language runtimes: versions, settings, and what they did.

use askama::Template;

use super::shared;
use super::{Context, Section};
use crate::model::{RuntimeFacts, RuntimeValue, RuntimeWork};
use crate::report::escape::Html;
use crate::report::{Error, format};

pub(super) const SECTION: Section = Section { id: "runtimes", title: "Runtimes", render };

/// Processes and rows of work shown.
const PROCESSES: usize = 20;
const WORK: usize = 30;

#[derive(Template)]
#[template(path = "sections/runtimes.html")]
struct View {
    processes: Vec<ProcessView>,
    more: usize,
    short_assists: Option<String>,
}

struct ProcessView {
    pid: u32,
    runtime: Html,
    settings: Vec<(Html, Html, String)>,
    /// What the program had set before is not known.
    late: bool,
    work: Vec<WorkView>,
    more: usize,
}

struct WorkView {
    what: Html,
    count: String,
    sum: String,
    max: String,
    bytes: String,
    who: Html,
    in_windows: String,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let runtimes = &context.analysis.facts.runtimes;
    let view = View {
        processes: runtimes.processes.iter().take(PROCESSES).map(|p| process(p, context.zero_ns)).collect(),
        more: runtimes.processes.len().saturating_sub(PROCESSES),
        short_assists: runtimes.short_assists.filter(|s| s.0 > 0).map(|(n, ns)| {
            format!("{}, {} in all", format::counted(n, "shorter assist", "shorter assists"), format::duration(ns))
        }),
    };
    Ok(Html::from_markup(view.render()?))
}

fn process(p: &RuntimeFacts, zero: i64) -> ProcessView {
    let name = if p.kind == "jvm" { "JVM" } else { "Go" };
    let version = p.version.as_deref().unwrap_or("version not known");
    ProcessView {
        pid: p.pid,
        runtime: Html::name(&format!("{name} {}", version.trim_start_matches("go"))),
        settings: p.settings.iter().map(|s| setting(s, zero)).collect(),
        late: p.kind == "go" && !p.settings_complete,
        work: p.work.iter().take(WORK).map(work).collect(),
        more: p.work.len().saturating_sub(WORK),
    }
}

fn setting(s: &RuntimeValue, zero: i64) -> (Html, Html, String) {
    let value = match (&s.value, s.known) {
        (Some(v), _) => Html::name(v),
        (None, true) => Html::text("not set"),
        (None, false) => Html::text("could not be read"),
    };
    let when = s
        .set_ns
        .map_or_else(|| "at its start".to_owned(), |ts| format!("by the program, {}", format::offset(ts, zero)));
    (Html::name(&s.key), value, when)
}

fn work(w: &RuntimeWork) -> WorkView {
    let windows: Vec<String> =
        w.in_windows.iter().map(|(name, ns)| format!("{} of the {name}", format::duration(*ns))).collect();
    WorkView {
        what: Html::name(&w.what),
        count: format::count(w.count),
        sum: format::duration(w.sum_ns),
        max: format::duration(w.max_ns),
        bytes: w.bytes.map_or_else(|| "–".to_owned(), format::bytes),
        who: shared::location_or(w.who.as_ref(), "–"),
        in_windows: if windows.is_empty() { "–".to_owned() } else { windows.join(", ") },
    }
}
