//! The flight recorder: the same recording with a window that moves. Old segments go, and a dump is made of the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mtrace_formats::capture::{FlightRecorder, SegmentInfo, TriggerCount, TriggerFired};
use mtrace_formats::tables::{Frame, SmapsMoment, SnapshotReason};

use super::window::{Events, Periods, Reading, TIMELESS, grown};
use super::{Session, nanoseconds};
use crate::cost::own_cpu;
use crate::flight::{Dumped, FlightOptions, Place};
use crate::host::monotonic_ns;
use crate::target::find::ProcessFacts;
use crate::triggers::{Ended, Trigger, Watches};

/// A base is not read again before this many times the CPU time that it took: at most 2 % of one CPU.
const BASE_SHARE: u32 = 50;
/// The longest time for reading a base; processes that it does not suffice for have none.
const BASE_TIME: Duration = Duration::from_millis(500);
/// Segments of the timeless tables before they are written anew as one.
const MAX_TIMELESS: usize = 64;
/// Problems noted so long after the start belong to every dump: they say how the recording was set up.
const SETTING_UP_NS: i64 = 10_000_000_000;
/// Images and processes known before those that ended long ago are looked for.
const ROOMY: usize = 1024;

/// State of the flight recorder.
pub(super) struct Flight {
    pub(super) place: Place,
    pub(super) periods: Periods,
    pub(super) watches: Watches,
    pending: Option<Pending>,
    /// When the trigger of the last dump fired, and how many there were.
    last: Option<i64>,
    pub(super) started: u32,
    suppressed: Counts,
    pub(super) dumps: Vec<Dumped>,
    /// Dumps that the caller was not told of yet.
    pub(super) news: Vec<Dumped>,
    pub(super) job: Option<JoinHandle<Result<Dumped, String>>>,
    /// Tells the job that there is no time.
    pub(super) hurry: Arc<AtomicBool>,
    /// Segments of the tables without time.
    timeless: Vec<SegmentInfo>,
    /// Events by table when segments were last closed.
    known: Events,
    /// What had been counted when the open period began, and when that was; CPU time of the recorder then.
    pub(super) edge: (i64, Vec<Reading>),
    cpu: BTreeMap<u32, (u64, u64)>,
    base_due: i64,
    /// Keeps a second recorder away from the ring.
    _lock: Option<std::fs::File>,
}

/// A trigger that fired and whose dump is due.
pub(super) struct Pending {
    pub(super) fired: TriggerFired,
    due: i64,
    also: Counts,
}

/// Triggers that wrote nothing, by text.
#[derive(Default)]
struct Counts(BTreeMap<String, TriggerCount>);

impl Counts {
    fn add(&mut self, fired: &TriggerFired, count: u64) {
        let new = || TriggerCount { trigger: fired.trigger.clone(), first_ts: fired.ts, ..TriggerCount::default() };
        let entry = self.0.entry(fired.trigger.clone()).or_insert_with(new);
        entry.count += count;
        entry.last_ts = entry.last_ts.max(fired.ts);
    }

    fn take(&mut self) -> Vec<TriggerCount> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}

impl Flight {
    pub(super) fn new(place: Place, watches: Watches, start: i64) -> Self {
        let mut periods = Periods::default();
        // What is read of the targets at the start is the first base.
        periods.open(start, Vec::new(), Some(Default::default()));
        let lock = crate::flight::lock(&place.ring());
        Self {
            place,
            periods,
            watches,
            pending: None,
            last: None,
            started: 0,
            suppressed: Counts::default(),
            dumps: Vec::new(),
            news: Vec::new(),
            job: None,
            hurry: Arc::default(),
            timeless: Vec::new(),
            known: Events::new(),
            edge: (start, Vec::new()),
            cpu: own_cpu().map(|c| (0, c)).into_iter().collect(),
            base_due: 0,
            _lock: lock,
        }
    }

