//! The replay's loop: all events of all processes in order of time.

mod faults;
mod snapshots;

use std::collections::{BTreeMap, HashMap, HashSet};

use mtrace_formats::tables::{MapRow, MemoryCall, MemoryCallKind, ProcessEventKind, SmapsRow};

use super::base::{self, SnapshotRef};
use super::certificate;
use super::files::FileTable;
use super::gaps::Space;
use super::mm::Mm;
use super::resident;
use super::vma::{AddressMap, Perms, unowned};
use super::{CallEffect, FailedCall, ProcessReplay, Release, Replay};
use crate::envelope::EnvelopeBuilder;
use crate::load::{FaultRow, NONE, Shape, Tables};
use crate::model::GapPoint;

/// Points of the gap series.
const POINTS: usize = 500;
/// Points of the timeline's series.
const TIMELINE_POINTS: usize = 400;
/// Mappings and page groups visited before the replay gives up: minutes of work that no real capture needs.
const MAX_WORK: u64 = 2_000_000_000;
/// Rows that are made by cutting runs.
const MAX_CUTS: usize = 4_000_000;
/// The kernel fills the new image before it announces the exec.
const EXEC_PREPARATION_NS: i64 = 1_000_000_000;
/// Faults of that kind looked at; an exec makes a handful.
const MAX_BEFORE_EXEC: u32 = 10_000;

/// What comes first among events of the same nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Process,
    Call,
    Fault,
    Snapshot,
    Resident,
}

type Event = (i64, Class, u32);

struct Process {
    mm: usize,
    replay: ProcessReplay,
    points: Vec<Option<GapPoint>>,
    accessible: EnvelopeBuilder,
}

