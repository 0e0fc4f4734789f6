//! Memory activity before, during and after GC cycles.

use askama::Template;

use super::shared;
use super::{Context, Section};
use crate::model::{GcPhase, GcPhaseRow, GcTable, StackBytes};
use crate::report::escape::Html;
use crate::report::{Error, format};

pub(super) const SECTION: Section = Section { id: "gc", title: "GC", render };

/// Cycles listed.
const CYCLES: usize = 50;

#[derive(Template)]
#[template(path = "sections/gc.html")]
struct View {
    measured: bool,
    cycles_total: String,
    stw_total: String,
    stw_max: String,
    processes: Vec<ProcessView>,
    cycles: Vec<CycleView>,
    more_cycles: usize,
    churn: Option<String>,
}

struct ProcessView {
    pid: u32,
    phases: Vec<&'static str>,
    rows: Vec<(&'static str, Vec<String>)>,
    stacks: Vec<PhaseStacks>,
}

struct PhaseStacks {
    phase: &'static str,
    rows: Vec<(Html, String, String)>,
}

struct CycleView {
    number: usize,
    pid: u32,
    start: String,
    mark: String,
    collector: Html,
    heap: String,
    stw: String,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let gc = &context.analysis.facts.gc;
    let refaults = context.analysis.facts.churn.groups.iter().fold((0_u64, 0_i64), |(n, ns), g| {
        (n.saturating_add(g.refaults), ns.saturating_add(g.refault_ns).saturating_add(g.madvise_ns))
    });
    let view = View {
        measured: gc.measured,
        cycles_total: format::count(gc.cycles.len() as u64),
        stw_total: format::duration(gc.stw_total_ns),
        stw_max: format::duration(gc.stw_max_ns),
        processes: processes(gc),
        cycles: gc.cycles.iter().take(CYCLES).enumerate().map(|(i, c)| cycle(i, c, context.zero_ns)).collect(),
        more_cycles: gc.cycles.len().saturating_sub(CYCLES),
        churn: (refaults.0 > 0).then(|| {
            format!("{}, {}", format::counted(refaults.0, "refault", "refaults"), format::duration(refaults.1))
        }),
    };
    Ok(Html::from_markup(view.render()?))
}

fn processes(gc: &GcTable) -> Vec<ProcessView> {
    let mut pids: Vec<u32> = gc.phases.iter().map(|p| p.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().map(|pid| process(pid, gc.phases.iter().filter(|p| p.pid == pid).collect())).collect()
}

fn process(pid: u32, mut phases: Vec<&GcPhaseRow>) -> ProcessView {
    phases.sort_by_key(|p| p.phase);
    let all = |name: &'static str, f: fn(&GcPhaseRow) -> String| (name, phases.iter().map(|p| f(p)).collect());
    ProcessView {
        pid,
        phases: phases.iter().map(|p| phase_name(p.phase)).collect(),
        rows: vec![
            all("wall time", |p| format::duration(p.wall_ns)),
            all("mmap calls", |p| format::count(p.mmap_calls)),
            all("mmap bytes", |p| format::bytes(p.mmap_bytes)),
            all("mean mmap", |p| p.mmap_mean_bytes.map_or_else(|| "–".to_owned(), format::bytes)),
            all("munmap calls", |p| format::count(p.munmap_calls)),
            all("madvise calls", |p| format::count(p.madvise_calls)),
            all("bytes given back", |p| format::bytes(p.madvise_bytes)),
            all("faults", |p| format::count(p.faults)),
            all("faults per ms", |p| per_ms(p.faults, p.wall_ns)),
            all("time in faults", |p| format::duration(p.fault_ns)),
        ],
        stacks: phases
            .iter()
            .filter(|p| !p.top_stacks.is_empty())
            .map(|p| PhaseStacks { phase: phase_name(p.phase), rows: p.top_stacks.iter().map(stack_row).collect() })
            .collect(),
    }
}

/// Phases differ in length: only a rate can be compared.
fn per_ms(n: u64, wall_ns: i64) -> String {
    if wall_ns > 0 { format::quantity(n as f64 * 1e6 / wall_ns as f64, "") } else { "–".to_owned() }
}

fn stack_row(s: &StackBytes) -> (Html, String, String) {
    (shared::location_or(s.location.as_ref(), "only runtime frames"), format::count(s.calls), format::bytes(s.bytes))
}

fn phase_name(phase: GcPhase) -> &'static str {
    match phase {
        GcPhase::Before => "before",
        GcPhase::During => "during",
        GcPhase::After => "after",
        GcPhase::Outside => "otherwise",
        GcPhase::StartUp => "start-up",
    }
}

fn cycle(index: usize, c: &crate::model::GcCycle, zero: i64) -> CycleView {
    let stw = c.stw.iter().fold(0_i64, |sum, s| sum.saturating_add(s.1.saturating_sub(s.0)));
    CycleView {
        number: index + 1,
        pid: c.pid,
        start: format::offset(c.start_ns, zero),
        mark: c.mark_end_ns.map_or_else(
            || "not ended in the capture".to_owned(),
            |end| format::duration(end.saturating_sub(c.start_ns)),
        ),
        collector: Html::name(c.collector.as_deref().unwrap_or("Go, to mark termination")),
        heap: c.heap_bytes.map_or_else(
            || "–".to_owned(),
            |(before, after)| format!("{} → {}", format::bytes(before), format::bytes(after)),
        ),
        stw: format!("{} in {}", format::duration(stw), format::counted(c.stw.len() as u64, "stop", "stops")),
    }
}
