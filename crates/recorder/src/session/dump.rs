//! A dump of the flight recorder: the segments of the window under a name of their own, and what they need besides.
//!
//! Taking the segments over and the first manifest are quick and done between two periods. Names for the stacks take
//! their time: a thread of its own resolves them while recording goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use mtrace_formats::Error;
use mtrace_formats::capture::{Account, CaptureWriter, Manifest, RingAccount, State, TriggerFired, Window};
use mtrace_formats::tables::{FileRow, SymbolRow};

use super::flight::{Pending, frames};
use super::images::Images;
use super::stacks::StackSet;
use super::window::{Reading, Selection};
use super::{Session, names, nanoseconds};
use crate::accounts::{self, COUNTERS, Counters, UserCounts};
use crate::flight::Dumped;

/// Dumps of one trigger within a second.
const MAX_AGAIN: u32 = 100;

/// What is done beside the recording.
struct Job {
    writer: CaptureWriter,
    manifest: Manifest,
    stacks: StackSet,
    images: Images,
    files: Vec<FileRow>,
    hurry: Arc<AtomicBool>,
    fired: TriggerFired,
}

impl Session<'_> {
    /// Makes a capture of the periods that are closed. A failure is a problem of the recording, not its end.
    pub(super) fn start_dump(&mut self, pending: Pending) {
        let fired = pending.fired.clone();
        match self.prepare(pending) {
            Ok(job) => {
                if let Some(flight) = &mut self.flight {
                    flight.job = Some(std::thread::spawn(move || job.run()));
                }
            }
            Err(e) => {
                self.problem(format!("trigger `{}` fired, and its dump could not be written: {e}", fired.trigger))
            }
        }
    }

    fn prepare(&mut self, pending: Pending) -> Result<Job, crate::Error> {
        let window_ns = self.options.flight.as_ref().map_or(0, |o| nanoseconds(o.window));
        let fired = pending.fired.clone();
        let state = self.flight_of(pending);
        let (Some(flight), Some(mut state)) = (&self.flight, state) else {
            return Err(Error::io("make a dump of", &self.options.output, std::io::Error::other("no ring")).into());
        };
        let selected = flight.periods.select(fired.ts.saturating_sub(window_ns));
        let (end, cpu, hurry) = (flight.edge.0, flight.cpu_since(selected.first_period), flight.hurry.clone());
        let mut manifest = self.manifest.clone();
        manifest.window = Window {
            start_ns: Some(selected.start),
            end_ns: Some(end),
            end_reason: Some(format!("trigger {}", fired.trigger)),
            ..self.manifest.window.clone()
        };
        manifest.accounts = self.accounts_of(&selected.at_start, |table, _| events(&selected, table));
        state.accounts = self.ring_accounts(&selected, &manifest.accounts);
        state.cut_by_size = selected.cut_by_size;
        manifest.flight = Some(state);
        (manifest.cost.cpu_user_ns, manifest.cost.cpu_system_ns) = cpu.unzip();
        // That of the window was not measured.
        manifest.cost.bpf_estimated_ns = None;
        manifest.segments = Vec::new();
        super::output::check_way(&self.options.output)?;
        let mut writer = self.create(&manifest, &fired)?;
        let sink = self.sink.borrow();
        writer.adopt(sink.writer.place(), &selected.segments)?;
        let stacks = sink.stacks.used_since(selected.first_period);
        let images = self.processes.images.only(stacks.all().iter().map(|s| s.image));
        let files = sink.files.rows(selected.first_period);
        Ok(Job { writer, manifest, stacks, images, files, hurry, fired })
    }

    fn create(&self, manifest: &Manifest, fired: &TriggerFired) -> Result<CaptureWriter, Error> {
        let Some(place) = self.flight.as_ref().map(|f| &f.place) else {
            return Err(Error::Exists { path: self.options.output.clone() });
        };
        let now = SystemTime::now();
        let mut again = 0;
        loop {
            match CaptureWriter::create_with(&place.dump(now, &fired.trigger, again), manifest) {
                Err(Error::Exists { .. }) if again < MAX_AGAIN => again += 1,
                other => return other,
            }
        }
    }

    /// The accounts from a moment to the last edge of the periods; `written` says how many events of a table there are,
    /// given how many were ever written.
    pub(super) fn accounts_of(&self, since: &[Reading], written: impl Fn(&str, u64) -> u64) -> Vec<Account> {
        let all = self.sink.borrow().writer.events_written();
        let of = |p: &super::Loaded| {
            let (c0, u0) = reading(since, p.probe.name());
            let (c1, u1) = reading(self.flight.as_ref().map_or(&[], |f| &f.edge.1), p.probe.name());
            let tables = p.probe.tables();
            let in_window = tables.iter().map(|t| written(t, all.get(t).copied().unwrap_or(0))).sum();
            let user = UserCounts {
                written: in_window,
                added: 0,
                write_failed: u1.write_failed.saturating_sub(u0.write_failed),
                undecodable: u1.undecodable.saturating_sub(u0.undecodable),
                stack_lost: u1.stack_lost.saturating_sub(u0.stack_lost),
            };
            let counters: Counters = std::array::from_fn(|i| c1[i].saturating_sub(c0[i]));
            let mut account = accounts::account(p.probe.name(), tables[0], p.probe.ignored(), &counters, user);
            // What the kernel side saw meanwhile is not the same: records are always on their way (`RingAccount`).
            account.seen = account.written + account.lost.values().sum::<u64>();
            account
        };
        self.probes.iter().map(of).collect()
    }

    /// Ties the window to the whole.
    fn ring_accounts(&self, selected: &Selection, window: &[Account]) -> Vec<RingAccount> {
        let of = |p: &super::Loaded| {
            let name = p.probe.name();
            let (counters, user) = reading(self.flight.as_ref().map_or(&[], |f| &f.edge.1), name);
            let (c0, u0) = reading(&selected.at_start, name);
            let others = p.probe.tables().iter().filter_map(|t| selected.other_events.get(t));
            let mut ring = RingAccount {
                probe: name.to_owned(),
                seen: accounts::seen(&counters, user),
                in_window: window.iter().filter(|a| a.probe == name).map(|a| a.seen).sum(),
                before_window: others.sum(),
                lost_before: accounts::lost_rows(&c0, u0),
                in_flight: 0,
            };
            ring.in_flight = ring.seen.saturating_sub(ring.in_window + ring.before_window + ring.lost_before);
            ring
        };
        self.probes.iter().map(of).collect()
    }
}

