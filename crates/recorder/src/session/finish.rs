//! The end of a recording: detach, take the rest, resolve names, close the books.

use std::time::{Duration, Instant};

use mtrace_formats::capture::{Account, ProbeReport, State};
use mtrace_formats::tables::SymbolRow;

use super::{Session, names};
use crate::Summary;
use crate::accounts;
use crate::cost::BpfMeasured;
use crate::error::Error;
use crate::host::monotonic_ns;
use crate::target::launch::Exit;

/// Programs that run on another CPU while they are detached need a moment to end.
const SETTLE: Duration = Duration::from_millis(10);

impl Session<'_> {
    /// Closes the capture. What fails here leaves the closed segments readable.
    pub(super) fn finish(mut self, reason: &'static str) -> Result<Summary, Error> {
        let now = monotonic_ns();
        self.bpf_time.close(now);
        let costs = self.bpf_time.measured(&self.probes, now);
        self.probes.iter_mut().for_each(super::load::Loaded::detach);
        // Programs that were running are through now, and what they have not sent is at hand.
        std::thread::sleep(SETTLE);
        self.flush_probes(true);
        self.manifest.window.end_ns = Some(monotonic_ns());
        self.manifest.window.end_reason = Some(reason.to_owned());
        self.drain();
        self.end_fidelity();
        self.cost.recording_ended();
        let exit = self.note_exit();
        if self.flight.is_some() && self.land() {
            return self.end_of_flight(exit);
        }
        self.note_losses(monotonic_ns());
        if self.processes.missed_snapshots > 0 {
            let n = self.processes.missed_snapshots;
            self.problem(format!(
                "{n} times a process ended or exec'd again before its maps could be read: its stacks may lack names"
            ));
        }
        self.note_limits();
        self.resolve_names();
        self.note_clock();
        self.manifest.targets = self.processes.listed().to_vec();
        self.close(costs, exit)
    }

    /// What there was no room for.
    fn note_limits(&mut self) {
        let left_out = self.processes.images.left_out;
        if left_out > 0 {
            self.problem(format!("{left_out} executable mappings are not remembered: stacks in them may lack names"));
        }
        self.fill_reports();
        let not_followed = self.manifest.accounts.iter().filter_map(|a| a.ignored.get("child_not_followed"));
        let n: u64 = not_followed.sum();
        if n > 0 {
            let room = self.rule.room();
            self.problem(format!("{n} processes are not recorded: there is room for {room} at a time"));
        }
    }

    fn note_exit(&mut self) -> Option<Exit> {
        let launched = self.launched.as_mut()?;
        let pid = launched.pid();
        let exit = launched.try_wait().ok().flatten()?;
        if let Some(t) = self.processes.entry(pid) {
            t.exit_status = Some(exit.status);
            t.rusage_minor_faults = Some(exit.minor_faults);
            t.rusage_major_faults = Some(exit.major_faults);
        }
        Some(exit)
    }

    /// All that is worth keeping is in the dumps.
    fn end_of_flight(self, exit: Option<Exit>) -> Result<Summary, Error> {
        let summary = Summary { is_flight: true, ..self.summary(exit) };
        let ring = self.sink.borrow().writer.dir().to_path_buf();
        self.sink.borrow_mut().writer.discard_open();
        std::fs::remove_dir_all(&ring).map_err(|e| mtrace_formats::Error::io("remove", &ring, e))?;
        Ok(summary)
    }

    fn resolve_names(&mut self) {
        let mut sink = self.sink.borrow_mut();
        // On a full disk there is no room for names either.
        if sink.failure().is_some() {
            return;
        }
        let stacks = std::mem::take(&mut sink.stacks);
        let deadline = self.deadline;
        let no_time = || deadline.is_some_and(|d| Instant::now() >= d);
        let missing = names::resolve(stacks.set(), &self.processes.images, &no_time, |row: SymbolRow| sink.push(row));
        sink.stacks = stacks;
        drop(sink);
        self.manifest.problems.extend(missing);
    }

    /// The manifest comes after the last segments, because only then the accounts are final.
    fn close(mut self, costs: BpfMeasured, exit: Option<Exit>) -> Result<Summary, Error> {
        let full = self.sink.borrow().failure().is_some();
        self.fill_reports();
        if self.reserve.fit(&self.manifest).is_err() {
            // The manifest is worth more than the newest rows: without it nothing tells what the others are.
            self.sink.borrow_mut().writer.discard_open();
            self.problem("the last rows were given up: the disk has no room for them and the manifest".to_owned());
        }
        let closed = self.sink.borrow_mut().writer.close_segments(&mut self.manifest);
        if let Err(e) = &closed
            && !full
        {
            self.problem(format!("the last segments could not be closed: {e}"));
        }
        self.fill_reports();
        self.manifest.cost = self.cost.report(Some(u64::from(self.shared.ring_bytes)), costs);
        self.manifest.state = State::Complete;
        let summary = self.summary(exit);
        self.reserve.spend(&self.sink.borrow().writer, &self.manifest)?;
        Ok(summary)
    }

    /// Brings the probes' reports and accounts in the manifest up to date.
    pub(super) fn fill_reports(&mut self) {
        let sink = self.sink.borrow();
        let account = |p: &super::load::Loaded| -> Account {
            let probe = p.probe;
            accounts::account(probe.name(), probe.tables()[0], probe.ignored(), &p.counters(), sink.counts(probe))
        };
        self.manifest.accounts = self.probes.iter().map(account).collect();
        let reports: Vec<ProbeReport> = self.probes.iter().map(|p| p.report(&self.runtimes)).collect();
        let known = |r: &ProbeReport| reports.iter().any(|n| n.name == r.name);
        self.manifest.probes.retain(|r| !known(r));
        self.manifest.probes.extend(reports);
        self.manifest.probes.sort_by_key(|r| crate::probes::ALL.iter().position(|p| p.name() == r.name));
    }

    fn summary(&self, exit: Option<Exit>) -> Summary {
        let m = &self.manifest;
        Summary {
            output: self.sink.borrow().writer.dir().to_path_buf(),
            is_flight: false,
            dumps: self.flight.as_ref().map(|f| f.dumps.clone()).unwrap_or_default(),
            end_reason: m.window.end_reason.clone().unwrap_or_default(),
            recorded: self.began.elapsed(),
            exit_status: exit.map(|e| e.status),
            probes: m.probes.clone(),
            accounts: m.accounts.clone(),
            problems: m.problems.clone(),
            bytes: self.sink.borrow().writer.bytes_closed(),
            cost: m.cost.clone(),
        }
    }
}
