//! The beginning of a recording: everything that can fail before the target runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use libbpf_rs::{RingBuffer, RingBufferBuilder};
use mtrace_formats::capture::{CaptureWriter, Manifest, ProbeReport, Problem, Target, Window};
use mtrace_formats::tables::FaultCountAt;
use serde_json::json;

use super::flight::Flight;
use super::load::Loaded;
use super::processes::{Came, MAX_LISTED, Processes};
use super::reserve::Reserve;
use super::runtimes::Runtimes;
use super::slow::SlowWatch;
use super::{Due, Session, Sink, nanoseconds, sleepers};
use crate::accounts::LossMeter;
use crate::cost::CostMeter;
use crate::error::{Error, kernel};
use crate::flight::Place;
use crate::host::{HostFacts, clock_pair, monotonic_ns};
use crate::leaf::Leaves;
use crate::plan::{self, Plan};
use crate::probes::Probe;
use crate::ring::{Config, SharedMaps};
use crate::sampler::Sampler;
use crate::target::find::{self, ProcessFacts};
use crate::target::launch::{Launched, ResourceLimits};
use crate::target::rule::Rule;
use crate::triggers::{Trigger, Watches};
use crate::{FaultMode, Options, TargetSpec};

/// The inode of the initial pid namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Likewise the cgroup namespace's (PROC_CGROUP_INIT_INO).
const INITIAL_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";

/// Image numbers of processes that are found after the kernel side began to give numbers out.
const FIRST_LATE_IMAGE: u32 = 1 << 31;

/// What was asked for, found or prepared.
struct Wanted {
    launched: Option<Launched>,
    running: Vec<ProcessFacts>,
    rule: Rule,
    how: &'static str,
    notes: Vec<String>,
}

/// Starts a recording; the target runs when this returns.
pub(super) fn start(options: &Options) -> Result<Session<'_>, Error> {
    let cost = CostMeter::start();
    let limits = ResourceLimits::current();
    let facts = HostFacts::gather();
    let plan = plan::plan(&facts, &options.without, options.faults)?;
    check_pid_namespace()?;
    if !matches!(options.target, TargetSpec::Launch { .. }) {
        see_all_cgroups();
    }
    super::output::check_way(&options.output)?;
    let mut wanted = find_targets(&options.target, &limits)?;
    raise_limits();
    // A file size limit is then an error like a full disk, and not the recorder's death. A launched command has its
    // default dispositions back already.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let place = options.flight.as_ref().map(|_| Place::of(&options.output));
    let aside = place.as_ref().map(Place::set_aside).transpose()?.flatten();
    wanted.notes.extend(aside.map(|at| format!("the ring of a recorder that was killed is now `{}`", at.display())));
    let output = place.as_ref().map_or_else(|| options.output.clone(), Place::ring);
    let writer = CaptureWriter::create_with(&output, &first_manifest(options, &facts, &plan, &wanted))?;
    let started = begin(options, &facts, plan, wanted, writer, cost);
    if started.is_err() {
        // Nothing was recorded, and the name would be taken at the next attempt.
        let _ = std::fs::remove_dir_all(&output);
    }
    started
}

/// Pids in the kernel are those of the initial namespace; elsewhere every process would be the wrong one.
fn check_pid_namespace() -> Result<(), Error> {
    match std::fs::read_link("/proc/self/ns/pid") {
        Ok(ns) if ns != Path::new(INITIAL_PID_NAMESPACE) => Err(Error::NotPermitted {
            what: "this is a container with a pid namespace of its own, where the kernel's pids mean other processes"
                .to_owned(),
            next: "run the recorder on the host, or in a container with the host's pid namespace (--pid=host)",
        }),
        _ => Ok(()),
    }
}

