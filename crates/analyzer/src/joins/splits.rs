//! Which windows are looked at, where their time went, and the table of requests.

use std::collections::BTreeMap;

use mtrace_formats::capture::{FaultCost, Manifest};
use mtrace_formats::tables::IoCall;

use super::activity::{self, Threads};
use super::by_process::{OfProcess, Processes};
use super::ledger::{self, Split};
use super::wait::Waits;
use super::{fault_cost, gc};
use crate::context::JoinOptions;
use crate::load::Tables;
use crate::model::{LedgerCategory, RequestTable, SlowRequest};
use crate::requests::{
    COLD_START, FIRST_REQUEST, Limits, Placed, Request, Requests, SLOWEST_REQUEST, Traces, UNANSWERED_REQUEST,
    of_request, place, unseen, whole,
};

/// Processes that get ledgers of their own.
const MAX_PROCESSES: usize = 8;
/// Requests of a process whose time is split.
const SLOWEST: usize = 5;
/// Rows of the ledger of each.
const LARGEST: usize = 3;

/// The requests of a process, and what is missing of them.
struct Asked {
    requests: Requests,
    unseen: Vec<String>,
    endings_are_known: bool,
}

/// The windows of a capture.
pub(super) struct Windows {
    /// Most important first; those of a process side by side.
    pub(super) placed: Vec<Placed>,
    asked: BTreeMap<u32, Asked>,
    span: (i64, i64),
    realtime_offset_ns: Option<i64>,
}

impl Windows {
    pub(super) fn find(
        processes: &Processes<'_>,
        tables: &Tables,
        options: &JoinOptions,
        manifest: &Manifest,
        span: (i64, i64),
    ) -> Self {
        let limits = Limits::new(manifest, tables, span);
        let asked = processes.iter().map(|(pid, p)| (*pid, ask(p, &limits, span))).collect();
        let realtime_offset_ns = manifest.clocks.first().map(|c| c.realtime_ns.saturating_sub(c.monotonic_ns));
        let mut windows = Self { placed: Vec::new(), asked, span, realtime_offset_ns };
        windows.placed = windows.choose(processes, options, manifest);
        for w in windows.placed.iter_mut().filter(|w| w.window.request.is_some() || w.window.name == COLD_START) {
            let window = &mut w.window;
            window.assumptions.extend(windows.asked.get(&w.pid).map(|a| a.unseen.clone()).unwrap_or_default());
            if limits.lost_within(window.start_ns, window.end_ns) {
                window.assumptions.push(
                    "network or file calls were lost in this time: its begin and end may be those of two requests"
                        .to_owned(),
                );
            }
        }
        windows
    }

    fn traces<'a>(&'a self, pid: u32, p: &'a OfProcess<'_>) -> Option<Traces<'a>> {
        let asked = self.asked.get(&pid)?;
        Some(Traces {
            pid,
            requests: &asked.requests,
            events: &p.events,
            off_cpu: &p.off_cpu,
            span: self.span,
            realtime_offset_ns: self.realtime_offset_ns,
            endings_are_known: asked.endings_are_known,
        })
    }

    /// The process that was wanted goes first, then the one that somebody waited for longest.
    fn choose(&self, processes: &Processes<'_>, options: &JoinOptions, manifest: &Manifest) -> Vec<Placed> {
        let traces = processes.iter().filter_map(|(pid, p)| self.traces(*pid, p));
        let mut asked: Vec<Vec<Placed>> = traces.map(|t| place(&t)).filter(|placed| !placed.is_empty()).collect();
        asked.sort_by_key(|placed| {
            let main = &placed[0].window;
            (Some(placed[0].pid) != options.pid, std::cmp::Reverse(main.end_ns - main.start_ns), main.start_ns)
        });
        asked.truncate(MAX_PROCESSES);
        let wanted_is_there = options.pid.is_none_or(|pid| asked.iter().any(|p| p[0].pid == pid));
        let mut out = Vec::new();
        if asked.is_empty() || !wanted_is_there {
            let is_target = |pid: u32| manifest.targets.iter().any(|t| t.pid == pid);
            let chosen = options.pid.filter(|pid| processes.contains_key(pid)).or_else(|| {
                processes.iter().max_by_key(|(pid, p)| (p.weight(), is_target(**pid), **pid)).map(|(pid, _)| *pid)
            });
            if let Some((pid, p)) = chosen.and_then(|pid| processes.get_key_value(&pid))
                && let Some(t) = self.traces(*pid, p)
            {
                out.push(whole(&t, p.last.map_or(*pid, |l| l.1)));
            }
        }
        out.extend(asked.into_iter().flatten());
        out
    }

    /// Splits all windows and the slowest requests of their processes.
    pub(super) fn split(&self, processes: &Processes<'_>, s: &Sources<'_>) -> (Vec<Split>, Vec<RequestTable>) {
        let mut splits: Vec<Split> = Vec::new();
        let mut tables = Vec::new();
        for of_pid in self.placed.chunk_by(|a, b| a.pid == b.pid) {
            let pid = of_pid[0].pid;
            let Some(p) = processes.get(&pid) else { continue };
            let (Some(asked), Some(traces)) = (self.asked.get(&pid), self.traces(pid, p)) else { continue };
            let threads = activity::threads(&p.rows(s.tables));
            let split = |placed: &[&Placed]| s.split(placed, p, pid, &threads);
            splits.extend(split(&of_pid.iter().collect::<Vec<_>>()));
            let slowest = asked.requests.slowest(SLOWEST, asked.endings_are_known);
            let placed: Vec<Placed> = slowest.iter().map(|r| of_request(&traces, r, SLOWEST_REQUEST)).collect();
            let slow = split(&placed.iter().collect::<Vec<_>>());
            let slowest = slowest.iter().zip(slow).map(|(r, split)| self.slow_request(r, split)).collect();
            tables.push(table(pid, asked, slowest));
        }
        order(&mut splits);
        (splits, tables)
    }

    fn slow_request(&self, r: &Request, split: Split) -> SlowRequest {
        SlowRequest {
            number: r.number,
            start_ns: r.start_ns,
            start_realtime_ns: self.realtime_offset_ns.map(|o| r.start_ns.saturating_add(o)),
            end_ns: r.end_ns,
            answered: r.is_answered(),
            tid: r.tid,
            largest: split.ledger.rows.into_iter().take(LARGEST).collect(),
        }
    }
}