pub(super) struct Driver<'a> {
    faults: &'a mut Vec<FaultRow>,
    shapes: &'a mut Vec<Shape>,
    calls: &'a [MemoryCall],
    process_events: &'a [mtrace_formats::tables::ProcessEvent],
    maps: &'a [MapRow],
    smaps: &'a [SmapsRow],
    snapshots: HashMap<u32, Vec<SnapshotRef>>,
    /// Start of each program image of a process, in order.
    execs: HashMap<u32, Vec<i64>>,
    calls_by_pid: HashMap<u32, Vec<u32>>,
    checks: Vec<SnapshotRef>,
    files: FileTable,
    space: Space,
    span: (i64, i64),
    mms: Vec<Option<Mm>>,
    /// Processes that use each address space.
    users: Vec<u32>,
    processes: BTreeMap<u32, Process>,
    out: Replay,
    /// Runs are cut up to this many rows; a hostile capture would ask for one per page.
    max_rows: usize,
    work: u64,
    faults_before_exec: u32,
    bases: HashSet<(u32, i64)>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(tables: &'a mut Tables, space: Space, span: (i64, i64)) -> Self {
        let mut execs: HashMap<u32, Vec<i64>> = HashMap::new();
        for e in tables.process_events.iter().filter(|e| e.event == ProcessEventKind::Exec) {
            execs.entry(e.pid).or_default().push(e.ts);
        }
        let mut calls_by_pid: HashMap<u32, Vec<u32>> = HashMap::new();
        for (i, c) in tables.calls.iter().enumerate() {
            calls_by_pid.entry(c.pid).or_default().push(i as u32);
        }
        let snapshots = base::snapshots(&tables.maps);
        let mut checks: Vec<SnapshotRef> = snapshots.values().flatten().cloned().collect();
        checks.sort_by_key(|s| (s.ts_end, s.pid));
        let out = Replay {
            effects: vec![CallEffect::default(); tables.calls.len()],
            smaps_owners: vec![NONE; tables.smaps.len()],
            ..Replay::default()
        };
        let max_rows = tables.faults.len().saturating_add(MAX_CUTS);
        Self {
            files: FileTable::new(&tables.files),
            faults: &mut tables.faults,
            shapes: &mut tables.shapes,
            calls: &tables.calls,
            process_events: &tables.process_events,
            maps: &tables.maps,
            smaps: &tables.smaps,
            snapshots,
            execs,
            calls_by_pid,
            checks,
            space,
            span,
            mms: Vec::new(),
            users: Vec::new(),
            processes: BTreeMap::new(),
            out,
            max_rows,
            work: 0,
            faults_before_exec: 0,
            bases: HashSet::new(),
        }
    }

    pub(super) fn run(mut self) -> Replay {
        for (ts, class, i) in self.events() {
            match class {
                Class::Process => self.process_event(i as usize),
                Class::Call => self.call(ts, i),
                Class::Fault => self.fault(i as usize),
                Class::Snapshot => self.check(i as usize),
                Class::Resident => self.resident(i as usize),
            }
            if self.work > MAX_WORK {
                self.out.problems.push(format!(
                    "the replay stopped at {ts} ns after {MAX_WORK} steps: the capture has more mappings and changes than a real program makes"
                ));
                break;
            }
        }
        self.finish()
    }

    fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::with_capacity(self.faults.len() + self.calls.len());
        let number = |i: usize| i as u32;
        events.extend(self.process_events.iter().enumerate().map(|(i, e)| (e.ts, Class::Process, number(i))));
        events.extend(self.calls.iter().enumerate().map(|(i, c)| (effect_ts(c), Class::Call, number(i))));
        events.extend(self.faults.iter().enumerate().map(|(i, f)| (f.ts, Class::Fault, number(i))));
        events.extend(self.checks.iter().enumerate().map(|(i, s)| (s.ts_end, Class::Snapshot, number(i))));
        events.extend(resident::readings(self.smaps).map(|(ts, first)| (ts, Class::Resident, number(first))));
        // Sorted runs: a merge.
        events.sort();
        events
    }

    fn process_event(&mut self, i: usize) {
        let e = &self.process_events[i];
        let (pid, parent) = (e.pid, e.parent);
        match e.event {
            ProcessEventKind::Exec => {
                let base = self.image(pid, e.ts);
                self.assign(pid, base);
                self.observe(pid, e.ts);
            }
            ProcessEventKind::Attach => {
                self.ensure(pid);
            }
            ProcessEventKind::Fork | ProcessEventKind::Vfork => self.fork(pid, parent, e.ts, e.event),
            ProcessEventKind::Exit => self.exit(pid),
            ProcessEventKind::Thread
            | ProcessEventKind::Name
            | ProcessEventKind::Cgroup
            | ProcessEventKind::ThreadExit => {}
        }
    }

    fn fork(&mut self, pid: u32, parent: Option<u32>, ts: i64, event: ProcessEventKind) {
        let Some(parent) = parent.filter(|p| self.is_known(*p)) else {
            self.ensure(pid);
            return;
        };
        let mm = self.ensure(parent);
        let has_base = self.processes.get(&parent).is_some_and(|p| p.replay.has_base);
        let mm = match self.mms.get(mm) {
            Some(Some(m)) if event == ProcessEventKind::Fork => {
                self.work += m.map.iter().count() as u64 + m.pages.size();
                let mut copy = m.clone();
                copy.map.work = 0;
                copy.pages.work = 0;
                self.add_mm(copy)
            }
            _ => mm,
        };
        self.assign(pid, (mm, has_base));
        self.observe(pid, ts);
    }

    fn is_known(&self, pid: u32) -> bool {
        self.processes.contains_key(&pid) || self.snapshots.contains_key(&pid)
    }

    fn exit(&mut self, pid: u32) {
        self.close(pid);
    }

    /// One process less uses an address space; the last one frees it.
    fn release_mm(&mut self, mm: usize) {
        if let (Some(users), Some(slot)) = (self.users.get_mut(mm), self.mms.get_mut(mm)) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                *slot = None;
            }
        }
    }

    /// The address space of a process that was running before its first event.
    fn ensure(&mut self, pid: u32) -> usize {
        if let Some(p) = self.processes.get(&pid).filter(|p| p.mm != usize::MAX) {
            return p.mm;
        }
        let base = self.image(pid, i64::MIN);
        self.assign(pid, base);
        base.0
    }

    fn assign(&mut self, pid: u32, (mm, has_base): (usize, bool)) {
        let (start, end) = self.span;
        let p = self.processes.entry(pid).or_insert_with(|| Process {
            mm: usize::MAX,
            replay: ProcessReplay::default(),
            points: vec![None; POINTS],
            accessible: EnvelopeBuilder::new(start, end, TIMELINE_POINTS),
        });
        let old = std::mem::replace(&mut p.mm, mm);
        p.replay.has_base = has_base;
        self.users[mm] += 1;
        self.release_mm(old);
    }

    /// The snapshots of the program image that starts at `start` (`i64::MIN`: the first one seen).
    fn snapshots_of_image(&self, pid: u32, start: i64) -> (Vec<SnapshotRef>, i64) {
        let execs = self.execs.get(&pid).map_or(&[][..], Vec::as_slice);
        let end = execs.iter().copied().find(|t| *t > start).unwrap_or(i64::MAX);
        let all = self.snapshots.get(&pid).map_or(&[][..], Vec::as_slice);
        (all.iter().filter(|s| s.ts >= start && s.ts < end).cloned().collect(), end)
    }

    /// A new address space for an image: its base is a snapshot, less what calls made before it was taken.
    fn image(&mut self, pid: u32, start: i64) -> (usize, bool) {
        let mut mm = Mm::new(self.space);
        let (snapshots, _) = self.snapshots_of_image(pid, start);
        let chosen = base::choose(&snapshots).map(|i| snapshots[i].clone());
        if let Some(s) = &chosen {
            let made = if s.is_exact() { Vec::new() } else { self.made_between(pid, start, s.ts_end) };
            let born = if start == i64::MIN { self.span.0 } else { start };
            self.fill(&mut mm.map, s, &made, born);
            self.bases.insert((pid, s.ts));
        }
        (self.add_mm(mm), chosen.is_some())
    }

    fn add_mm(&mut self, mm: Mm) -> usize {
        self.mms.push(Some(mm));
        self.users.push(0);
        self.mms.len() - 1
    }

    fn fill(&mut self, map: &mut AddressMap, s: &SnapshotRef, made: &[(u64, u64)], born: i64) {
        let maps = self.maps;
        let page = 1_u64 << self.space.page_shift;
        for row in &maps[s.rows.clone()] {
            // Anything else is not a line of a real file.
            let is_page_range = row.start_addr < row.end_addr && (row.start_addr | row.end_addr).is_multiple_of(page);
            if !is_page_range || certificate::is_not_of_the_process(row) {
                continue;
            }
            let backing = self.files.of_map(row);
            let perms = Perms::from_letters(&row.perms);
            for (from, to) in base::without(row.start_addr, row.end_addr, made) {
                let offset =
                    if backing.has_offset() { row.offset_bytes.wrapping_add(from - row.start_addr) } else { 0 };
                map.insert(unowned(from, to, perms, backing, offset, born));
            }
        }
    }

    fn made_between(&self, pid: u32, start: i64, end: i64) -> Vec<(u64, u64)> {
        let calls = self.calls_by_pid.get(&pid).map_or(&[][..], Vec::as_slice);
        let calls = calls.iter().map(|i| &self.calls[*i as usize]);
        base::made_by_calls(calls.filter(|c| c.ts >= start && c.ts <= end), 1 << self.space.page_shift)
    }

    fn call(&mut self, ts: i64, i: u32) {
        let calls = self.calls;
        let c = &calls[i as usize];
        let at = self.ensure(c.pid);
        let Some(mm) = self.mms.get_mut(at).and_then(Option::as_mut) else { return };
        let brk_growth = mm.brk_growth(c).filter(|_| c.call == MemoryCallKind::Brk && c.result != Some(c.addr));
        if c.errno.is_some() || brk_growth.is_some() {
            self.out.failed.push(FailedCall {
                call: i,
                vmas: mm.map.vmas(),
                mapped_bytes: mm.map.mapped_bytes(),
                data_bytes: mm.map.data_bytes(),
                largest_gap_bytes: mm.map.gaps().largest(),
                brk_growth_bytes: brk_growth,
            });
        }
        let number = self.out.releases.len() as u32;
        let effect = mm.apply(c, number, &self.files);
        self.work += std::mem::take(&mut mm.map.work) + std::mem::take(&mut mm.pages.work);
        if effect.released_pages > 0 {
            self.out.releases.push(Release { call: i, pages: effect.released_pages });
        }
        self.out.effects[i as usize] = effect;
        self.observe(c.pid, ts);
    }

    /// Notes the state of a process after a change.
    fn observe(&mut self, pid: u32, ts: i64) {
        let Some(p) = self.processes.get_mut(&pid) else { return };
        let Some(mm) = self.mms.get(p.mm).and_then(Option::as_ref) else { return };
        let point = GapPoint {
            ts,
            largest_bytes: mm.map.gaps().largest(),
            classes: mm.map.gaps().classes(),
            vmas: mm.map.vmas(),
            mapped_bytes: mm.map.mapped_bytes(),
            accessible_bytes: mm.map.accessible_bytes(),
        };
        p.replay.max_vmas = p.replay.max_vmas.max(point.vmas);
        p.accessible.set(ts, point.accessible_bytes as f64);
        let i = stretch(self.span, ts);
        // The smallest largest gap of a stretch is the incident; among equals the most VMAs.
        let worse = |old: &GapPoint| {
            (point.largest_bytes, std::cmp::Reverse(point.vmas)) <= (old.largest_bytes, std::cmp::Reverse(old.vmas))
        };
        if p.points[i].as_ref().is_none_or(worse) {
            p.points[i] = Some(point);
        }
    }

    /// Keeps what is asked about the end of a process.
    fn close(&mut self, pid: u32) {
        let Some(p) = self.processes.get_mut(&pid) else { return };
        let Some(mm) = self.mms.get(p.mm).and_then(Option::as_ref) else { return };
        p.replay.histogram = mm.map.gaps().histogram();
        p.replay.counts = mm.map.counts;
        p.replay.live.clear();
        for v in mm.map.iter().filter(|v| v.perms.is_accessible()) {
            *p.replay.live.entry(v.owner).or_insert(0) += v.bytes();
        }
        let mm = std::mem::replace(&mut p.mm, usize::MAX);
        self.release_mm(mm);
    }

    fn finish(mut self) -> Replay {
        let pids: Vec<u32> = self.processes.keys().copied().collect();
        for pid in pids {
            self.close(pid);
        }
        for (pid, p) in self.processes {
            let mut replay = p.replay;
            replay.points = p.points.into_iter().flatten().collect();
            replay.accessible = p.accessible.finish(self.span.1);
            self.out.processes.insert(pid, replay);
        }
        if self.faults.len() >= self.max_rows {
            self.out.problems.push(format!(
                "runs of faults were cut {MAX_CUTS} times where the mapping changes, and not further: some are charged to the mapping of their first pages"
            ));
        }
        // Pieces of runs were put at the end.
        self.faults.sort_by_key(|f| f.ts);
        self.out.names = self.files.into_names();
        self.out
    }
}

/// When a call is applied; see the module's doc.
fn effect_ts(c: &MemoryCall) -> i64 {
    match c.call {
        MemoryCallKind::Munmap | MemoryCallKind::Madvise if c.errno.is_none() => c.ts,
        _ => c.ts + c.dur,
    }
}

fn stretch((start, end): (i64, i64), ts: i64) -> usize {
    let width = ((end - start).max(1) as usize).div_ceil(POINTS);
    ((ts - start).max(0) as usize / width).min(POINTS - 1)
}
