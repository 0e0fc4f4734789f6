//! One recording from beginning to end: start the target, drain the ring, close the capture.

mod bpf_time;
mod budget;
mod clocks;
mod dump;
mod fidelity;
mod files;
mod finish;
mod flight;
mod gone;
mod images;
mod limits;
mod load;
mod names;
mod output;
mod processes;
mod reserve;
mod roots;
mod runtimes;
mod sink;
mod sleepers;
mod slow;
mod stacks;
mod start;
mod trial;
mod window;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libbpf_rs::RingBuffer;
use mtrace_formats::capture::{Manifest, Problem};
use mtrace_formats::tables::{FaultCountAt, SmapsMoment, SnapshotReason};

use crate::accounts::LossMeter;
use crate::cost::CostMeter;
use crate::error::Error;
use crate::host::{clock_pair, monotonic_ns};
use crate::leaf::Leaves;
use crate::ring::SharedMaps;
use crate::sampler::Sampler;
use crate::target::launch::Launched;
use crate::target::rule::Rule;
use crate::{Options, Progress, Summary};
pub(crate) use load::Loaded;
use processes::{Came, Processes, Todo};
use runtimes::Runtimes;
pub(crate) use sink::Sink;
pub(crate) use trial::trial;

/// How long the reader sleeps at most; the kernel wakes it for an exec and when the ring fills up.
const POLL: Duration = Duration::from_millis(50);
/// How long it rests after a reading, so that it takes many records at once.
const REST: Duration = Duration::from_millis(10);
/// How long after its exit event a process is still a target: exit_mm comes after that event since 6.16.
const REMOVE_AFTER_NS: i64 = 100_000_000;
/// How long a launched target has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long everything may take after a signal to the recorder: within 5 s whoever sent it can rely on the capture.
const AFTER_SIGNAL: Duration = Duration::from_millis(4200);
/// What of it is kept for closing the capture when a launched target does not end.
const FOR_CLOSING: Duration = Duration::from_millis(1700);
/// When the first segments are closed. The intervals double from there up to the option's: a recording that is killed
/// early has something to show, a long one has few small segments.
const FIRST_SEGMENT: Duration = Duration::from_millis(250);
const LOSS_INTERVAL_NS: i64 = 1_000_000_000;
const PROGRESS_INTERVAL_NS: i64 = 200_000_000;

/// Runs a recording.
pub(crate) fn run(options: &Options, stop: &AtomicBool, progress: &mut dyn FnMut(&Progress)) -> Result<Summary, Error> {
    let mut session = start::start(options)?;
    let reason = session.record(stop, progress);
    session.deadline = (reason == "signal").then(|| Instant::now() + AFTER_SIGNAL);
    session.wind_down(progress);
    session.finish(reason)
}

/// Everything that lives as long as the recording.
struct Session<'a> {
    options: &'a Options,
    began: Instant,
    sink: Rc<RefCell<Sink>>,
    // Before the maps that it reads.
    ring: RingBuffer<'static>,
    probes: Vec<Loaded>,
    runtimes: Runtimes,
    shared: SharedMaps,
    manifest: Manifest,
    processes: Processes,
    rule: Rule,
    leaves: Leaves,
    launched: Option<Launched>,
    sampler: Sampler,
    losses: LossMeter,
    cost: CostMeter,
    bpf_time: bpf_time::BpfTime,
    /// Where there is a budget.
    keeper: Option<fidelity::Keeper>,
    reserve: reserve::Reserve,
    /// Processes that ended: when, pid, image.
    ended: VecDeque<(i64, u32, u32)>,
    flight: Option<flight::Flight>,
    /// Until when the capture has to be closed.
    deadline: Option<Instant>,
    due: Due,
}

/// When what happens next, CLOCK_MONOTONIC ns.
struct Due {
    sample: i64,
    losses: i64,
    roll: i64,
    /// From that roll to the next.
    roll_interval: Duration,
    progress: i64,
}

impl Due {
    fn new(now: i64, options: &Options) -> Self {
        let first = FIRST_SEGMENT.min(segment_interval(options));
        Self {
            sample: now,
            losses: now + LOSS_INTERVAL_NS,
            roll: now + nanoseconds(first),
            roll_interval: first,
            progress: now + PROGRESS_INTERVAL_NS,
        }
    }

    /// The segments were closed: when they are closed next.
    fn rolled(&mut self, now: i64, options: &Options) {
        self.roll_interval = self.roll_interval.saturating_mul(2).min(segment_interval(options));
        self.roll = now + nanoseconds(self.roll_interval);
    }
}