    /// Takes a trigger: it begins a dump, or is counted. What comes only once, or because somebody wants it, is never too
    /// soon.
    fn fired(&mut self, fired: TriggerFired, count: u64, now: i64, options: &FlightOptions, only_once: bool) {
        let too_soon = !only_once && self.last.is_some_and(|last| now - last < nanoseconds(options.min_interval));
        if let Some(pending) = &mut self.pending {
            pending.also.add(&fired, count);
        } else if too_soon || self.started >= options.max_dumps {
            self.suppressed.add(&fired, count);
        } else {
            let mut also = Counts::default();
            if count > 1 {
                also.add(&fired, count - 1);
            }
            self.last = Some(now);
            self.pending = Some(Pending { fired, due: now.saturating_add(nanoseconds(options.post)), also });
        }
    }

    /// From where on rows are wanted.
    fn from(&self, now: i64, options: &FlightOptions) -> i64 {
        let last = self.pending.as_ref().map_or(now, |p| p.fired.ts.min(now));
        last.saturating_sub(nanoseconds(options.window))
    }

    /// True if a dump is to be written now.
    fn is_due(&self, now: i64) -> bool {
        self.job.is_none() && self.pending.as_ref().is_some_and(|p| p.due <= now)
    }

    /// The manifest's part.
    fn state(&self, options: &FlightOptions) -> FlightRecorder {
        FlightRecorder {
            window_ns: nanoseconds(options.window),
            size_bytes: options.size_bytes,
            post_ns: nanoseconds(options.post),
            dropped_rows: self.periods.dropped_rows().clone(),
            ..FlightRecorder::default()
        }
    }

    /// CPU time of the recorder since a period began.
    pub(super) fn cpu_since(&self, period: u32) -> Option<(u64, u64)> {
        let (then, now) = (self.cpu.get(&period)?, own_cpu()?);
        Some((now.0.saturating_sub(then.0), now.1.saturating_sub(then.1)))
    }
}

/// Closed segments may take this much, so that the open ones have room within the bound.
fn closed_bytes(options: &FlightOptions) -> u64 {
    options.size_bytes / 8 * 7
}

