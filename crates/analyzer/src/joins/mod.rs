//! Capture → [`Joined`]: load, replay, and everything that takes more than one table.

mod activity;
mod address_space;
mod churn;
mod connection;
mod critical_path;
mod facts;
mod failed_calls;
mod fault_cost;
mod faults;
mod flame;
mod gc;
mod ledger;
mod timeline;
mod wait;
mod windows;

use std::collections::BTreeMap;

use mtrace_formats::capture::{Capture, Manifest, ProbeStatus};
use mtrace_formats::tables::{GcEvent, IoCall, OffCpu, ProcessEvent};

pub use windows::{COLD_START, FIRST_REQUEST, WHOLE_CAPTURE};

use crate::aggregate;
use crate::context::{JoinOptions, Joined};
use crate::load::{self, Tables};
use crate::model::{Ledger, LedgerCategory};
use crate::replay;
use activity::Rows;
use ledger::Split;
use windows::{Placed, Traces};

const PAGE_SIZE: u64 = 4096;
/// Processes that get ledgers of their own.
const MAX_LEDGER_PROCESSES: usize = 8;

/// Joins a capture. Damage costs what it hit and is named in `trust.damage`; there is no error.
pub fn analyze_tables(capture: &Capture, options: &JoinOptions) -> Joined {
    let mut tables = load::load(capture);
    let manifest = &capture.manifest;
    let span = facts::span(manifest, &tables);
    let page_size = manifest.host.page_size_bytes.filter(|p| p.is_power_of_two() && *p >= 4096).unwrap_or(PAGE_SIZE);
    let mut replay = replay::replay(&mut tables, page_size, span);
    let by_pid = by_process(&tables);
    let gc = gc_timings(&by_pid, span.1);
    let off_cpu = facts::table_measured(manifest, "off_cpu", tables.off_cpu.len());
    let placed = place_windows(&by_pid, options, manifest, span);
    let releasers = churn::releasers(&replay, &tables.calls, &tables.symbols);
    let windows: Vec<aggregate::Window> = placed.iter().map(window_of).collect();
    let page_shift = page_size.ilog2();
    let (mut splits, groups) = rayon::join(
        || split_windows(&placed, &tables, &by_pid, &gc, &releasers, off_cpu),
        || aggregate::faults(&tables.faults, &tables.shapes, &tables.symbols, &windows, page_shift),
    );
    if let (Some(cost), true) = (manifest.cost.fault, off_cpu) {
        splits.iter_mut().for_each(|s| fault_cost::charge(s, cost));
    }
    let main_pid = placed.first().map(|p| p.pid);
    let mut pids: Vec<u32> = replay.processes.keys().copied().collect();
    pids.sort_by_key(|pid| (Some(*pid) != main_pid, *pid));

    let mut errors = Vec::new();
    let groups = or_default(groups, "fault tables", &mut errors);
    let numbered: Vec<(&Ledger, usize)> = splits.iter().map(|s| (&s.ledger, number_of(&placed, &s.ledger))).collect();
    let faults = faults::tables(&groups, &tables.faults, &tables.shapes, &numbered, &replay.names, &tables.symbols);
    let churn = churn::churn(&tables.faults, &tables.calls, &replay, &tables.symbols, &splits, page_shift);
    let churn = or_default(churn, "table of refaults", &mut errors);
    let gc_table = gc::table(
        &gc,
        &gc::Sources {
            faults: &tables.faults,
            calls: &tables.calls,
            effects: &replay.effects,
            symbols: &tables.symbols,
            span,
            measured: gc_measured(manifest) || !gc.is_empty(),
        },
    );
    let gc_table = or_default(gc_table, "GC table", &mut errors);
    tables.damage.append(&mut errors);
    let ledgers: Vec<Ledger> = splits.iter().map(|s| s.ledger.clone()).collect();
    let timeline = timeline::timeline(&timeline::Sources {
        span,
        main_pid,
        faults: &tables.faults,
        calls: &tables.calls,
        samples: &tables.samples,
        losses: &tables.losses,
        replay: &replay,
        gc: &gc,
        ledgers: &ledgers,
    });
    let comms = facts::comms(manifest, &tables.process_events);
    let symbols = &tables.symbols;
    Joined {
        capture: facts::capture(capture, &tables, span),
        shares: shares(splits),
        ledgers,
        timeline,
        faults,
        churn,
        failed_calls: failed_calls::groups(&tables, &replay, page_size),
        gc: gc_table,
        address_spaces: address_space::address_spaces(
            &pids,
            &tables.calls,
            &replay,
            symbols,
            manifest.host.max_map_count,
        ),
        vma_counts: pids.iter().filter_map(|pid| Some((*pid, replay.processes.get(pid)?.counts))).collect(),
        flame_graphs: flame::graphs(&groups.cells, &tables.calls, &replay, symbols, &comms),
        trust: facts::trust(capture, &tables, &mut replay),
        host: manifest.host.clone(),
        targets: manifest.targets.clone(),
        samples: std::mem::take(&mut tables.samples),
    }
}