impl Session<'_> {
    /// Records until there is a reason to stop.
    fn record(&mut self, stop: &AtomicBool, progress: &mut dyn FnMut(&Progress)) -> &'static str {
        let until = self.options.duration.map(|d| self.began + d);
        loop {
            self.step(POLL, progress);
            if self.sink.borrow().failure().is_some() {
                return self.failure_reason();
            }
            if self.targets_are_gone() {
                return "target exited";
            }
            if stop.load(Ordering::Relaxed) {
                return "signal";
            }
            if let Some(reason) = self.limit_reached() {
                return reason;
            }
            if until.is_some_and(|t| Instant::now() >= t) {
                return "duration";
            }
        }
    }

    fn failure_reason(&mut self) -> &'static str {
        let sink = self.sink.borrow();
        let Some(e) = sink.failure() else { return "write failed" };
        let (what, full) = (e.to_string(), e.is_disk_full());
        drop(sink);
        self.problem(format!("recording ended early: {what}"));
        if full { "disk full" } else { "write failed" }
    }

    /// One round: take what the kernel sent, follow it, and do what is due.
    fn step(&mut self, wait: Duration, progress: &mut dyn FnMut(&Progress)) {
        // An interrupted wait is a wait that is over.
        self.sink.borrow_mut().begin_round();
        self.ring.poll_raw(wait);
        self.drain();
        self.reap();
        self.do_what_is_due(progress);
        let taken = self.sink.borrow_mut().take_bytes();
        // While the ring fills fast there is no time to rest.
        if taken < self.shared.ring_bytes as usize / 8 {
            std::thread::sleep(REST.min(wait));
        }
    }

    /// Takes all records there are at this moment and does what they ask for.
    fn drain(&mut self) {
        self.sink.borrow_mut().begin_round();
        self.ring.consume_raw();
        let keep = self.flight.is_some();
        loop {
            let mut sink = self.sink.borrow_mut();
            let life = std::mem::take(&mut sink.life);
            let code = std::mem::take(&mut sink.new_code);
            if life.is_empty() && code.is_empty() {
                let rows = sink.files.take_rows();
                for row in rows {
                    if keep {
                        sink.files.keep(&row);
                    }
                    sink.push(row);
                }
                let (images, leaves) = (&self.processes.images, &mut self.leaves);
                sink.settle_stacks(|stack| {
                    let Some(ip) = stack.ips.first() else { return false };
                    let mapping = images.find(stack.image, *ip);
                    mapping.and_then(|m| leaves.caller_on_top(&m, *ip)) == Some(true)
                });
                return;
            }
            let mut todo = Vec::new();
            for event in life {
                self.processes.live(event, &mut sink, &mut todo);
            }
            let with_jvm = processes::with_library(&code, &sink.files, runtimes::JVM_LIBRARY);
            self.processes.new_code(code, &sink.files);
            drop(sink);
            todo.into_iter().for_each(|t| self.follow(t));
            with_jvm.into_iter().for_each(|pid| self.jvm_loaded(pid));
        }
    }

    fn follow(&mut self, todo: Todo) {
        match todo {
            Todo::NewProgram { pid, how } => {
                if how != Came::Running {
                    self.sampler.new_program(pid);
                }
                self.look_for_runtimes(pid, how);
            }
            Todo::Sample(pid) => self.sampler.add(pid),
            Todo::Joined { pid, ts } => sleepers::note(&self.probes, pid, ts),
            Todo::Ended(pid) => {
                self.flight_ended(pid);
                if let Some(image) = self.processes.image(pid) {
                    self.ended.push_back((monotonic_ns(), pid, image));
                }
            }
        }
    }

    fn do_what_is_due(&mut self, progress: &mut dyn FnMut(&Progress)) {
        let now = monotonic_ns();
        if now >= self.due.sample {
            self.due.sample = now + nanoseconds(self.options.sample_interval);
            self.sample(now, None);
        }
        self.bpf_time.tick(now);
        self.keep_budget(now);
        if now >= self.due.losses {
            self.due.losses = now + LOSS_INTERVAL_NS;
            self.note_losses(now);
            self.note_clock();
            self.look_for_the_dead();
        }
        if now >= self.due.roll {
            self.due.rolled(now, self.options);
            self.roll();
        }
        self.fly(now);
        if now >= self.due.progress {
            self.due.progress = now + PROGRESS_INTERVAL_NS;
            let state = self.progress();
            progress(&state);
        }
    }

    /// Reads what is due, and at a moment that is one everything.
    fn sample(&mut self, now: i64, moment: Option<SmapsMoment>) {
        let rows = match moment {
            Some(moment) => self.sampler.tick_all(now, moment),
            None => self.sampler.tick(now),
        };
        let mut sink = self.sink.borrow_mut();
        rows.into_iter().for_each(|r| sink.push(r));
        self.sampler.take_mappings().into_iter().for_each(|r| sink.push(r));
        drop(sink);
        for what in self.sampler.take_problems() {
            self.problem(what);
        }
    }

    /// About once a second: that is how long a clock may be wrong without being seen.
    fn note_clock(&mut self) {
        clocks::note(&mut self.manifest.clocks, clock_pair());
    }

    fn note_losses(&mut self, now: i64) -> Vec<window::Reading> {
        let mut sink = self.sink.borrow_mut();
        let readings: Vec<_> =
            self.probes.iter().map(|p| (p.probe.name(), p.counters(), sink.counts(p.probe))).collect();
        for row in self.losses.read(now, &readings) {
            sink.push(row);
        }
        readings
    }

    /// Asks the probes for what they have not sent yet. On a busy CPU it may take until the next time.
    fn flush_probes(&mut self, last: bool) {
        let refused: Vec<String> = self.probes.iter().filter_map(|p| p.flush().err()).collect();
        for what in refused.into_iter().filter(|_| last) {
            self.problem(format!("what a probe had not sent could not be had: {what}"));
        }
    }

    /// Closes the open segments and brings the manifest on disk up to date. Room for the last manifest goes first: when
    /// there is none the disk is full, whatever of the rows might still fit.
    fn roll(&mut self) {
        if self.sink.borrow().failure().is_some() {
            return;
        }
        self.flush_probes(false);
        self.drain();
        self.note_clock();
        self.manifest.window.closed_ns = Some(monotonic_ns());
        self.manifest.window.next_closing_ns = Some(self.due.roll);
        if self.flight.is_some() {
            self.turn();
            return;
        }
        self.manifest.targets = self.processes.listed().to_vec();
        let measured = self.bpf_time.measured(&self.probes, monotonic_ns());
        self.manifest.cost = self.cost.report(Some(u64::from(self.shared.ring_bytes)), measured);
        self.fill_reports();
        let room = self.reserve.follow(&self.manifest);
        let mut sink = self.sink.borrow_mut();
        if let Err(e) = room.and_then(|()| sink.writer.roll(&mut self.manifest)) {
            sink.fail(e);
        }
    }

    /// The last look at the targets; then a launched one is asked to end, under observation.
    fn wind_down(&mut self, progress: &mut dyn FnMut(&Progress)) {
        self.drain();
        for pid in self.processes.alive() {
            let mut sink = self.sink.borrow_mut();
            self.processes.snapshot(pid, SnapshotReason::End, &mut sink);
        }
        self.sample(monotonic_ns(), Some(SmapsMoment::End));
        self.note_fault_counts(FaultCountAt::End);
        if self.options.leave_running {
            return;
        }
        let Some(pid) = self.launched.as_ref().map(Launched::pid) else { return };
        let alive = |s: &mut Self| s.launched.as_mut().is_some_and(|l| matches!(l.try_wait(), Ok(None)));
        if !alive(self) {
            return;
        }
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::SIGTERM);
        let until = (self.deadline.map(|d| d - FOR_CLOSING)).unwrap_or_else(|| Instant::now() + GRACE);
        let began = Instant::now();
        while alive(self) && Instant::now() < until {
            self.step(REST, progress);
        }
        if alive(self) {
            let waited = began.elapsed().as_secs_f64();
            self.problem(format!("process {pid} did not end within {waited:.1} s of SIGTERM and was killed"));
            let _ = self.launched.as_mut().map(|l| l.terminate(Duration::ZERO));
        }
    }

    fn progress(&mut self) -> Progress {
        let dumps = self.flight.as_mut().map(|f| std::mem::take(&mut f.news)).unwrap_or_default();
        let sink = self.sink.borrow();
        let rows = sink.writer.rows_written();
        let lost = self.probes.iter().map(|p| crate::accounts::lost_rows(&p.counters(), sink.counts(p.probe))).sum();
        Progress {
            elapsed: self.began.elapsed(),
            targets: self.processes.alive().len(),
            rows: rows.iter().map(|(table, n)| ((*table).to_owned(), *n)).collect(),
            lost,
            bytes: sink.writer.bytes_closed(),
            dumps,
        }
    }

    fn problem(&mut self, what: String) {
        const MAX_PROBLEMS: usize = 200;
        if self.manifest.problems.len() < MAX_PROBLEMS {
            self.manifest.problems.push(Problem { ts: Some(monotonic_ns()), what });
        }
    }
}

/// Segments are closed at these intervals.
fn segment_interval(options: &Options) -> Duration {
    options.flight.as_ref().map_or(options.segment_interval, |f| f.period(options.segment_interval))
}

fn nanoseconds(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_closed_early_at_first_and_never_later_than_asked_for() {
        let intervals = |ms| {
            let mut options = Options::new(crate::TargetSpec::Pids(vec![1]), "x".into());
            options.segment_interval = Duration::from_millis(ms);
            let mut due = Due::new(0, &options);
            let next = |due: &mut Due| {
                let at = due.roll;
                due.rolled(at, &options);
                at / 1_000_000
            };
            (0..7).map(|_| next(&mut due)).collect::<Vec<_>>()
        };
        assert_eq!(intervals(5000), [250, 750, 1750, 3750, 7750, 12750, 17750]);
        assert_eq!(intervals(100), [100, 200, 300, 400, 500, 600, 700]);
    }
}
