//! The targets as user space knows them: from `process_events` records, /proc and snapshots to rows and the manifest.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use mtrace_formats::capture::Target;
use mtrace_formats::tables::{ProcessEvent, ProcessEventKind, RuntimeKind, SnapshotReason};

use super::files::Files;
use super::images::Images;
use super::sink::Sink;
use crate::host::monotonic_ns;
use crate::probes::{Life, LifeKind, NewCode};
use crate::snapshots;
use crate::sockets;
use crate::symbols::build_id_hex;
use crate::target::find::{self, ProcessFacts};
use crate::target::group;

/// Targets listed in the manifest; a script that starts more has the rest in `process_events` only.
pub(super) const MAX_LISTED: usize = 1000;

/// A process that is or was a target.
#[derive(Debug, Clone)]
struct Process {
    image: u32,
    /// Name of its cgroup, shared with its children.
    cgroup: Option<Rc<str>>,
    /// Its entry in the list for the manifest.
    listed: Option<usize>,
    alive: bool,
    /// When it ended, CLOCK_MONOTONIC ns; 0 while it lives.
    ended: i64,
}

/// How a program came to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// It is stopped at its exec.
    Stopped,
    /// It has exec'd and runs on.
    Exec,
    /// It runs already.
    Running,
}

/// What the session has to do about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Todo {
    /// It has a new executable: look which runtime it has.
    NewProgram { pid: u32, how: Came },
    /// It is new: sample it.
    Sample(u32),
    /// It ran before it became a target at this time: some of its threads sleep.
    Joined { pid: u32, ts: i64 },
    /// It ended: take it out of the kernel's map.
    Ended(u32),
}

/// All targets.
#[derive(Default)]
pub(crate) struct Processes {
    processes: HashMap<u32, Process>,
    listed: Vec<Target>,
    /// How those become targets that are no children of targets.
    how: &'static str,
    pub(crate) images: Images,
    /// Runtimes that were found, by image.
    runtimes: BTreeSet<(u32, RuntimeKind)>,
    /// Processes that ended before their maps could be read, so that their stacks have no names.
    pub(crate) missed_snapshots: u64,
    /// A process that is stopped at its exec: its snapshot is exact.
    pub(crate) stopped: Option<u32>,
}

impl Processes {
    /// None yet; `how` is that of those that will come by themselves.
    pub(crate) fn new(how: &'static str) -> Self {
        Self { how, ..Self::default() }
    }

    /// A process that will be or is recorded, before anything is known of it.
    pub(crate) fn add(&mut self, pid: u32, image: u32, how: String) {
        let listed = (self.listed.len() < MAX_LISTED).then_some(self.listed.len());
        if listed.is_some() {
            self.listed.push(Target { pid, how, ..Target::default() });
        }
        self.processes.insert(pid, Process { image, listed, cgroup: None, alive: true, ended: 0 });
    }

    /// A process that was running already: its rows at attach.
    pub(crate) fn attached(&mut self, facts: &ProcessFacts, sink: &mut Sink) {
        self.describe(facts);
        self.base(facts, sink);
    }

    /// What a recording that reaches this process now has to know of it.
    pub(crate) fn base(&mut self, facts: &ProcessFacts, sink: &mut Sink) {
        let ts = monotonic_ns();
        let path = facts.exe.as_ref().map(|p| p.to_string_lossy().into_owned());
        let row = |event, tid, ns_tid, comm: &str| ProcessEvent {
            ts,
            pid: facts.pid,
            tid,
            event,
            parent: None,
            comm: Some(comm.to_owned()),
            path: None,
            ns_pid: facts.ns_pid,
            ns_tid,
            cgroup: None,
            status: None,
        };
        let attach = row(ProcessEventKind::Attach, facts.pid, facts.ns_pid, &facts.comm);
        sink.push_added(ProcessEvent { path, cgroup: facts.cgroup_name.clone(), ..attach });
        for (tid, name) in facts.threads.iter().filter(|(tid, _)| *tid != facts.pid) {
            let inside = || find::ns_pid(&format!("/proc/{}/task/{tid}/status", facts.pid));
            let ns_tid = if facts.ns_pid == Some(facts.pid) { Some(*tid) } else { inside() };
            sink.push_added(row(ProcessEventKind::Name, *tid, ns_tid, name));
        }
        sockets::of_process(facts.pid).into_iter().for_each(|r| sink.push(r));
        self.set_cgroup(facts.pid, facts.cgroup_name.as_deref());
        self.snapshot(facts.pid, SnapshotReason::Attach, sink);
    }

