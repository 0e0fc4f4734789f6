//! How far to trust the report: checks, losses, what was not seen, what recording cost, on what it ran.

use askama::Template;

use super::{Context, Section, shared};
use crate::model::{Analysis, CaptureFacts, FidelityFact, ProbeFact, ProcessFact, ReplayCertificate, Trust};
use crate::report::escape::Html;
use crate::report::summary::{self, TrustSummary};
use crate::report::{Error, format};

pub(super) const SECTION: Section = Section { id: "trust", title: "Trust", render };

/// Rows of a list of losses or damages.
const ROWS: usize = 60;
/// Processes listed.
const PROCESSES: usize = 200;

#[derive(Template)]
#[template(path = "sections/trust.html")]
struct View {
    summary: TrustSummary,
    replay: Vec<ReplayView>,
    losses: Vec<LossView>,
    more_losses: usize,
    fidelity: Vec<FidelityView>,
    more_fidelity: usize,
    accounts: Vec<AccountView>,
    probes: Vec<ProbeView>,
    not_checked: Vec<Html>,
    causes_not_checked: Vec<(Html, Html)>,
    damage: Vec<Html>,
    more_damage: usize,
    host: Vec<(&'static str, String)>,
    recorder: Vec<(&'static str, String)>,
    processes: Vec<ProcessView>,
    more_processes: usize,
    rows: Vec<(String, String)>,
}

struct ReplayView {
    pid: u32,
    snapshot: String,
    at: String,
    equal: bool,
    agreeing: String,
    differences: Vec<Html>,
}

struct LossView {
    probe: String,
    reason: String,
    count: String,
    from: String,
    to: String,
}

struct FidelityView {
    from: String,
    to: String,
    how: String,
    faults: String,
}

struct AccountView {
    probe: String,
    seen: String,
    written: String,
    lost: String,
    balanced: bool,
}

struct ProbeView {
    name: String,
    class: &'static str,
    status: String,
    variant: String,
    reason: Html,
    hides: Html,
}

struct ProcessView {
    pid: u32,
    inside: String,
    cgroup: Html,
    comm: Html,
    exe: Html,
    go: String,
    threads: String,
    faults: String,
    calls: String,
    how: Html,
    exit: String,
}

fn render(context: &Context<'_>) -> Result<Html, Error> {
    let analysis = context.analysis;
    let (trust, zero) = (&analysis.facts.trust, context.zero_ns);
    let all = &analysis.facts.capture.processes;
    let processes = shared::heaviest(all, PROCESSES, |p| p.faults.saturating_add(p.memory_calls));
    let view = View {
        summary: TrustSummary::new(analysis),
        replay: trust.replay.iter().map(|r| replay(r, zero)).collect(),
        losses: trust.losses.iter().take(ROWS).map(|l| loss(l, zero)).collect(),
        more_losses: trust.losses.len().saturating_sub(ROWS),
        fidelity: trust.fidelity.iter().take(ROWS).map(|f| fidelity(f, zero)).collect(),
        more_fidelity: trust.fidelity.len().saturating_sub(ROWS),
        accounts: trust.accounts.iter().map(account).collect(),
        probes: probes(&trust.probes),
        not_checked: trust.not_checked.iter().map(|n| Html::rich(n)).collect(),
        causes_not_checked: summary::not_checked(analysis)
            .map(|r| (Html::rich(&r.cause), Html::rich(&r.why)))
            .collect(),
        damage: trust.damage.iter().take(ROWS).map(|d| Html::rich(d)).collect(),
        more_damage: trust.damage.len().saturating_sub(ROWS),
        host: host(&analysis.facts.capture, trust.clock_error_ns)
            .into_iter()
            .chain((!trust.clock_settings.is_empty()).then(|| ("wall clock", clock(trust, zero))))
            .collect(),
        recorder: recorder(analysis),
        more_processes: all.len() - processes.len(),
        processes: processes.into_iter().map(process).collect(),
        rows: analysis.facts.capture.rows.iter().map(|(table, n)| (table.clone(), format::count(*n))).collect(),
    };
    Ok(Html::from_markup(view.render()?))
}

fn replay(r: &ReplayCertificate, zero: i64) -> ReplayView {
    ReplayView {
        pid: r.pid,
        snapshot: r.snapshot.clone(),
        at: format::offset(r.ts, zero),
        equal: r.equal,
        agreeing: format!(
            "{} of {}",
            format::share_of((r.agreeing_bytes, r.snapshot_bytes)),
            format::bytes(r.snapshot_bytes)
        ),
        differences: r.differences.iter().map(|d| Html::rich(d)).collect(),
    }
}

fn loss((probe, reason, n, from, to): &(String, String, u64, i64, i64), zero: i64) -> LossView {
    LossView {
        probe: probe.clone(),
        reason: reason.clone(),
        count: format::count(*n),
        from: format::offset(*from, zero),
        to: format::offset(*to, zero),
    }
}

fn fidelity(f: &FidelityFact, zero: i64) -> FidelityView {
    FidelityView {
        from: format::offset(f.from, zero),
        to: format::offset(f.to, zero),
        how: f.weight.map_or_else(|| "only counted".to_owned(), |n| format!("1 in {n}, by chance")),
        faults: f.faults.map_or_else(|| "not read".to_owned(), format::count),
    }
}

fn account((probe, seen, written, lost): &(String, u64, u64, u64)) -> AccountView {
    AccountView {
        probe: probe.clone(),
        seen: format::count(*seen),
        written: format::count(*written),
        lost: format::count(*lost),
        balanced: *seen == written.saturating_add(*lost),
    }
}

/// Missing ones first: they are what the reader must know.
fn probes(probes: &[ProbeFact]) -> Vec<ProbeView> {
    let mut sorted: Vec<&ProbeFact> = probes.iter().collect();
    sorted.sort_by_key(|p| match p.status.as_str() {
        "absent" => 0,
        "partial" => 1,
        "ran" => 2,
        _ => 3,
    });
    let view = |p: &ProbeFact| ProbeView {
        name: p.name.clone(),
        class: match p.status.as_str() {
            "ran" => "ok",
            "partial" => "part",
            "not applicable" => "none",
            _ => "off",
        },
        status: p.status.clone(),
        variant: p.variant.clone().unwrap_or_default(),
        reason: p.reason.as_deref().map(Html::rich).unwrap_or_default(),
        // What a probe that ran would have hidden is of no interest.
        hides: p.hides.as_deref().filter(|_| p.status != "ran").map(Html::rich).unwrap_or_default(),
    };
    sorted.into_iter().map(view).collect()
}

/// How the wall clock was set.
fn clock(trust: &Trust, zero: i64) -> String {
    let one = |(after, before, by): &(i64, i64, i64)| {
        let way = if *by < 0 { "back" } else { "ahead" };
        let by = format::duration(by.saturating_abs());
        format!("{by} {way}, between {} and {}", format::offset(*after, zero), format::offset(*before, zero))
    };
    let all: Vec<String> = trust.clock_settings.iter().take(ROWS).map(one).collect();
    format!("was set {}; times of day follow it as it was before", all.join("; "))
}

fn host(c: &CaptureFacts, clock_error_ns: Option<i64>) -> Vec<(&'static str, String)> {
    let unknown = || "unknown".to_owned();
    vec![
        ("capture", c.name.clone()),
        ("begin", c.start_realtime_ns.map_or_else(unknown, format::utc)),
        ("length", format::duration(c.end_ns.saturating_sub(c.start_ns))),
        ("closed in order", if c.complete { "yes" } else { "no: the recorder was killed" }.to_owned()),
        (
            "clock alignment error",
            clock_error_ns
                .map_or_else(|| "no pair of clocks was recorded".to_owned(), |e| format!("± {}", format::duration(e))),
        ),
        ("kernel", format!("{} {}", c.kernel_release, c.arch)),
        ("CPUs", c.cpus.map_or_else(unknown, |n| n.to_string())),
        ("memory", c.memory_bytes.map_or_else(unknown, format::bytes)),
        ("transparent huge pages", c.thp_enabled.clone().unwrap_or_else(unknown)),
    ]
}

fn recorder(analysis: &Analysis) -> Vec<(&'static str, String)> {
    let (trust, c) = (&analysis.facts.trust, &analysis.facts.capture);
    let length = c.end_ns.saturating_sub(c.start_ns).max(0) as f64;
    let part = |counts: (u64, u64)| match counts {
        (_, 0) => "none".to_owned(),
        (part, whole) => format!("{} ({} of {})", format::share_of(counts), format::count(part), format::count(whole)),
    };
    vec![
        (
            "CPU time of the recorder",
            trust.recorder_cpu_ns.map_or_else(
                || "unknown".to_owned(),
                |ns| {
                    let ns = i64::try_from(ns).unwrap_or(i64::MAX);
                    format!("{} ({} of one CPU)", format::duration(ns), format::share(ns as f64, length))
                },
            ),
        ),
        ("CPU time in the BPF programs", bpf_time(trust, length)),
        ("peak RSS of the recorder", trust.recorder_rss_bytes.map_or_else(|| "unknown".to_owned(), format::bytes)),
        ("faults charged to a known mapping", part(trust.faults_charged)),
        ("faults with a service time", part(trust.faults_timed)),
        ("faults whose stack is beyond doubt", part(trust.faults_of_sure_stack)),
        ("frames with a name", part(trust.frames_named)),
    ]
}

fn bpf_time(trust: &Trust, length: f64) -> String {
    let (Some(ns), Some(sampled)) = (trust.bpf_ns, trust.bpf_sampled_ns) else { return "not measured".to_owned() };
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    format!(
        "about {} ({} of one CPU), estimated from {} in which it was measured; a part of what the targets took",
        format::duration(signed(ns)),
        format::share(ns as f64, length),
        format::duration(signed(sampled)),
    )
}

fn process(p: &ProcessFact) -> ProcessView {
    ProcessView {
        pid: p.pid,
        inside: p.ns_pid.filter(|inside| *inside != p.pid).map(|inside| inside.to_string()).unwrap_or_default(),
        cgroup: p.cgroup.as_deref().map(Html::name).unwrap_or_default(),
        comm: p.comm.as_deref().map(Html::name).unwrap_or_default(),
        exe: p.exe.as_deref().map(Html::name).unwrap_or_default(),
        go: p.go_version.clone().unwrap_or_default(),
        threads: format::count(p.threads),
        faults: format::count(p.faults),
        calls: format::count(p.memory_calls),
        how: Html::rich(&p.how),
        exit: p.exit_status.map_or_else(|| "ran on".to_owned(), wait_status),
    }
}

/// `status` as wait(2) encodes it: low seven bits the signal, bits 8 to 15 the exit code.
fn wait_status(status: i32) -> String {
    match status & 0x7f {
        0 => format!("exit {}", status >> 8 & 0xff),
        signal => format!("killed by signal {signal}"),
    }
}