impl Session<'_> {
    /// Everything that a flight recorder does besides recording.
    pub(super) fn fly(&mut self, now: i64) {
        let (Some(flight), Some(options)) = (&mut self.flight, &self.options.flight) else { return };
        if flight.job.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_job();
        } else if self.sink.borrow().writer.bytes_open() > options.size_bytes / 8 {
            self.roll();
        }
        self.look_at_triggers(now, false);
        if self.flight.as_ref().is_some_and(|f| f.is_due(now)) {
            self.dump_now();
        }
    }

    /// Asks all triggers.
    pub(super) fn look_at_triggers(&mut self, now: i64, last: bool) {
        let (Some(flight), Some(options)) = (&mut self.flight, &self.options.flight) else { return };
        let processes = &self.processes;
        for fired in flight.watches.poll(now, &|| processes.alive(), last) {
            let end_of_all = fired.trigger.starts_with("exit") && processes.alive().is_empty();
            flight.fired(fired, 1, now, options, end_of_all);
        }
        let (slow, mut more) =
            self.sink.borrow_mut().slow.as_mut().map(super::slow::SlowWatch::take).unwrap_or_default();
        for fired in slow {
            flight.fired(fired, 1 + std::mem::take(&mut more), now, options, false);
        }
        if options.ask.swap(false, Ordering::Relaxed) {
            let what = "the recorder was asked to".to_owned();
            flight.fired(TriggerFired { trigger: "signal".to_owned(), ts: now, what }, 1, now, options, true);
        }
    }

    /// A process ended: is that a trigger?
    pub(super) fn flight_ended(&mut self, pid: u32) {
        let Some(flight) = &mut self.flight else { return };
        let entry = self.processes.entry(pid);
        let asked_for = entry.as_ref().is_some_and(|t| !t.how.starts_with("child"));
        let status = entry.and_then(|t| t.exit_status);
        flight.watches.ended(Ended { ts: monotonic_ns(), pid, status, asked_for });
    }

    /// One period ends and the next one begins.
    pub(super) fn turn(&mut self) {
        self.close_period();
        self.open_period();
    }

    /// Closes the segments of the period; what is out of the window goes.
    pub(super) fn close_period(&mut self) {
        let now = monotonic_ns();
        let readings = self.note_losses(now);
        let (Some(flight), Some(options)) = (&mut self.flight, &self.options.flight) else { return };
        let from = flight.from(now, options);
        let gone = flight.periods.expire(from, closed_bytes(options));
        flight.edge = (now, readings);
        let oldest = flight.periods.select(i64::MIN);
        let dropped = flight.periods.dropped_events().clone();
        let state = flight.state(options);
        self.tidy_manifest(oldest.start);
        self.manifest.window.start_ns = Some(oldest.start);
        self.manifest.flight = Some(state);
        self.fill_reports();
        let left = |table: &str, all: u64| all.saturating_sub(dropped.get(table).copied().unwrap_or(0));
        self.manifest.accounts = self.accounts_of(&oldest.at_start, left);
        let room = self.reserve.follow(&self.manifest);
        let mut sink = self.sink.borrow_mut();
        sink.writer.forget(&gone);
        let before = sink.writer.closed().len();
        if let Err(e) = room.and_then(|()| sink.writer.roll(&mut self.manifest)) {
            sink.fail(e);
        }
        remove(sink.writer.place(), &gone);
        let Some(flight) = &mut self.flight else { return };
        let (timeless, rows) = sink.writer.closed()[before.min(sink.writer.closed().len())..]
            .iter()
            .cloned()
            .partition(|s| TIMELESS.contains(&s.table.as_str()));
        let events = flight.grown(&sink.writer.events_written());
        flight.timeless.extend::<Vec<_>>(timeless);
        flight.periods.close(rows, events);
    }

    /// Begins a period, with a base if it is time for one.
    pub(super) fn open_period(&mut self) {
        if self.sink.borrow().failure().is_some() {
            return;
        }
        let (Some(flight), Some(options)) = (&self.flight, &self.options.flight) else { return };
        let (now, from) = (flight.edge.0, flight.from(flight.edge.0, options));
        // What is too large waits for nothing.
        let wanted = now >= flight.base_due || flight.periods.needs_base(from, closed_bytes(options));
        let base = wanted.then(|| self.write_base());
        let Some(flight) = &mut self.flight else { return };
        let (start, readings) = flight.edge.clone();
        let number = flight.periods.open(start, readings, base);
        let oldest = flight.periods.oldest();
        flight.cpu.retain(|period, _| *period >= oldest);
        flight.cpu.extend(own_cpu().map(|c| (number, c)));
        self.forget(number, oldest);
    }

    /// Writes what a recording that starts now would have to know, in segments of its own.
    fn write_base(&mut self) -> (Vec<SegmentInfo>, Events) {
        let (began, cpu) = (Instant::now(), thread_cpu());
        let pids = self.processes.alive();
        let before = self.sink.borrow().writer.closed().len();
        let mut left = pids.len();
        for pid in pids {
            if began.elapsed() > BASE_TIME {
                break;
            }
            left -= 1;
            if let Some(facts) = ProcessFacts::read(pid) {
                self.processes.base(&facts, &mut self.sink.borrow_mut());
            }
        }
        let mut sink = self.sink.borrow_mut();
        if let Err(e) = sink.writer.close_segments(&mut self.manifest) {
            sink.fail(e);
        }
        let closed = sink.writer.closed();
        let segments = closed[before.min(closed.len())..].to_vec();
        let written = sink.writer.events_written();
        drop(sink);
        if left > 0 {
            self.problem(format!(
                "the maps of {left} processes were not read again within {} ms",
                BASE_TIME.as_millis()
            ));
        }
        let Some(flight) = &mut self.flight else { return (segments, Events::new()) };
        flight.base_due = monotonic_ns() + nanoseconds(thread_cpu().saturating_sub(cpu) * BASE_SHARE);
        (segments, flight.grown(&written))
    }

    /// Lets go what nothing in the window refers to, where there is much of it: memory and disk have an end.
    fn forget(&mut self, period: u32, oldest: u32) {
        let mut sink = self.sink.borrow_mut();
        sink.stacks.begin_period(period);
        sink.files.begin_period(period, oldest);
        let evicted = sink.stacks.evict(oldest);
        evicted.iter().for_each(|hash| self.shared.forget_stack(*hash));
        let Some(flight) = &mut self.flight else { return };
        let start = flight.periods.select(i64::MIN).start;
        self.processes.forget_dead(start, ROOMY);
        if flight.job.is_none() && self.processes.images.len() > ROOMY {
            let used: std::collections::HashSet<u32> = sink.stacks.set().all().iter().map(|s| s.image).collect();
            let alive = self.processes.images_alive();
            self.processes.images.retain(|image| used.contains(&image) || alive.contains(&image));
        }
        let bytes: u64 = flight.timeless.iter().map(|s| s.bytes).sum();
        let size = self.options.flight.as_ref().map_or(u64::MAX, |o| o.size_bytes);
        if evicted.is_empty() && flight.timeless.len() <= MAX_TIMELESS && bytes <= size / 8 {
            return;
        }
        let old = std::mem::take(&mut flight.timeless);
        let frames: Vec<Frame> = frames(sink.stacks.set()).collect();
        frames.into_iter().for_each(|row| sink.push(row));
        sink.files.rows(oldest).into_iter().for_each(|row| sink.push(row));
        let before = sink.writer.closed().len();
        let closed = sink.writer.close_segments(&mut self.manifest);
        flight.timeless = sink.writer.closed()[before..].to_vec();
        flight.grown(&sink.writer.events_written());
        sink.writer.forget(&old);
        self.manifest.segments = sink.writer.closed().to_vec();
        let written = closed.and_then(|()| sink.writer.write_manifest(&self.manifest));
        if let Err(e) = written {
            sink.fail(e);
            return;
        }
        remove(sink.writer.place(), &old);
    }

    /// Only the present belongs into the manifest of a window.
    fn tidy_manifest(&mut self, start: i64) {
        self.note_clock();
        // A pair holds from its time on.
        let clocks = &mut self.manifest.clocks;
        let past = clocks.iter().rposition(|c| c.monotonic_ns <= start).unwrap_or(0);
        clocks.drain(..past);
        let set_up = self.manifest.window.attach_begin_ns.unwrap_or(i64::MIN).saturating_add(SETTING_UP_NS);
        self.manifest.problems.retain(|p| p.ts.is_none_or(|ts| ts >= start || ts <= set_up));
        self.manifest.targets = self.processes.listed().to_vec();
        let measured = self.bpf_time.measured(&self.probes, monotonic_ns());
        self.manifest.cost = self.cost.report(Some(u64::from(self.shared.ring_bytes)), measured);
    }

    /// The last look at the targets before a dump.
    fn dump_now(&mut self) {
        self.flush_probes(false);
        self.drain();
        let began = Instant::now();
        for pid in self.processes.alive() {
            if began.elapsed() < BASE_TIME {
                self.processes.snapshot(pid, SnapshotReason::End, &mut self.sink.borrow_mut());
            }
        }
        self.sample(monotonic_ns(), Some(SmapsMoment::Dump));
        self.flush_probes(false);
        self.drain();
        self.close_period();
        // Only now: until here it holds on to its window.
        if let Some(pending) = self.flight.as_mut().and_then(|f| f.pending.take()) {
            self.start_dump(pending);
        }
        self.open_period();
    }

    /// The flight recorder's end: what is due is written, the ring goes. False if the ring could not be kept in order,
    /// so that it is what is left of the recording.
    pub(super) fn land(&mut self) -> bool {
        let now = monotonic_ns();
        self.look_at_triggers(now, true);
        self.close_period();
        self.end_job();
        if self.sink.borrow().failure().is_some() {
            return false;
        }
        let on_exit = self.options.flight.as_ref().is_some_and(|o| o.dump_on_exit);
        let Some(flight) = &mut self.flight else { return false };
        let last = TriggerFired { trigger: "end".to_owned(), ts: now, what: "the recording ended".to_owned() };
        let at_end = || Pending { fired: last, due: now, also: Counts::default() };
        if let Some(pending) = flight.pending.take().or_else(|| on_exit.then(at_end)) {
            self.start_dump(pending);
            self.end_job();
        }
        true
    }

    /// Waits for the dump that is being finished.
    fn end_job(&mut self) {
        let deadline = self.deadline;
        let Some(flight) = &mut self.flight else { return };
        let Some(job) = flight.job.take() else { return };
        while deadline.is_some_and(|d| Instant::now() < d) && !job.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        flight.hurry.store(deadline.is_some(), Ordering::Relaxed);
        let done = job.join().unwrap_or_else(|_| Err("the thread that wrote it panicked".to_owned()));
        match done {
            Ok(dumped) => {
                flight.news.push(dumped.clone());
                flight.dumps.push(dumped);
            }
            Err(e) => self.problem(format!("a dump could not be finished: {e}")),
        }
    }

    /// What the manifest of this dump says of the flight recorder.
    pub(super) fn flight_of(&mut self, pending: Pending) -> Option<FlightRecorder> {
        let (flight, options) = (self.flight.as_mut()?, self.options.flight.as_ref()?);
        flight.started += 1;
        let mut also = pending.also;
        Some(FlightRecorder {
            dump: flight.started,
            also: also.take(),
            suppressed: flight.suppressed.take(),
            trigger: Some(pending.fired),
            ..flight.state(options)
        })
    }

    /// Prepares the triggers; to be called before anything is recorded.
    pub(super) fn trigger_notes(&mut self) {
        let now = monotonic_ns();
        self.look_at_triggers(now, false);
        let notes = self.flight.as_ref().map(|f| f.watches.notes()).unwrap_or_default();
        notes.into_iter().for_each(|n| self.problem(n));
    }
}

