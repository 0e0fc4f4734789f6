//! What was recorded, and how far to trust it.

use std::collections::{BTreeMap, BTreeSet};

use mtrace_formats::capture::{Capture, ClockPair, Manifest, ProbeStatus, State, Target, TriggerCount};
use mtrace_formats::tables::{ProcessEvent, ProcessEventKind};

use crate::load::{FaultRow, NONE, Tables};
use crate::model::{CaptureFacts, ProbeFact, ProcessFact, TouchKind, TriggerFact, Trust};
use crate::replay::Replay;

/// Begin and end of what was recorded: the manifest's, or what the events say.
pub(crate) fn span(manifest: &Manifest, tables: &Tables) -> (i64, i64) {
    let seen = tables.time_range();
    let start = manifest.window.start_ns.or(seen.map(|s| s.0)).unwrap_or(0);
    let end = manifest.window.end_ns.or(seen.map(|s| s.1)).unwrap_or(start);
    // A manifest that lies must not turn time around or put a point per nanosecond into it.
    let start = start.clamp(0, 1 << 60);
    (start, end.clamp(start, 1 << 60))
}

pub(crate) fn capture(capture: &Capture, tables: &Tables, span: (i64, i64)) -> CaptureFacts {
    let m = &capture.manifest;
    let clock = m.clocks.first();
    CaptureFacts {
        name: capture.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        start_ns: span.0,
        end_ns: span.1,
        start_realtime_ns: clock.map(|c| c.realtime_ns.saturating_add(span.0.saturating_sub(c.monotonic_ns))),
        complete: m.state == State::Complete,
        trigger: trigger(m, span),
        kernel_release: m.host.kernel_release.clone(),
        arch: m.host.arch.clone(),
        cpus: m.host.cpus,
        memory_bytes: m.host.memory_bytes,
        thp_enabled: m.host.thp_enabled.clone(),
        processes: processes(m, tables),
        rows: tables.rows.clone(),
    }
}

/// Why a flight recorder wrote this capture.
fn trigger(m: &Manifest, (start, end): (i64, i64)) -> Option<TriggerFact> {
    let flight = m.flight.as_ref()?;
    let fired = flight.trigger.as_ref()?;
    let clock = m.clocks.last();
    let sum = |counts: &[TriggerCount]| counts.iter().fold(0_u64, |sum, c| sum.saturating_add(c.count));
    Some(TriggerFact {
        trigger: fired.trigger.clone(),
        what: fired.what.clone(),
        ts: fired.ts,
        realtime_ns: clock.map(|c| c.realtime_ns.saturating_add(fired.ts.saturating_sub(c.monotonic_ns))),
        before_ns: fired.ts.saturating_sub(start),
        after_ns: end.saturating_sub(fired.ts).max(0),
        cut_by_size: flight.cut_by_size,
        also: sum(&flight.also),
        suppressed: sum(&flight.suppressed),
    })
}

/// Name of each process: of its main thread, the last one it had, else the manifest's.
pub(crate) fn comms(manifest: &Manifest, events: &[ProcessEvent]) -> BTreeMap<u32, String> {
    let mut comms: BTreeMap<u32, String> =
        manifest.targets.iter().filter_map(|t| Some((t.pid, t.comm.clone()?))).collect();
    for e in events.iter().filter(|e| e.pid == e.tid || e.event == ProcessEventKind::Exec) {
        if let Some(comm) = e.comm.as_ref().filter(|c| !c.is_empty()) {
            comms.insert(e.pid, comm.clone());
        }
    }
    comms
}