fn events(selected: &Selection, table: &str) -> u64 {
    selected.events.get(table).copied().unwrap_or(0)
}

fn reading(readings: &[Reading], probe: &str) -> (Counters, UserCounts) {
    let found = readings.iter().find(|(name, _, _)| *name == probe);
    found.map_or(([0; COUNTERS], UserCounts::default()), |(_, c, u)| (*c, *u))
}

impl Job {
    fn run(mut self) -> Result<Dumped, String> {
        be_nice();
        let path = self.writer.dir().to_path_buf();
        self.write().map_err(|e| format!("`{}`: {e}", path.display()))?;
        let bytes = self.writer.bytes_closed();
        Ok(Dumped { path, trigger: self.fired.trigger, what: self.fired.what, bytes })
    }

    fn write(&mut self) -> Result<(), Error> {
        let writer = &mut self.writer;
        for row in frames(&self.stacks) {
            writer.push(row)?;
        }
        for row in self.files.drain(..) {
            writer.push(row)?;
        }
        let mut failed = Ok(());
        let hurry = &self.hurry;
        let missing =
            names::resolve(&self.stacks, &self.images, &|| hurry.load(Ordering::Relaxed), |row: SymbolRow| {
                if failed.is_ok() {
                    failed = writer.push(row);
                }
            });
        failed?;
        self.manifest.problems.extend(missing);
        writer.close_segments(&mut self.manifest)?;
        self.manifest.state = State::Complete;
        writer.write_manifest(&self.manifest)
    }
}

/// The target's CPU time is worth more than a name that comes sooner. Linux keeps a nice value per thread.
fn be_nice() {
    // SAFETY: plain numbers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}