impl Flight {
    /// Events by table since the last call.
    fn grown(&mut self, written: &Events) -> Events {
        let new = grown(written, &self.known);
        self.known.clone_from(written);
        new
    }
}

/// The rows of `frames` of these stacks.
pub(super) fn frames(stacks: &super::stacks::StackSet) -> impl Iterator<Item = Frame> + '_ {
    stacks.all().iter().flat_map(|s| {
        let ips = (0..).zip(stacks.ips(s));
        ips.map(|(depth, ip)| Frame { stack_id: s.id, depth, pid: s.pid, ip: *ip })
    })
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs() as u32)
}

/// Best effort: what stays is rows of the past, which nothing lists. Whatever kills the recorder meanwhile, no fault is
/// left without the calls that made its mapping, and no snapshot of maps without the calls after it.
fn remove(capture: &mtrace_formats::capture::Place, segments: &[SegmentInfo]) {
    let rank = |s: &&SegmentInfo| match s.table.as_str() {
        "faults" | "fault_runs" => 0,
        "maps" => 1,
        _ => 2,
    };
    let mut in_order: Vec<&SegmentInfo> = segments.iter().collect();
    in_order.sort_by_key(rank);
    for s in in_order {
        let _ = std::fs::remove_file(capture.join(&s.table).join(&s.file));
    }
}

/// Faults that a trigger asks about must have rows of their own.
pub(super) fn slow_fault(triggers: &[Trigger], as_set: Duration) -> Duration {
    super::slow::SlowWatch::new(triggers).and_then(|w| w.fault_limit()).map_or(as_set, |limit| limit.min(as_set))
}