fn processes(m: &Manifest, tables: &Tables) -> Vec<ProcessFact> {
    let comms = comms(m, &tables.process_events);
    let mut threads: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut faults: BTreeMap<u32, u64> = BTreeMap::new();
    let mut calls: BTreeMap<u32, u64> = BTreeMap::new();
    // Runs of rows of one thread are long: a look-up per run.
    for run in tables.faults.chunk_by(|a, b| (a.pid, a.tid) == (b.pid, b.tid)) {
        *faults.entry(run[0].pid).or_insert(0) += number(run);
        threads.entry(run[0].pid).or_default().insert(run[0].tid);
    }
    for c in &tables.calls {
        *calls.entry(c.pid).or_insert(0) += 1;
        threads.entry(c.pid).or_default().insert(c.tid);
    }
    for e in &tables.process_events {
        threads.entry(e.pid).or_default().insert(e.tid);
    }
    for t in &m.targets {
        threads.entry(t.pid).or_default();
    }
    let mut paths: BTreeMap<u32, &str> = BTreeMap::new();
    let mut statuses: BTreeMap<u32, i32> = BTreeMap::new();
    let (mut ns_pids, mut cgroups) = (BTreeMap::<u32, u32>::new(), BTreeMap::<u32, &str>::new());
    for e in &tables.process_events {
        ns_pids.extend(e.ns_pid.map(|inside| (e.pid, inside)));
        cgroups.extend(e.cgroup.as_deref().map(|group| (e.pid, group)));
        if let Some(path) = &e.path {
            paths.insert(e.pid, path);
        }
        if let (ProcessEventKind::Exit, Some(status)) = (e.event, e.status) {
            statuses.insert(e.pid, status);
        }
    }
    let targets: BTreeMap<u32, &Target> = m.targets.iter().rev().map(|t| (t.pid, t)).collect();
    threads
        .into_iter()
        .map(|(pid, tids)| {
            let target = targets.get(&pid);
            ProcessFact {
                pid,
                ns_pid: ns_pids.get(&pid).copied().or_else(|| target.and_then(|t| t.ns_pid)),
                cgroup: cgroups.get(&pid).map(|g| (*g).to_owned()).or_else(|| target.and_then(|t| t.cgroup.clone())),
                comm: comms.get(&pid).cloned(),
                exe: paths.get(&pid).map(|p| (*p).to_owned()).or_else(|| target.and_then(|t| t.exe.clone())),
                go_version: target.and_then(|t| t.go_version.clone()),
                threads: tids.len().max(1) as u64,
                faults: faults.get(&pid).copied().unwrap_or(0),
                memory_calls: calls.get(&pid).copied().unwrap_or(0),
                how: target.map(|t| t.how.clone()).unwrap_or_default(),
                exit_status: statuses.get(&pid).copied().or_else(|| target.and_then(|t| t.exit_status)),
            }
        })
        .collect()
}

/// True if the probe that fills a table ran: the manifest says so, or there are rows.
pub(crate) fn table_measured(m: &Manifest, table: &str, rows: usize) -> bool {
    let probes: BTreeSet<&str> =
        m.accounts.iter().filter(|a| a.table == table).map(|a| a.probe.as_str()).chain([table]).collect();
    let ran = m.probes.iter().any(|p| probes.contains(p.name.as_str()) && p.status.observed());
    rows > 0 || ran
}

/// Faults in rows, those of runs counted one by one.
fn number<'a>(rows: impl IntoIterator<Item = &'a FaultRow>) -> u64 {
    rows.into_iter().map(|f| u64::from(f.count)).sum()
}

