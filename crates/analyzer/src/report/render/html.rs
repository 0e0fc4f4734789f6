//! report.html: one document, no script, nothing loaded from anywhere.

use askama::Template;

use crate::model::Analysis;
use crate::report::escape::{Html, scrub};
use crate::report::render::flame::PAGE_FRAMES;
use crate::report::sections::{Context, SECTIONS};
use crate::report::{Error, ReportOptions, format, summary};

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    title: String,
    style: Html,
    capture: &'a str,
    facts: Vec<Html>,
    version: &'a str,
    sections: Vec<SectionView>,
}

struct SectionView {
    id: &'static str,
    title: &'static str,
    body: Html,
}

/// Renders the page; while it is larger than the limit, its flame graphs lose frames.
pub(crate) fn page(analysis: &Analysis, options: &ReportOptions) -> Result<String, Error> {
    let mut frames = PAGE_FRAMES;
    loop {
        let page = render(analysis, frames)?;
        if page.len() <= options.max_html_bytes || frames == 0 {
            return Ok(page);
        }
        // Below some fifty frames a picture says nothing; then it is left to its file and table.
        frames = if frames > 50 { frames / 2 } else { 0 };
    }
}

fn render(analysis: &Analysis, frames: usize) -> Result<String, Error> {
    let context = Context::new(analysis, frames);
    let sections = SECTIONS
        .iter()
        .map(|s| Ok(SectionView { id: s.id, title: s.title, body: (s.render)(&context)? }))
        .collect::<Result<_, Error>>()?;
    let page = Page {
        title: format!("{}: {}", summary::kind_label(analysis.verdict.kind), analysis.facts.capture.name),
        style: Html::from_markup(include_str!("../../../templates/style.css").to_owned()),
        capture: &analysis.facts.capture.name,
        facts: facts(analysis),
        version: &analysis.mtrace_version,
        sections,
    };
    Ok(scrub(page.render()?))
}

/// The line at the top: what this is about, in few words.
fn facts(analysis: &Analysis) -> Vec<Html> {
    let c = &analysis.facts.capture;
    let mut facts = Vec::new();
    if let Some(p) = c.processes.first() {
        let name = p.comm.as_deref().unwrap_or("process");
        let go = p.go_version.as_deref().map(|v| format!(", {v}")).unwrap_or_default();
        facts.push(Html::text(&format!("{name} (pid {}{go})", p.pid)));
    }
    if c.processes.len() > 1 {
        facts.push(Html::text(&format!("and {} more processes", c.processes.len() - 1)));
    }
    facts.extend(c.start_realtime_ns.map(|ns| Html::text(&format::utc(ns))));
    facts.push(Html::text(&format!("{} recorded", format::duration(c.end_ns.saturating_sub(c.start_ns)))));
    facts.push(Html::text(&format!("Linux {}", c.kernel_release)));
    facts.extend(summary::trigger(analysis).map(|t| Html::rich(&format!("trigger {t}"))));
    facts
}