    /// Writes the row of a `process_events` record and follows what it says.
    pub(crate) fn live(&mut self, life: Life, sink: &mut Sink, todo: &mut Vec<Todo>) {
        let mut row = row(&life);
        match life.kind {
            LifeKind::Exec => {
                self.exec(&life, row, sink, todo);
                return;
            }
            LifeKind::Fork | LifeKind::Vfork => {
                self.forked(&life, sink, todo);
                row.cgroup = self.cgroup(life.pid);
            }
            LifeKind::Name | LifeKind::Cgroup if life.image != 0 && !self.is_alive(life.pid) => {
                self.joined(&life, sink, todo);
            }
            LifeKind::Cgroup if life.image == 0 => self.set_cgroup(life.pid, life.path.as_deref()),
            LifeKind::Exit => {
                self.ended(life.pid, Some(life.status));
                todo.push(Todo::Ended(life.pid));
            }
            LifeKind::Name | LifeKind::Thread | LifeKind::ThreadExit | LifeKind::Cgroup => {}
        }
        if life.kind == LifeKind::Cgroup {
            row.cgroup = self.cgroup(life.pid).or(life.path);
        }
        sink.push(row);
    }

    /// A process that ran before became a target: it took the name, or was moved into the group.
    fn joined(&mut self, life: &Life, sink: &mut Sink, todo: &mut Vec<Todo>) {
        self.add(life.pid, life.image, self.how.to_owned());
        match ProcessFacts::read(life.pid) {
            Some(facts) => self.attached(&facts, sink),
            None => self.describe_gone(life, None),
        }
        if life.kind == LifeKind::Cgroup && !life.other_cgroup {
            self.set_cgroup(life.pid, life.path.as_deref());
        }
        todo.extend([
            Todo::Joined { pid: life.pid, ts: life.ts },
            Todo::Sample(life.pid),
            Todo::NewProgram { pid: life.pid, how: Came::Running },
        ]);
    }

    fn exec(&mut self, life: &Life, row: ProcessEvent, sink: &mut Sink, todo: &mut Vec<Todo>) {
        if !self.is_alive(life.pid) {
            self.add(life.pid, life.image, self.how.to_owned());
            todo.push(Todo::Sample(life.pid));
        }
        if self.cgroup(life.pid).is_none() {
            self.set_cgroup(life.pid, group::name_of(life.pid).as_deref());
        }
        if let Some(p) = self.processes.get_mut(&life.pid) {
            let old = std::mem::replace(&mut p.image, life.image);
            if old != life.image && !sink.stacks.use_image(old) {
                self.images.forget(old);
            }
        }
        let stopped = self.stopped == Some(life.pid);
        // The link is the true path; what execve was given may be relative, or a script.
        let exe = std::fs::read_link(format!("/proc/{}/exe", life.pid)).ok();
        let path = exe.map(|p| p.to_string_lossy().into_owned()).or_else(|| life.path.clone());
        sink.push(ProcessEvent { path: path.clone(), cgroup: self.cgroup(life.pid), ..row });
        sink.has_stw_reason.remove(&life.pid);
        if !self.snapshot(life.pid, SnapshotReason::Exec, sink)
            && let (Some(exe), Some(path)) = (life.program, &path)
        {
            self.images.add_executable(life.image, path, exe);
        }
        // Who is not listed needs no description: a host that executes all the time is costly enough.
        if self.entry(life.pid).is_some() {
            match ProcessFacts::read(life.pid) {
                Some(facts) => self.describe(&facts),
                None => self.describe_gone(life, path),
            }
        }
        let how = if stopped { Came::Stopped } else { Came::Exec };
        todo.push(Todo::NewProgram { pid: life.pid, how });
    }