/// A pod has a cgroup namespace of its own on cgroup v2, in which the groups of others have no names: this thread leaves
/// it for the host's. Where that is refused, groups that cannot be found are an error later.
fn see_all_cgroups() {
    let is_initial =
        |path: &PathBuf| std::fs::read_link(path).is_ok_and(|ns| ns == Path::new(INITIAL_CGROUP_NAMESPACE));
    if is_initial(&PathBuf::from("/proc/thread-self/ns/cgroup")) {
        return;
    }
    // Of whichever process we may look at: the first one, or a thread of the kernel.
    let candidates = find::all_pids().into_iter().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/cgroup")));
    if let Some(host) = candidates.filter(is_initial).find_map(|path| std::fs::File::open(path).ok()) {
        // SAFETY: no pointers. What this thread sees of cgroups is all that changes.
        unsafe { libc::setns(host.as_raw_fd(), libc::CLONE_NEWCGROUP) };
    }
}

fn find_targets(target: &TargetSpec, limits: &ResourceLimits) -> Result<Wanted, Error> {
    let rule = Rule::of(target)?;
    let mut wanted = Wanted { launched: None, running: rule.running()?, how: rule.how(), rule, notes: Vec::new() };
    match target {
        TargetSpec::Launch { argv } => {
            wanted.how = "launched";
            wanted.launched = Some(Launched::prepare(argv, limits)?);
        }
        TargetSpec::Pids(pids) => {
            for pid in pids {
                let found = find::by_pid(*pid)?;
                wanted.notes.extend(found.note);
                if !wanted.running.iter().any(|f| f.pid == found.facts.pid) {
                    wanted.running.push(found.facts);
                }
            }
        }
        _ => {}
    }
    wanted.running.truncate(wanted.rule.room() as usize);
    Ok(wanted)
}

/// Locked memory counted against BPF maps before 5.11, and every probe needs descriptors per CPU. Either may be refused
/// and is not needed everywhere: loading tells.
fn raise_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY);
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn begin<'a>(
    options: &'a Options,
    facts: &HostFacts,
    plan: Plan,
    wanted: Wanted,
    writer: CaptureWriter,
    cost: CostMeter,
) -> Result<Session<'a>, Error> {
    let reserve = Reserve::new(writer.place())?;
    let triggers = options.flight.as_ref().map_or(&[][..], |f| &f.triggers);
    let watches = Watches::open(triggers)?;
    let fault_cost = plan.fault_probe().map(|p| crate::calibrate::fault_cost(p, options.faults));
    let attach_begin_ns = monotonic_ns();
    let shared = SharedMaps::create(options.ring_bytes, wanted.rule.room())?;
    let mut processes = Processes::new(wanted.rule.how());
    let next_image = add_targets(&wanted, &shared, &mut processes)?;
    shared.configure(&Config {
        off_cpu_min_ns: nanoseconds(options.off_cpu_min).unsigned_abs(),
        slow_fault_ns: nanoseconds(super::flight::slow_fault(triggers, options.slow_fault)).unsigned_abs(),
        io_calls_per_process: options.io_calls_per_process,
        next_image,
    })?;
    let sink = Rc::new(RefCell::new(Sink::new(writer)));
    sink.borrow_mut().slow = SlowWatch::new(triggers);
    let ring = open_ring(&shared, &sink)?;
    let (probes, absent) = load_all(plan, options.faults, &shared, &wanted.rule)?;
    let attached = monotonic_ns();
    wanted.running.iter().for_each(|f| sleepers::note(&probes, f.pid, attached));
    let now = monotonic_ns();
    let mut session = Session {
        options,
        began: Instant::now(),
        sink,
        ring,
        probes,
        runtimes: Runtimes::default(),
        losses: LossMeter::new(now),
        sampler: Sampler::new(processes.alive()).with_mappings(options.smaps),
        shared,
        manifest: manifest(options, facts, attach_begin_ns, absent),
        processes,
        rule: wanted.rule,
        leaves: Leaves::default(),
        launched: wanted.launched,
        cost,
        bpf_time: super::bpf_time::BpfTime::new(now),
        keeper: None,
        reserve,
        ended: VecDeque::new(),
        due: Due::new(now, options),
        flight: options.flight.as_ref().map(|_| Flight::new(Place::of(&options.output), watches, now)),
        deadline: None,
    };
    match fault_cost {
        Some(Ok(cost)) => session.cost.fault = Some(cost),
        Some(Err(e)) => session.problem(format!("the cost of a fault on this host was not measured: {e}")),
        None => {}
    }
    wanted.notes.into_iter().for_each(|n| session.problem(n));
    session.reserve.follow(&session.manifest)?;
    session.begin_fidelity();
    session.attach_to_running(&wanted.running);
    session.attach_to_latecomers();
    session.let_go()?;
    session.trigger_notes();
    session.cost.recording_began();
    session.open_budget();
    session.roll();
    Ok(session)
}