pub(crate) fn trust(capture: &Capture, tables: &Tables, replay: &mut Replay) -> Trust {
    let m = &capture.manifest;
    let mut damage = tables.damage.clone();
    damage.append(&mut replay.problems);
    for a in &m.accounts {
        let read = tables.rows.iter().find(|(table, _)| *table == a.table).map_or(0, |(_, n)| *n);
        // These also hold rows that user space added.
        let added = ["process_events", "fault_counts"].contains(&a.table.as_str());
        if m.state == State::Complete && read > a.written && !added {
            damage.push(format!(
                "table `{}` has {read} rows, the recorder wrote {}: a segment is there twice, or comes from elsewhere",
                a.table, a.written
            ));
        }
    }
    let charged = number(tables.faults.iter().filter(|f| f.touch != TouchKind::Unknown && f.mapping != NONE));
    let timed = number(tables.faults.iter().filter(|f| f.dur >= 0));
    let all = number(&tables.faults);
    let of_doubt = m.accounts.iter().filter_map(|a| a.ignored.get("stacks_doubtful"));
    let doubtful = of_doubt.fold(0_u64, |sum, n| sum.saturating_add(*n));
    let cost = |ns: Option<u64>| ns.unwrap_or(0);
    let not_checked = not_checked(m, tables, replay);
    Trust {
        replay: std::mem::take(&mut replay.certificates),
        losses: losses(m, tables),
        probes: m.probes.iter().map(probe).collect(),
        accounts: accounts(m),
        damage,
        not_checked,
        recorder_cpu_ns: m
            .cost
            .cpu_user_ns
            .or(m.cost.cpu_system_ns)
            .map(|_| cost(m.cost.cpu_user_ns).saturating_add(cost(m.cost.cpu_system_ns))),
        bpf_ns: m.cost.bpf_estimated_ns,
        bpf_sampled_ns: m.cost.bpf_sampled_ns,
        fidelity: super::fidelity::intervals(&tables.fidelity, &tables.fault_counts),
        recorder_rss_bytes: m.cost.rss_peak_bytes,
        frames_named: tables.symbols.named(),
        faults_charged: (charged, all),
        faults_timed: (timed, all),
        faults_of_sure_stack: (all.saturating_sub(doubtful), all),
        clock_settings: clock_settings(m),
        clock_error_ns: m.clocks.iter().map(|c| c.error_ns).max(),
    }
}

fn probe(p: &mtrace_formats::capture::ProbeReport) -> ProbeFact {
    let status = match p.status {
        ProbeStatus::Ran => "ran",
        ProbeStatus::Partial => "partial",
        ProbeStatus::Absent => "absent",
        ProbeStatus::NotApplicable => "not applicable",
    };
    ProbeFact {
        name: p.name.clone(),
        status: status.to_owned(),
        variant: p.variant.clone(),
        reason: p.reason.clone(),
        hides: p.hides.clone(),
    }
}

fn accounts(m: &Manifest) -> Vec<(String, u64, u64, u64)> {
    let lost = |a: &mtrace_formats::capture::Account| a.lost.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
    m.accounts.iter().map(|a| (a.probe.clone(), a.seen, a.written, lost(a))).collect()
}

/// Losses by probe and reason, each with the stretches in which they fell: intervals that follow one another are one. What
/// only the accounts know (the table could not be written, segments could not be read) is added for the whole capture.
fn losses(m: &Manifest, tables: &Tables) -> Vec<(String, String, u64, i64, i64)> {
    const UNREADABLE: &str = "segment_unreadable";
    /// Number, begin, end.
    type Stretches = Vec<(u64, i64, i64)>;
    let mut by: BTreeMap<(&str, &str), Stretches> = BTreeMap::new();
    // In the order of time.
    for l in &tables.losses {
        let end = l.ts + l.dur;
        let stretches = by.entry((&l.probe, l.reason.name())).or_default();
        match stretches.last_mut() {
            Some((n, _, last)) if l.ts <= *last => (*n, *last) = (n.saturating_add(l.count), end.max(*last)),
            _ => stretches.push((l.count, l.ts, end)),
        }
    }
    let (start, end) = span(m, tables);
    for a in &m.accounts {
        for (reason, lost) in a.lost.iter().chain(&a.incomplete) {
            let stretches = by.entry((&a.probe, reason)).or_default();
            let known = stretches.iter().fold(0_u64, |sum, s| sum.saturating_add(s.0));
            if *lost > known {
                stretches.push((lost - known, start, end));
            }
        }
        let read = tables.rows.iter().find(|(table, _)| *table == a.table).map_or(0, |(_, n)| *n);
        if m.state == State::Complete && read < a.written {
            by.insert((&a.probe, UNREADABLE), vec![(a.written - read, start, end)]);
        }
    }
    let of = by.into_iter().flat_map(|(key, stretches)| stretches.into_iter().map(move |s| (key, s)));
    of.filter(|(_, s)| s.0 > 0)
        .map(|((probe, reason), (n, first, last))| (probe.to_owned(), reason.to_owned(), n, first, last))
        .collect()
}