/// Rows of one process, besides faults and calls, which are looked up by number.
#[derive(Default)]
struct OfProcess<'a> {
    faults: Vec<u32>,
    calls: Vec<u32>,
    io: Vec<u32>,
    io_rows: Vec<&'a IoCall>,
    off_cpu: Vec<&'a OffCpu>,
    events: Vec<&'a ProcessEvent>,
    gc: Vec<&'a GcEvent>,
    last: Option<(i64, u32)>,
}

impl OfProcess<'_> {
    fn see(&mut self, end: i64, tid: u32) {
        if self.last.is_none_or(|l| end >= l.0) {
            self.last = Some((end, tid));
        }
    }

    /// Weight by which the process of interest is chosen if none answered.
    fn events(&self) -> usize {
        self.faults.len() + self.calls.len() + self.io.len()
    }
}

fn by_process(t: &Tables) -> BTreeMap<u32, OfProcess<'_>> {
    let mut out: BTreeMap<u32, OfProcess<'_>> = BTreeMap::new();
    for (i, f) in t.faults.iter().enumerate() {
        let p = out.entry(f.pid).or_default();
        p.faults.push(i as u32);
        p.see(f.ts + f.wall_ns(), f.tid);
    }
    for (i, c) in t.calls.iter().enumerate() {
        let p = out.entry(c.pid).or_default();
        p.calls.push(i as u32);
        p.see(c.ts + c.dur, c.tid);
    }
    for (i, c) in t.io.iter().enumerate() {
        let p = out.entry(c.pid).or_default();
        p.io.push(i as u32);
        p.io_rows.push(c);
        p.see(c.ts + c.dur, c.tid);
    }
    for o in &t.off_cpu {
        out.entry(o.pid).or_default().off_cpu.push(o);
    }
    for e in &t.process_events {
        let p = out.entry(e.pid).or_default();
        p.events.push(e);
        p.see(e.ts, e.tid);
    }
    for g in &t.gc {
        out.entry(g.pid).or_default().gc.push(g);
    }
    out
}

fn gc_timings(by_pid: &BTreeMap<u32, OfProcess<'_>>, end: i64) -> BTreeMap<u32, gc::Timing> {
    let with_gc = by_pid.iter().filter(|(_, p)| !p.gc.is_empty());
    with_gc.map(|(pid, p)| (*pid, gc::timing(*pid, &p.gc, end))).collect()
}

/// A Go target was there and its probes ran: then no cycle is a measurement.
fn gc_measured(m: &Manifest) -> bool {
    let go = m.targets.iter().any(|t| t.go_version.is_some());
    go && m.probes.iter().any(|p| p.name.contains("gc") && p.status != ProbeStatus::Absent)
}

/// The windows, most important first.
fn place_windows(
    by_pid: &BTreeMap<u32, OfProcess<'_>>,
    options: &JoinOptions,
    manifest: &Manifest,
    span: (i64, i64),
) -> Vec<Placed> {
    let traces = |pid: u32, p: &'_ OfProcess<'_>| -> Vec<Placed> {
        windows::place(&Traces { pid, io: &p.io_rows, events: &p.events, off_cpu: &p.off_cpu, span })
    };
    let mut answered: Vec<Vec<Placed>> =
        by_pid.iter().map(|(pid, p)| traces(*pid, p)).filter(|placed| !placed.is_empty()).collect();
    answered.sort_by_key(|placed| (Some(placed[0].pid) != options.pid, placed[0].window.start_ns));
    answered.truncate(MAX_LEDGER_PROCESSES);
    let wanted_is_there = options.pid.is_none_or(|pid| answered.iter().any(|p| p[0].pid == pid));
    let mut out = Vec::new();
    if answered.is_empty() || !wanted_is_there {
        let is_target = |pid: u32| manifest.targets.iter().any(|t| t.pid == pid);
        let chosen = options.pid.filter(|pid| by_pid.contains_key(pid)).or_else(|| {
            by_pid.iter().max_by_key(|(pid, p)| (p.events(), is_target(**pid), **pid)).map(|(pid, _)| *pid)
        });
        if let Some((pid, p)) = chosen.and_then(|pid| by_pid.get_key_value(&pid)) {
            let t = Traces { pid: *pid, io: &p.io_rows, events: &p.events, off_cpu: &p.off_cpu, span };
            out.push(windows::whole(&t, p.last.map_or(*pid, |l| l.1)));
        }
    }
    out.extend(answered.into_iter().flatten());
    out
}