/// Files that the words of a command line name, alone or within a script (`sh -c 'exec ./service'`), at most 64.
fn named_files(argv: &[OsString]) -> Vec<PathBuf> {
    let apart = |c: char| c.is_whitespace() || ";&|()<>=\"'`".contains(c);
    let words = argv.iter().flat_map(|a| {
        let text = a.to_string_lossy().into_owned();
        std::iter::once(text.clone()).chain(text.split(apart).map(str::to_owned).collect::<Vec<_>>())
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for word in words.filter(|w| !w.is_empty()) {
        let candidates: Vec<PathBuf> = match word.contains('/') {
            true => vec![PathBuf::from(&word)],
            false => std::env::split_paths(&path).map(|d| d.join(&word)).collect(),
        };
        found.extend(candidates.into_iter().find(|p| p.is_file()).filter(|p| !found.contains(p)));
        if found.len() >= 64 {
            break;
        }
    }
    found
}

/// Puts the targets into the kernel's map; the answer is the first image number that is free.
fn add_targets(wanted: &Wanted, shared: &SharedMaps, processes: &mut Processes) -> Result<u32, Error> {
    let mut image = 1;
    let launched = wanted.launched.iter().map(|l| (l.pid(), true));
    let running = wanted.running.iter().map(|f| (f.pid, false));
    for (pid, waits) in launched.chain(running) {
        shared.add_target(pid, image, waits)?;
        processes.add(pid, image, wanted.how.to_owned());
        image += 1;
    }
    Ok(image)
}

fn open_ring(shared: &SharedMaps, sink: &Rc<RefCell<Sink>>) -> Result<RingBuffer<'static>, Error> {
    let (sink, ring_bytes) = (sink.clone(), shared.ring_bytes);
    let mut builder = RingBufferBuilder::new();
    let take = move |bytes: &[u8]| {
        let mut sink = sink.borrow_mut();
        sink.take(bytes);
        // A negative answer ends the reading after this record.
        if sink.round_is_over(ring_bytes) { -libc::EAGAIN } else { 0 }
    };
    builder.add(&shared.ring, take).map_err(kernel("open the ring buffer"))?;
    builder.build().map_err(kernel("map the ring buffer"))
}

/// Loads everything first and attaches it then, so that the probes begin as close together as can be.
pub(super) fn load_all(
    plan: Plan,
    faults: FaultMode,
    shared: &SharedMaps,
    rule: &Rule,
) -> Result<(Vec<Loaded>, Vec<ProbeReport>), Error> {
    let mut absent = plan.absent;
    let mut probes: Vec<Loaded> = Vec::new();
    let mut refuse = |probe: &'static dyn Probe, e: String| absent.push(plan::absent(probe, e));
    for probe in plan.load {
        match Loaded::load(probe, faults, shared).and_then(|l| l.set_rule(&rule.for_kernel()).map(|()| l)) {
            Ok(loaded) => probes.push(loaded),
            Err(e) => refuse(probe, e),
        }
    }
    probes.retain_mut(|p| match p.attach() {
        Ok(()) => true,
        Err(e) => {
            refuse(p.probe, e);
            false
        }
    });
    if probes.is_empty() {
        let reasons: Vec<String> =
            absent.iter().map(|r| format!("{}: {}", r.name, r.reason.as_deref().unwrap_or("?"))).collect();
        return Err(Error::NotPermitted {
            what: format!("no probe could be loaded: {}", reasons.join("; ")),
            next: "see `mtrace doctor` for what this host allows and how to enable the rest",
        });
    }
    Ok((probes, absent))
}

/// What is on disk while the probes are being loaded: it says so if the recorder is killed then.
fn first_manifest(options: &Options, facts: &HostFacts, plan: &Plan, wanted: &Wanted) -> Manifest {
    let now = monotonic_ns();
    let mut first = manifest(options, facts, now, plan.absent.clone());
    let launched = wanted.launched.iter().map(|l| Target { pid: l.pid(), ..Target::default() });
    let running = wanted.running.iter().take(MAX_LISTED).map(|f| f.to_target(String::new()));
    first.targets = launched.chain(running).map(|t| Target { how: wanted.how.to_owned(), ..t }).collect();
    let what = "the recorder was killed before all probes were attached: nothing is recorded of the targets".to_owned();
    first.problems.push(Problem { ts: Some(now), what });
    first
}

/// What was asked for, in the words of the command line. Not the words of a launched command: they hold secrets.
fn asked_for(target: &TargetSpec) -> String {
    fn list<T: std::fmt::Display>(of: impl IntoIterator<Item = T>) -> String {
        of.into_iter().map(|t| t.to_string()).collect::<Vec<_>>().join(",")
    }
    match target {
        TargetSpec::Launch { .. } => "launched".to_owned(),
        TargetSpec::Pids(pids) => format!("pid {}", list(pids)),
        TargetSpec::Comm(name) => format!("comm {name}"),
        TargetSpec::Exe(path) => format!("exe {}", path.display()),
        TargetSpec::Cgroups(paths) => format!("cgroup {}", list(paths.iter().map(|p| p.display()))),
        TargetSpec::Containers(ids) => format!("container {}", list(ids)),
        TargetSpec::All => "all".to_owned(),
    }
}

fn manifest(options: &Options, facts: &HostFacts, attach_begin_ns: i64, absent: Vec<ProbeReport>) -> Manifest {
    let mut host = facts.host.clone();
    if !options.with_hostname {
        host.hostname = None;
    }
    let flight = options.flight.as_ref();
    let knobs = BTreeMap::from([
        ("ring_bytes".to_owned(), json!(options.ring_bytes)),
        ("sample_interval_ns".to_owned(), json!(nanoseconds(options.sample_interval))),
        ("smaps".to_owned(), options.smaps.to_json()),
        ("segment_interval_ns".to_owned(), json!(nanoseconds(options.segment_interval))),
        ("faults".to_owned(), json!(options.faults.name())),
        ("slow_fault_ns".to_owned(), json!(nanoseconds(options.slow_fault))),
        ("off_cpu_min_ns".to_owned(), json!(nanoseconds(options.off_cpu_min))),
        ("io_calls_per_process".to_owned(), json!(options.io_calls_per_process)),
        ("budget_share".to_owned(), json!(options.budget)),
        ("fault_weight".to_owned(), json!(options.fault_weight)),
        ("duration_ns".to_owned(), json!(options.duration.map(nanoseconds))),
        ("max_bytes".to_owned(), json!(options.max_bytes)),
        ("max_events".to_owned(), json!(options.max_events)),
        ("target".to_owned(), json!(asked_for(&options.target))),
        ("without".to_owned(), json!(options.without)),
        ("triggers".to_owned(), json!(flight.map(|f| f.triggers.iter().map(Trigger::text).collect::<Vec<_>>()))),
        ("dump_interval_ns".to_owned(), json!(flight.map(|f| nanoseconds(f.min_interval)))),
        ("max_dumps".to_owned(), json!(flight.map(|f| f.max_dumps))),
    ]);
    Manifest {
        mtrace_version: env!("CARGO_PKG_VERSION").to_owned(),
        host,
        clocks: vec![clock_pair()],
        window: Window { attach_begin_ns: Some(attach_begin_ns), ..Window::default() },
        probes: absent,
        knobs,
        ..Manifest::default()
    }
}

impl Session<'_> {
    fn attach_to_running(&mut self, running: &[ProcessFacts]) {
        for facts in running {
            self.look_for_runtimes(facts.pid, Came::Running);
        }
        self.manifest.window.start_ns.get_or_insert_with(monotonic_ns);
        for facts in running {
            // Read again: threads came and went since it was found. If it is gone, so be it.
            let facts = ProcessFacts::read(facts.pid).unwrap_or_else(|| facts.clone());
            self.processes.attached(&facts, &mut self.sink.borrow_mut());
        }
        self.note_fault_counts(FaultCountAt::Begin);
    }

    /// Processes that came between the look at /proc and the attaching of the probes: from then on the kernel side sees
    /// every one that comes.
    fn attach_to_latecomers(&mut self) {
        let later = if self.rule.may_bring_more() { self.rule.running() } else { Ok(Vec::new()) };
        let (mut new, mut no_room) = (Vec::new(), 0u64);
        for facts in later.unwrap_or_default().into_iter().filter(|f| !self.processes.is_alive(f.pid)) {
            match self.shared.add_if_new(facts.pid, FIRST_LATE_IMAGE + new.len() as u32) {
                true => new.push(facts),
                // The kernel side has it, and its record is on its way.
                false if self.shared.is_target(facts.pid) => {}
                false => no_room += 1,
            }
        }
        let attached = monotonic_ns();
        for (image, facts) in (FIRST_LATE_IMAGE..).zip(&new) {
            self.processes.add(facts.pid, image, self.rule.how().to_owned());
            self.sampler.add(facts.pid);
            sleepers::note(&self.probes, facts.pid, attached);
        }
        self.attach_to_running(&new);
        if no_room > 0 {
            let room = self.rule.room();
            self.problem(format!("{no_room} processes are not recorded: there is room for {room} at a time"));
        }
    }

    /// Lets a launched command exec, looks at it while it is stopped there, and lets it run.
    fn let_go(&mut self) -> Result<(), Error> {
        self.attach_ahead();
        let Some(launched) = self.launched.as_mut() else { return Ok(()) };
        let pid = launched.pid();
        self.manifest.window.start_ns = Some(monotonic_ns());
        let stop = launched.exec_stopped()?;
        self.processes.stopped = stop.exact.then_some(pid);
        self.drain();
        if self.shared.still_waits(pid) {
            self.unseen_exec(pid)?;
        }
        if stop.exact {
            // Where its counters stand before its first instruction: what rusage says at the end includes our fork.
            self.sample(monotonic_ns(), None);
        }
        self.note_fault_counts(FaultCountAt::Begin);
        self.processes.stopped = None;
        self.began = Instant::now();
        if let Some(note) = stop.note {
            self.problem(note);
        }
        if let Some(launched) = self.launched.as_mut() {
            launched.resume()?;
        }
        Ok(())
    }

    /// Only the first exec is seen while the process is stopped. A shell, env(1) or nice(1) execs again at once, and Go
    /// collects within milliseconds: so every file that the command line names is looked at before.
    fn attach_ahead(&mut self) {
        let TargetSpec::Launch { argv } = &self.options.target else { return };
        for path in named_files(argv) {
            self.runtimes.look_ahead(&mut self.probes, &path);
        }
    }

    /// Without `process_events` nobody told of the exec.
    fn unseen_exec(&mut self, pid: u32) -> Result<(), Error> {
        self.shared.add_target(pid, self.processes.image(pid).unwrap_or(0), false)?;
        if let Some(facts) = ProcessFacts::read(pid) {
            self.processes.attached(&facts, &mut self.sink.borrow_mut());
        }
        let stopped = self.processes.stopped == Some(pid);
        self.look_for_runtimes(pid, if stopped { Came::Stopped } else { Came::Exec });
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_the_words_of_a_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let service = dir.path().join("service");
        std::fs::write(&service, "").unwrap();
        let name = service.to_str().unwrap();
        for argv in [vec![name.to_owned()], vec!["-c".to_owned(), format!("cd /; exec {name} >/dev/null&")]] {
            let argv: Vec<OsString> = argv.into_iter().map(OsString::from).collect();
            assert_eq!(named_files(&argv).last(), Some(&service), "{argv:?}");
        }
        assert!(named_files(&["sh".into()]).iter().any(|p| p.ends_with("sh")));
        assert!(named_files(&["/no/such/file".into(), "".into()]).is_empty());
    }
}