/// When the wall clock was set: from one pair to the next, and by how much.
fn clock_settings(m: &Manifest) -> Vec<(i64, i64, i64)> {
    /// By more, if the clocks were read without an error: as in the recorder.
    const SET_NS: i64 = 1_000_000;
    let distance = |c: &ClockPair| c.realtime_ns.saturating_sub(c.monotonic_ns);
    let step = |w: &[ClockPair]| {
        let by = distance(&w[1]).saturating_sub(distance(&w[0]));
        let error = w[0].error_ns.saturating_add(w[1].error_ns).saturating_add(SET_NS);
        (by.unsigned_abs() > error.unsigned_abs()).then_some((w[0].monotonic_ns, w[1].monotonic_ns, by))
    };
    m.clocks.windows(2).filter_map(step).collect()
}

fn not_checked(m: &Manifest, tables: &Tables, replay: &Replay) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for p in m.probes.iter().filter(|p| matches!(p.status, ProbeStatus::Absent | ProbeStatus::Partial)) {
        let hides = p.hides.as_deref().unwrap_or("what it would have shown");
        let how = if p.status == ProbeStatus::Absent { "did not run" } else { "ran in part" };
        out.push(format!("the probe `{}` {how}: {hides}", p.name));
    }
    out.extend(m.problems.iter().map(|p| format!("the recorder says: {}", p.what)));
    if m.state == State::Recording {
        out.push("the accounting of losses: the recorder did not come to its end".to_owned());
    }
    let has_end = replay.certificates.iter().any(|c| c.snapshot == "end");
    if !has_end && !tables.maps.is_empty() {
        out.push("the replayed address space at the end: there is no snapshot of that time to compare with".to_owned());
    }
    for (pid, _) in replay.processes.iter().filter(|(_, p)| !p.has_base) {
        out.push(format!(
            "mappings of process {pid} that are older than its first event: there is no snapshot of them"
        ));
    }
    out.push("pages that appear without a fault (MAP_POPULATE, MADV_POPULATE, get_user_pages)".to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mtrace_formats::capture::Account;
    use mtrace_formats::tables::{Loss, LossReason};

    #[test]
    fn losses_are_shown_where_they_fell() {
        let loss = |ts, count| Loss { ts, dur: 10, probe: "faults".to_owned(), reason: LossReason::RingFull, count };
        let tables = Tables { losses: vec![loss(0, 1), loss(10, 2), loss(100, 4)], ..Tables::default() };
        let mut m = Manifest::default();
        (m.window.start_ns, m.window.end_ns) = (Some(0), Some(200));
        let row = |n, from, to| ("faults".to_owned(), "ring_full".to_owned(), n, from, to);
        assert_eq!(losses(&m, &tables), [row(3, 0, 20), row(4, 100, 110)]);
        // What only the account knows may have fallen anywhere.
        let lost = BTreeMap::from([("ring_full".to_owned(), 12)]);
        m.accounts = vec![Account { probe: "faults".to_owned(), lost, ..Account::default() }];
        assert_eq!(losses(&m, &tables), [row(3, 0, 20), row(4, 100, 110), row(5, 0, 200)]);
    }

    #[test]
    fn a_wall_clock_that_is_set_is_told_from_one_that_is_read_late() {
        let pair = |monotonic_ns, distance, error_ns| ClockPair {
            monotonic_ns,
            realtime_ns: monotonic_ns + distance,
            error_ns,
        };
        let m = Manifest {
            clocks: vec![pair(1, 0, 100), pair(2, 1_500_000, 900_000), pair(3, -20_000_000_000, 100)],
            ..Manifest::default()
        };
        assert_eq!(clock_settings(&m), [(2, 3, -20_001_500_000)]);
    }
}
