//! Resident memory by mapping: what grew, what is in huge pages or swapped out, and who mapped it.

use askama::Template;

use super::shared;
use super::{Context, Section};
use crate::model::{CollapseTable, ResidentGroup, ResidentMemory, ResidentSums};
use crate::report::escape::Html;
use crate::report::{Error, format, resident};

pub(super) const SECTION: Section = Section { id: "resident-memory", title: "Resident memory by mapping", render };

/// Processes shown: a capture may hold thousands of them.
const PROCESSES: usize = 20;

#[derive(Template)]
#[template(path = "sections/resident.html")]
struct View {
    processes: Vec<ProcessView>,
    more: usize,
    /// Of processes that are not above.
    collapses: Vec<Html>,
}

struct ProcessView {
    pid: u32,
    totals: String,
    /// Name, who mapped, numbers.
    rows: Vec<(Html, Html, Numbers)>,
    others: Option<(String, Numbers)>,
    all: Numbers,
    collapses: Vec<Html>,
}

struct Numbers {
    mappings: String,
    begin: String,
    end: String,
    growth: String,
    huge: String,
    swap: String,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let facts = &context.analysis.facts;
    let all = &facts.resident;
    let main = all.first().map(|m| m.pid);
    let shown = shared::heaviest(all, PROCESSES, |m| if Some(m.pid) == main { u64::MAX } else { m.end.rss_bytes });
    let others = facts.collapses.iter().filter(|c| shown.iter().all(|m| m.pid != c.pid)).take(PROCESSES);
    let about = |c: &CollapseTable| Html::rich(&format!("Process {}: {}.", c.pid, resident::collapses(c).join("; ")));
    let view = View {
        more: all.len() - shown.len(),
        collapses: others.map(about).collect(),
        processes: shown.into_iter().map(|m| process(m, context, &facts.collapses)).collect(),
    };
    Ok(Html::from_markup(view.render()?))
}

fn process(m: &ResidentMemory, context: &Context<'_>, collapses: &[CollapseTable]) -> ProcessView {
    let of_process = collapses.iter().filter(|c| c.pid == m.pid);
    let others = (m.others > 0).then(|| {
        let name = format::counted(m.others, "other", "others");
        (name, numbers(None, m.others_begin, m.others_end))
    });
    ProcessView {
        pid: m.pid,
        totals: resident::totals(m, context.zero_ns),
        rows: m.groups.iter().map(row).collect(),
        others,
        all: numbers(None, m.begin, m.end),
        collapses: of_process.flat_map(resident::collapses).map(|text| Html::sentence(&text)).collect(),
    }
}

fn row(g: &ResidentGroup) -> (Html, Html, Numbers) {
    let by = shared::location_or(g.mapped_by.as_ref(), "before the capture, or by the kernel");
    (Html::name(&g.name), by, numbers(Some(g.mappings), g.begin, g.end))
}

fn numbers(mappings: Option<u64>, begin: Option<ResidentSums>, end: ResidentSums) -> Numbers {
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "–".to_owned(), format::bytes);
    Numbers {
        mappings: mappings.map(format::count).unwrap_or_default(),
        begin: known(begin.map(|b| b.rss_bytes)),
        end: format::bytes(end.rss_bytes),
        growth: resident::growth(begin.map(|b| end.growth_since(&b))),
        huge: known(end.anon_huge_bytes),
        swap: known(end.swap_bytes),
    }
}
