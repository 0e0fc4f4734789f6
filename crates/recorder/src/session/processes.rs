//! The targets as user space knows them: from `process_events` records, /proc and snapshots to rows and the manifest.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

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
use crate::target::find::ProcessFacts;

/// Targets listed in the manifest; a script that starts more has the rest in `process_events` only.
const MAX_LISTED: usize = 1000;

/// A process that is or was a target.
#[derive(Debug, Clone, Copy)]
struct Process {
    image: u32,
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
    pub(crate) images: Images,
    /// Runtimes that were found, by image.
    runtimes: BTreeSet<(u32, RuntimeKind)>,
    /// Processes that ended before their maps could be read, so that their stacks have no names.
    pub(crate) missed_snapshots: u64,
    /// A process that is stopped at its exec: its snapshot is exact.
    pub(crate) stopped: Option<u32>,
}

impl Processes {
    /// A process that will be or is recorded, before anything is known of it.
    pub(crate) fn add(&mut self, pid: u32, image: u32, how: String) {
        let listed = (self.listed.len() < MAX_LISTED).then_some(self.listed.len());
        if listed.is_some() {
            self.listed.push(Target { pid, how, ..Target::default() });
        }
        self.processes.insert(pid, Process { image, listed, alive: true, ended: 0 });
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
        let row = |event, tid, comm: &str| ProcessEvent {
            ts,
            pid: facts.pid,
            tid,
            event,
            parent: None,
            comm: Some(comm.to_owned()),
            path: None,
            status: None,
        };
        sink.push_added(ProcessEvent { path, ..row(ProcessEventKind::Attach, facts.pid, &facts.comm) });
        for (tid, name) in facts.threads.iter().filter(|(tid, _)| *tid != facts.pid) {
            sink.push_added(row(ProcessEventKind::Name, *tid, name));
        }
        sockets::of_process(facts.pid).into_iter().for_each(|r| sink.push(r));
        self.snapshot(facts.pid, SnapshotReason::Attach, sink);
    }

    /// Writes the row of a `process_events` record and follows what it says.
    pub(crate) fn live(&mut self, life: Life, sink: &mut Sink, todo: &mut Vec<Todo>) {
        let row = row(&life);
        match life.kind {
            LifeKind::Exec => {
                self.exec(&life, row, sink, todo);
                return;
            }
            LifeKind::Fork | LifeKind::Vfork => self.forked(&life, sink, todo),
            LifeKind::Name if life.image != 0 && !self.is_alive(life.pid) => {
                self.add(life.pid, life.image, "comm".to_owned());
                if let Some(facts) = ProcessFacts::read(life.pid) {
                    self.attached(&facts, sink);
                }
                todo.extend([
                    Todo::Joined { pid: life.pid, ts: life.ts },
                    Todo::Sample(life.pid),
                    Todo::NewProgram { pid: life.pid, how: Came::Running },
                ]);
            }
            LifeKind::Exit => {
                self.ended(life.pid, Some(life.status));
                todo.push(Todo::Ended(life.pid));
            }
            LifeKind::Name | LifeKind::Thread | LifeKind::ThreadExit => {}
        }
        sink.push(row);
    }

    fn exec(&mut self, life: &Life, row: ProcessEvent, sink: &mut Sink, todo: &mut Vec<Todo>) {
        if !self.is_alive(life.pid) {
            self.add(life.pid, life.image, "comm".to_owned());
            todo.push(Todo::Sample(life.pid));
        }
        if let Some(p) = self.processes.get_mut(&life.pid) {
            p.image = life.image;
        }
        let stopped = self.stopped == Some(life.pid);
        // The link is the true path; what execve was given may be relative, or a script.
        let exe = std::fs::read_link(format!("/proc/{}/exe", life.pid)).ok();
        let path = exe.map(|p| p.to_string_lossy().into_owned()).or_else(|| life.path.clone());
        sink.push(ProcessEvent { path: path.clone(), ..row });
        sink.has_stw_reason.remove(&life.pid);
        if !self.snapshot(life.pid, SnapshotReason::Exec, sink)
            && let (Some(exe), Some(path)) = (life.program, &path)
        {
            self.images.add_executable(life.image, path, exe);
        }
        match ProcessFacts::read(life.pid) {
            Some(facts) => self.describe(&facts),
            None => {
                if let Some(t) = self.entry(life.pid) {
                    (t.comm, t.exe) = (Some(life.comm.clone()), path);
                }
            }
        }
        let how = if stopped { Came::Stopped } else { Came::Exec };
        todo.push(Todo::NewProgram { pid: life.pid, how });
    }

    fn forked(&mut self, life: &Life, sink: &mut Sink, todo: &mut Vec<Todo>) {
        let parent = self.processes.get(&life.parent).map(|p| p.image);
        self.add(life.pid, life.image, format!("child of {}", life.parent));
        if let Some(parent) = parent {
            self.images.inherit(life.image, parent);
        }
        if sink.has_stw_reason.contains(&life.parent) {
            sink.has_stw_reason.insert(life.pid);
        }
        if let Some(t) = self.entry(life.pid) {
            t.comm = Some(life.comm.clone());
        }
        todo.push(Todo::Sample(life.pid));
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
        let exit_status = t.exit_status;
        *t = facts.to_target(how);
        t.exit_status = exit_status;
        t.build_id = build_id_hex(Path::new(&format!("/proc/{}/exe", facts.pid)));
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
