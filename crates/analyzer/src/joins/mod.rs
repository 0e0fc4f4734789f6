//! Capture → [`Joined`]: load, replay, and everything that takes more than one table.

mod activity;
mod address_space;
mod by_process;
mod churn;
mod collapses;
mod critical_path;
mod facts;
mod failed_calls;
mod fault_cost;
mod faults;
mod fidelity;
mod flame;
mod forks;
mod gc;
mod jvm;
mod ledger;
mod lock_waits;
mod oom_kills;
mod overlays;
mod reach;
mod reclaims;
mod resident;
mod runtimes;
mod sleeps;
mod splits;
mod stalls;
mod throttles;
mod timeline;
mod wait;

use std::collections::BTreeMap;

use mtrace_formats::capture::{Capture, Manifest};

use crate::aggregate;
use crate::context::{JoinOptions, Joined};
use crate::load;
use crate::model::{Facts, Ledger};
use crate::replay;
use crate::requests::Placed;
use by_process::{Processes, by_process};
use ledger::Split;
pub(crate) use ledger::is_asleep;
use splits::{Sources, Windows};

const PAGE_SIZE: u64 = 4096;

/// Joins a capture. Damage costs what it hit and is named in `trust.damage`; there is no error.
pub fn analyze_tables(capture: &Capture, options: &JoinOptions) -> Joined {
    let mut tables = load::load(capture);
    let manifest = &capture.manifest;
    let span = facts::span(manifest, &tables);
    let page_size = manifest.host.page_size_bytes.filter(|p| p.is_power_of_two() && *p >= 4096).unwrap_or(PAGE_SIZE);
    let mut replay = replay::replay(&mut tables, replay::Space::of(page_size, &manifest.host.arch), span);
    load::apply_weights(&mut tables.faults, &mut tables.shapes);
    let by_pid = by_process(&tables);
    let gc = gc_timings(&by_pid, span.1);
    let off_cpu = facts::table_measured(manifest, "off_cpu", tables.off_cpu.len());
    let found = Windows::find(&by_pid, &tables, options, manifest, span);
    let placed = &found.placed;
    let releasers = churn::releasers(&replay, &tables.calls, &tables.symbols);
    let windows: Vec<aggregate::Window> = placed.iter().map(window_of).collect();
    let page_shift = page_size.ilog2();
    let sources = Sources { tables: &tables, gc: &gc, releasers: &releasers, off_cpu, fault_cost: manifest.cost.fault };
    let ((splits, requests), groups) = rayon::join(
        || found.split(&by_pid, &sources),
        || aggregate::faults(&tables.faults, &tables.shapes, &tables.symbols, &windows, page_shift),
    );
    let main_pid = placed.first().map(|p| p.pid);
    let mut pids: Vec<u32> = replay.processes.keys().copied().collect();
    pids.sort_by_key(|pid| (Some(*pid) != main_pid, *pid));

    let mut errors = Vec::new();
    let groups = or_default(groups, "fault tables", &mut errors);
    let numbered: Vec<(&Ledger, usize)> = splits.iter().map(|s| (&s.ledger, number_of(placed, &s.ledger))).collect();
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
        facts: Facts {
            capture: facts::capture(capture, &tables, span),
            ledgers,
            requests,
            timeline,
            faults,
            churn,
            runtimes: runtimes::runtimes(&tables, &splits, manifest),
            reclaims: reclaims::groups(&tables.reclaims, &splits, symbols),
            throttles: throttles::groups(&tables.throttles, &splits, symbols),
            lock_waits: lock_waits::groups(&tables.lock_waits, &tables.calls, &splits, symbols),
            forks: forks::groups(&tables, span.1),
            oom_victims: oom_kills::victims(&tables.oom_kills, &replay.processes.keys().copied().collect(), symbols),
            failed_calls: failed_calls::groups(&tables, &replay, page_size),
            gc: gc_table,
            address_spaces: address_space::address_spaces(
                &pids,
                &tables.calls,
                &replay,
                symbols,
                manifest.host.max_map_count,
            ),
            resident: resident::memory(&pids, &tables.smaps, &replay.smaps_owners, &tables.process_events, symbols),
            collapses: collapses::tables(&tables.collapses, page_size),
            flame_graphs: flame::graphs(&groups.cells, &tables.calls, &replay, symbols, &comms),
            trust: facts::trust(capture, &tables, &mut replay),
        },
        shares: shares(splits),
        vma_counts: pids.iter().filter_map(|pid| Some((*pid, replay.processes.get(pid)?.counts))).collect(),
        host: manifest.host.clone(),
        targets: manifest.targets.clone(),
        samples: std::mem::take(&mut tables.samples),
    }
}

fn gc_timings(by_pid: &Processes<'_>, end: i64) -> BTreeMap<u32, gc::Timing> {
    let timing = |(pid, p): (&u32, &by_process::OfProcess<'_>)| match (p.gc.is_empty(), p.jvm.is_empty()) {
        (false, _) => Some((*pid, gc::timing(*pid, &p.gc, end))),
        (true, false) => Some((*pid, jvm::timing(*pid, &p.jvm))),
        (true, true) => None,
    };
    by_pid.iter().filter_map(timing).collect()
}

/// A Go target or a JVM was there and its probes ran: then no cycle is a measurement.
fn gc_measured(m: &Manifest) -> bool {
    let go = m.targets.iter().any(|t| t.go_version.is_some());
    let observed = |name: &str| m.probes.iter().any(|p| p.name == name && p.status.observed());
    (go && observed("gc_events")) || observed("jvm_events")
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