fn ask(p: &OfProcess<'_>, limits: &Limits, span: (i64, i64)) -> Asked {
    let requests = Requests::find(&p.io_rows, &p.sockets, span.1);
    Asked {
        unseen: unseen(&requests, limits, p.io.len(), p.last_io_ns(), &p.events),
        endings_are_known: limits.is_everything_there(p.io.len()),
        requests,
    }
}

fn table(pid: u32, asked: &Asked, slowest: Vec<SlowRequest>) -> RequestTable {
    let r = &asked.requests;
    RequestTable {
        pid,
        answered: r.answered(),
        unanswered: r.all.len() as u64 - r.answered(),
        connections: r.connections,
        p50_ns: r.quantile_ns(0.5),
        p90_ns: r.quantile_ns(0.9),
        p99_ns: r.quantile_ns(0.99),
        max_ns: r.quantile_ns(1.0),
        slowest,
        serves: r.serves,
        unseen: asked.unseen.clone(),
    }
}

/// What windows are split by.
pub(super) struct Sources<'a> {
    pub(super) tables: &'a Tables,
    pub(super) gc: &'a BTreeMap<u32, gc::Timing>,
    pub(super) releasers: &'a [u32],
    /// True if the times off the CPU were recorded.
    pub(super) off_cpu: bool,
    /// What recording a fault costs here.
    pub(super) fault_cost: Option<FaultCost>,
}

impl Sources<'_> {
    fn split(&self, placed: &[&Placed], p: &OfProcess<'_>, pid: u32, threads: &Threads) -> Vec<Split> {
        let io = p.io.iter().copied().zip(p.io_rows.iter().copied());
        let network: Vec<(u32, &IoCall)> = io.filter(|(_, c)| activity::is_network(c)).collect();
        let waits = Waits::new(&network, &p.sockets);
        let stw = self.gc.get(&pid).map(gc::Timing::of_collector).unwrap_or_default();
        let sources = ledger::Sources {
            faults: &self.tables.faults,
            calls: &self.tables.calls,
            io: &self.tables.io,
            throttles: &self.tables.throttles,
            waits: &waits,
            stw: &stw,
            symbols: &self.tables.symbols,
            releasers: self.releasers,
            off_cpu: self.off_cpu,
        };
        let mut splits: Vec<Split> = placed.iter().map(|w| ledger::split(w, threads, &sources)).collect();
        if let (Some(cost), true) = (self.fault_cost, self.off_cpu) {
            splits.iter_mut().for_each(|s| fault_cost::charge(s, cost));
        }
        splits
    }
}

/// Of the first process: its most important request comes first, unless the start before was far slower.
fn order(splits: &mut [Split]) {
    /// A start this many times as long as the request is what somebody waits for.
    const SLOW_START: i64 = 10;
    let Some(main) = splits.first() else { return };
    let of_main =
        |name: &str| splits.iter().position(|s| s.ledger.pid == main.ledger.pid && s.ledger.window.name == name);
    let (Some(first), Some(start)) = (of_main(FIRST_REQUEST), of_main(COLD_START)) else { return };
    if main.ledger.window.name == UNANSWERED_REQUEST {
        return;
    }
    let idle = splits[start].ledger.wall_ns(LedgerCategory::WaitingForClient);
    let starting = splits[start].ledger.total_ns() - splits[first].ledger.total_ns() - idle;
    if starting > main.ledger.total_ns().saturating_mul(SLOW_START) {
        splits[..=start].rotate_right(1);
    }
}