    fn forked(&mut self, life: &Life, sink: &mut Sink, todo: &mut Vec<Todo>) {
        let parent = self.processes.get(&life.parent).map(|p| (p.image, p.cgroup.clone()));
        let how = if parent.is_some() { format!("child of {}", life.parent) } else { self.how.to_owned() };
        self.add(life.pid, life.image, how);
        if let Some((image, _)) = parent {
            self.images.inherit(life.image, image);
        }
        match parent.and_then(|(_, cgroup)| cgroup).filter(|_| !life.other_cgroup) {
            Some(cgroup) => self.set_shared_cgroup(life.pid, Some(cgroup)),
            None => self.set_cgroup(life.pid, group::name_of(life.pid).as_deref()),
        }
        if sink.has_stw_reason.contains(&life.parent) {
            sink.has_stw_reason.insert(life.pid);
        }
        if let Some(t) = self.entry(life.pid) {
            t.comm = Some(life.comm.clone());
            t.ns_pid = Some(life.ns_pid);
        }
        todo.push(Todo::Sample(life.pid));
    }

    /// Name of a process's cgroup, as far as it is known.
    fn cgroup(&self, pid: u32) -> Option<String> {
        self.processes.get(&pid)?.cgroup.as_deref().map(str::to_owned)
    }

    fn set_cgroup(&mut self, pid: u32, name: Option<&str>) {
        self.set_shared_cgroup(pid, name.map(Rc::from));
    }

    fn set_shared_cgroup(&mut self, pid: u32, name: Option<Rc<str>>) {
        if let Some(t) = self.entry(pid) {
            t.cgroup = name.as_deref().map(str::to_owned);
        }
        if let Some(p) = self.processes.get_mut(&pid) {
            p.cgroup = name;
        }
    }

    /// Takes a process that ended out, unless the manifest lists it; `image` was its last one.
    pub(crate) fn forget(&mut self, pid: u32, image: u32, sink: &mut Sink) {
        if !sink.stacks.use_image(image) {
            self.images.forget(image);
        }
        let same = self.processes.get(&pid).is_some_and(|p| p.image == image && !p.alive);
        if same && self.entry(pid).is_none() {
            self.processes.remove(&pid);
            sink.has_stw_reason.remove(&pid);
        }
    }

    /// Writes the maps of a process; false if it has none any more.
    pub(crate) fn snapshot(&mut self, pid: u32, reason: SnapshotReason, sink: &mut Sink) -> bool {
        let rows = if self.stopped == Some(pid) { snapshots::take_stopped(pid) } else { snapshots::take(pid, reason) };
        let Some(rows) = rows else {
            if reason != SnapshotReason::End {
                self.missed_snapshots += 1;
            }
            return false;
        };
        if let Some(p) = self.processes.get(&pid) {
            self.images.snapshot(p.image, pid, &rows);
        }
        rows.into_iter().for_each(|r| sink.push(r));
        true
    }

    /// Code that was mapped since: reads the maps again, for the symboliser only.
    pub(crate) fn new_code(&mut self, code: Vec<NewCode>, files: &Files) {
        let mut pids: Vec<u32> = code.iter().map(|c| c.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        for pid in pids {
            let Some(image) = self.processes.get(&pid).map(|p| p.image) else { continue };
            match snapshots::take(pid, SnapshotReason::Attach) {
                Some(rows) => self.images.snapshot(image, pid, &rows),
                None => {
                    let of_pid = code.iter().filter(|c| c.pid == pid);
                    of_pid.for_each(|c| self.images.add(image, c, files.name_of(c.dev, c.inode)));
                }
            }
        }
    }

    /// Puts what /proc says into the manifest's entry.
    fn describe(&mut self, facts: &ProcessFacts) {
        let Some(t) = self.entry(facts.pid) else { return };
        let how = std::mem::take(&mut t.how);
        let (exit_status, cgroup) = (t.exit_status, t.cgroup.take());
        *t = facts.to_target(how);
        // What the kernel told is exact; /proc is read later.
        (t.exit_status, t.cgroup) = (exit_status, cgroup.or(t.cgroup.take()));
        t.build_id = build_id_hex(Path::new(&format!("/proc/{}/exe", facts.pid)));
    }

    /// The same for one that is gone already.
    fn describe_gone(&mut self, life: &Life, exe: Option<String>) {
        let cgroup = self.cgroup(life.pid);
        if let Some(t) = self.entry(life.pid) {
            (t.comm, t.exe, t.ns_pid, t.cgroup) = (Some(life.comm.clone()), exe, Some(life.ns_pid), cgroup);
        }
    }

    /// The manifest's entry of a process.
    pub(crate) fn entry(&mut self, pid: u32) -> Option<&mut Target> {
        self.listed.get_mut(self.processes.get(&pid)?.listed?)
    }

    pub(crate) fn ended(&mut self, pid: u32, status: Option<i32>) {
        if let Some(p) = self.processes.get_mut(&pid) {
            p.alive = false;
            p.ended = monotonic_ns();
        }
        if let Some(t) = self.entry(pid) {
            t.exit_status = status.or(t.exit_status);
        }
    }

    pub(crate) fn is_alive(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|p| p.alive)
    }