fn split_windows(
    placed: &[Placed],
    tables: &Tables,
    by_pid: &BTreeMap<u32, OfProcess<'_>>,
    gc: &BTreeMap<u32, gc::Timing>,
    releasers: &[u32],
    off_cpu: bool,
) -> Vec<Split> {
    let mut splits: Vec<Split> = Vec::new();
    for of_pid in placed.chunk_by(|a, b| a.pid == b.pid) {
        let Some(p) = by_pid.get(&of_pid[0].pid) else { continue };
        let threads = activity::threads(&Rows {
            faults: p.faults.iter().map(|i| (*i, &tables.faults[*i as usize])).collect(),
            calls: p.calls.iter().map(|i| (*i, &tables.calls[*i as usize])).collect(),
            io: p.io.iter().map(|i| (*i, &tables.io[*i as usize])).collect(),
            off_cpu: p.off_cpu.clone(),
            events: p.events.clone(),
        });
        let io = p.io.iter().copied().zip(p.io_rows.iter().copied());
        let network: Vec<(u32, &IoCall)> = io.filter(|(_, c)| activity::is_network(c)).collect();
        let stw = gc.get(&of_pid[0].pid).map(|t| gc::intervals(&t.stops)).unwrap_or_default();
        let sources = ledger::Sources {
            faults: &tables.faults,
            calls: &tables.calls,
            io: &tables.io,
            network: &network,
            stw: &stw,
            symbols: &tables.symbols,
            releasers,
            off_cpu,
        };
        splits.extend(of_pid.iter().map(|w| ledger::split(w, &threads, &sources)));
    }
    order(&mut splits);
    splits
}

/// Of the first process: the first request comes first, unless the start before it was far slower.
fn order(splits: &mut [Split]) {
    /// A start this many times as long as the first request is what somebody waits for.
    const SLOW_START: i64 = 10;
    if let [request, start, ..] = splits
        && (request.ledger.window.name.as_str(), start.ledger.window.name.as_str()) == (FIRST_REQUEST, COLD_START)
        && request.ledger.pid == start.ledger.pid
    {
        let request_ns = request.ledger.total_ns();
        let idle = start.ledger.wall_ns(LedgerCategory::WaitingForClient);
        let starting = start.ledger.total_ns() - request_ns - idle;
        if starting > request_ns.saturating_mul(SLOW_START) {
            splits.swap(0, 1);
        }
    }
}

fn shares(splits: Vec<Split>) -> Vec<crate::context::LedgerShare> {
    splits
        .into_iter()
        .flat_map(|mut s| {
            s.shares.sort_by_key(|s| std::cmp::Reverse(s.wall_ns));
            s.shares
        })
        .collect()
}

fn window_of(p: &Placed) -> aggregate::Window {
    aggregate::Window { pid: p.pid, start: p.window.start_ns, end: p.window.end_ns }
}

/// Where the window of a ledger was in the list that the group-bys got.
fn number_of(placed: &[Placed], ledger: &Ledger) -> usize {
    let same = |p: &Placed| p.pid == ledger.pid && p.window.name == ledger.window.name;
    placed.iter().position(same).unwrap_or(usize::MAX)
}

/// An error of the table library costs the table and is said.
fn or_default<T: Default>(result: aggregate::Result<T>, what: &str, errors: &mut Vec<String>) -> T {
    result.unwrap_or_else(|e| {
        errors.push(format!("the {what} could not be made: {e}"));
        T::default()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hostile_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
