//! The beginning of a recording: everything that can fail before the target runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use libbpf_rs::{RingBuffer, RingBufferBuilder};
use mtrace_formats::capture::{CaptureWriter, Manifest, ProbeReport, Problem, Target, Window};
use serde_json::json;

use super::load::Loaded;
use super::processes::Processes;
use super::reserve::Reserve;
use super::{Due, Session, Sink, nanoseconds, sleepers};
use crate::accounts::LossMeter;
use crate::cost::CostMeter;
use crate::error::{Error, kernel};
use crate::host::{HostFacts, clock_pair, monotonic_ns};
use crate::leaf::Leaves;
use crate::plan::{self, Plan};
use crate::probes::Probe;
use crate::ring::{Config, SharedMaps};
use crate::sampler::Sampler;
use crate::target::find::{self, ProcessFacts};
use crate::target::launch::{Launched, ResourceLimits};
use crate::{FaultMode, Options, TargetSpec};

/// The inode of the initial pid namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What was asked for, found or prepared.
struct Wanted {
    launched: Option<Launched>,
    running: Vec<ProcessFacts>,
    how: &'static str,
    comm: Option<String>,
    notes: Vec<String>,
}

/// Starts a recording; the target runs when this returns.
pub(super) fn start(options: &Options) -> Result<Session<'_>, Error> {
    let cost = CostMeter::start();
    let limits = ResourceLimits::current();
    let facts = HostFacts::gather();
    let plan = plan::plan(&facts, &options.without, options.faults)?;
    check_pid_namespace()?;
    super::output::check_way(&options.output)?;
    let wanted = find_targets(&options.target, &limits)?;
    raise_limits();
    // A file size limit is then an error like a full disk, and not the recorder's death. A launched command has its
    // default dispositions back already.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let writer = CaptureWriter::create_with(&options.output, &first_manifest(options, &facts, &plan, &wanted))?;
    let started = begin(options, &facts, plan, wanted, writer, cost);
    if started.is_err() {
        // Nothing was recorded, and the name would be taken at the next attempt.
        let _ = std::fs::remove_dir_all(&options.output);
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

fn find_targets(target: &TargetSpec, limits: &ResourceLimits) -> Result<Wanted, Error> {
    let mut wanted = Wanted { launched: None, running: Vec::new(), how: "pid", comm: None, notes: Vec::new() };
    match target {
        TargetSpec::Launch { argv } => {
            wanted.how = "launched";
            wanted.launched = Some(Launched::prepare(argv, limits)?);
        }
        TargetSpec::Pid(pid) => {
            let found = find::by_pid(*pid)?;
            wanted.notes.extend(found.note);
            wanted.running.push(found.facts);
        }
        TargetSpec::Comm(name) => {
            wanted.how = "comm";
            wanted.comm = Some(name.clone());
            wanted.running = find::by_comm(name)?;
        }
    }
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
    let fault_cost = plan.fault_probe().map(|p| crate::calibrate::fault_cost(p, options.faults));
    let attach_begin_ns = monotonic_ns();
    let shared = SharedMaps::create(options.ring_bytes)?;
    let mut processes = Processes::default();
    let next_image = add_targets(&wanted, &shared, &mut processes)?;
    shared.configure(&Config {
        off_cpu_min_ns: nanoseconds(options.off_cpu_min).unsigned_abs(),
        slow_fault_ns: nanoseconds(options.slow_fault).unsigned_abs(),
        io_calls_per_process: options.io_calls_per_process,
        comm: wanted.comm,
        next_image,
    })?;
    let sink = Rc::new(RefCell::new(Sink::new(writer)));
    let ring = open_ring(&shared, &sink)?;
    let (probes, absent) = load_all(plan, options.faults, &shared)?;
    let attached = monotonic_ns();
    wanted.running.iter().for_each(|f| sleepers::note(&probes, f.pid, attached));
    let now = monotonic_ns();
    let mut session = Session {
        options,
        began: Instant::now(),
        sink,
        ring,
        probes,
        losses: LossMeter::new(now),
        sampler: Sampler::new(processes.alive()),
        shared,
        manifest: manifest(options, facts, attach_begin_ns, absent),
        processes,
        leaves: Leaves::default(),
        launched: wanted.launched,
        cost,
        reserve,
        ended: VecDeque::new(),
        due: Due::new(now, options),
    };
    match fault_cost {
        Some(Ok(cost)) => session.cost.fault = Some(cost),
        Some(Err(e)) => session.problem(format!("the cost of a fault on this host was not measured: {e}")),
        None => {}
    }
    wanted.notes.into_iter().for_each(|n| session.problem(n));
    session.reserve.follow(&session.manifest)?;
    session.attach_to_running(&wanted.running);
    session.let_go()?;
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
    let sink = sink.clone();
    let mut builder = RingBufferBuilder::new();
    let take = move |bytes: &[u8]| {
        sink.borrow_mut().take(bytes);
        0
    };
    builder.add(&shared.ring, take).map_err(kernel("open the ring buffer"))?;
    builder.build().map_err(kernel("map the ring buffer"))
}

/// Loads everything first and attaches it then, so that the probes begin as close together as can be.
pub(super) fn load_all(
    plan: Plan,
    faults: FaultMode,
    shared: &SharedMaps,
) -> Result<(Vec<Loaded>, Vec<ProbeReport>), Error> {
    let mut absent = plan.absent;
    let mut probes: Vec<Loaded> = Vec::new();
    let mut refuse = |probe: &'static dyn Probe, e: String| absent.push(plan::absent(probe, e));
    for probe in plan.load {
        match Loaded::load(probe, faults, shared) {
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
    let running = wanted.running.iter().map(|f| f.to_target(String::new()));
    first.targets = launched.chain(running).map(|t| Target { how: wanted.how.to_owned(), ..t }).collect();
    let what = "the recorder was killed before all probes were attached: nothing is recorded of the targets".to_owned();
    first.problems.push(Problem { ts: Some(now), what });
    first
}

fn manifest(options: &Options, facts: &HostFacts, attach_begin_ns: i64, absent: Vec<ProbeReport>) -> Manifest {
    let mut host = facts.host.clone();
    if !options.with_hostname {
        host.hostname = None;
    }
    let knobs = BTreeMap::from([
        ("ring_bytes".to_owned(), json!(options.ring_bytes)),
        ("sample_interval_ns".to_owned(), json!(nanoseconds(options.sample_interval))),
        ("segment_interval_ns".to_owned(), json!(nanoseconds(options.segment_interval))),
        ("faults".to_owned(), json!(options.faults.name())),
        ("slow_fault_ns".to_owned(), json!(nanoseconds(options.slow_fault))),
        ("off_cpu_min_ns".to_owned(), json!(nanoseconds(options.off_cpu_min))),
        ("io_calls_per_process".to_owned(), json!(options.io_calls_per_process)),
        ("duration_ns".to_owned(), json!(options.duration.map(nanoseconds))),
        ("without".to_owned(), json!(options.without)),
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
            self.look_for_go(facts.pid, false);
        }
        self.manifest.window.start_ns = Some(monotonic_ns());
        for facts in running {
            // Read again: threads came and went since it was found. If it is gone, so be it.
            let facts = ProcessFacts::read(facts.pid).unwrap_or_else(|| facts.clone());
            self.processes.attached(&facts, &mut self.sink.borrow_mut());
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
            self.sample(monotonic_ns(), false);
        }
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
        let Some(probe) = self.probes.iter_mut().find(|p| p.wants_go()) else { return };
        for path in named_files(argv) {
            probe.attach_go_ahead(&path);
        }
    }

    /// Without `process_events` nobody told of the exec.
    fn unseen_exec(&mut self, pid: u32) -> Result<(), Error> {
        self.shared.add_target(pid, self.processes.image(pid).unwrap_or(0), false)?;
        if let Some(facts) = ProcessFacts::read(pid) {
            self.processes.attached(&facts, &mut self.sink.borrow_mut());
        }
        self.look_for_go(pid, self.processes.stopped == Some(pid));
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