    /// True if any is alive.
    pub(crate) fn any_alive(&self) -> bool {
        self.processes.values().any(|p| p.alive)
    }

    /// Image of a process, dead or alive.
    pub(crate) fn image(&self, pid: u32) -> Option<u32> {
        self.processes.get(&pid).map(|p| p.image)
    }

    /// True once for each runtime of each program of a process.
    pub(crate) fn is_new_runtime(&mut self, pid: u32, kind: RuntimeKind) -> bool {
        self.processes.get(&pid).is_some_and(|p| self.runtimes.insert((p.image, kind)))
    }

    /// The living ones, in ascending order.
    pub(crate) fn alive(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.processes.iter().filter(|(_, p)| p.alive).map(|(pid, _)| *pid).collect();
        pids.sort_unstable();
        pids
    }

    /// Images of the living.
    pub(crate) fn images_alive(&self) -> HashSet<u32> {
        self.processes.values().filter(|p| p.alive).map(|p| p.image).collect()
    }

    /// Forgets processes that ended before this time, where there are many: for a recording that knows no past.
    pub(crate) fn forget_dead(&mut self, before: i64, roomy: usize) {
        if self.processes.len() <= roomy && self.listed.len() < MAX_LISTED / 2 {
            return;
        }
        self.processes.retain(|_, p| p.alive || p.ended >= before);
        let mut listed = Vec::new();
        for p in self.processes.values_mut() {
            p.listed = p.listed.and_then(|i| self.listed.get(i)).map(|t| {
                listed.push(t.clone());
                listed.len() - 1
            });
        }
        self.listed = listed;
    }

    pub(crate) fn listed(&self) -> &[Target] {
        &self.listed
    }
}

/// Processes that have mapped a library of this name.
pub(crate) fn with_library(code: &[NewCode], files: &Files, name: &str) -> BTreeSet<u32> {
    code.iter().filter(|c| files.name_of(c.dev, c.inode) == Some(name)).map(|c| c.pid).collect()
}

fn row(life: &Life) -> ProcessEvent {
    let event = match life.kind {
        LifeKind::Exec => ProcessEventKind::Exec,
        LifeKind::Fork => ProcessEventKind::Fork,
        LifeKind::Vfork => ProcessEventKind::Vfork,
        LifeKind::Thread => ProcessEventKind::Thread,
        LifeKind::Name => ProcessEventKind::Name,
        LifeKind::ThreadExit => ProcessEventKind::ThreadExit,
        LifeKind::Exit => ProcessEventKind::Exit,
        LifeKind::Cgroup => ProcessEventKind::Cgroup,
    };
    let has_parent = matches!(life.kind, LifeKind::Fork | LifeKind::Vfork | LifeKind::Thread);
    ProcessEvent {
        ts: life.ts,
        pid: life.pid,
        tid: life.tid,
        event,
        parent: has_parent.then_some(life.parent),
        comm: Some(life.comm.clone()),
        path: None,
        ns_pid: Some(life.ns_pid),
        ns_tid: Some(life.ns_tid),
        cgroup: None,
        status: (life.kind == LifeKind::Exit).then_some(life.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_forgotten_when_they_are_many_and_the_living_keep_their_entries() {
        let mut p = Processes::default();
        (1..=10).for_each(|pid| p.add(pid, pid, format!("how {pid}")));
        (1..=8).for_each(|pid| p.ended(pid, Some(0)));
        p.forget_dead(i64::MAX, 100);
        assert_eq!(p.listed().len(), 10);
        p.forget_dead(0, 5);
        assert_eq!(p.listed().len(), 10, "they ended within the window");
        p.forget_dead(i64::MAX, 5);
        assert_eq!((p.listed().len(), p.alive()), (2, vec![9, 10]));
        assert_eq!(p.entry(10).map(|t| t.how.clone()).as_deref(), Some("how 10"));
        assert!(p.entry(1).is_none());
        assert_eq!(p.images_alive(), HashSet::from([9, 10]));
    }
}
