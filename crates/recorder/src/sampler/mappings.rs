//! When the mappings of a process are read with what of each is resident, and when they are left alone.
//!
//! A reading walks all page tables, as `smaps_rollup` does. The kernel lets go of mmap_lock between mappings in both, where
//! others wait for it, but not within a large one. What the rollup took tells whether a reading may be tried.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtrace_formats::tables::{SmapsMoment, SmapsRow};

use crate::SmapsMode;
use crate::smaps::{self, Reading};

/// Where the walk of all page tables takes longer, a reading is not begun: that of one mapping may take as long.
const MAX_WALK_NS: i64 = 100_000_000;
/// The longest time in all readings of one tick; those that it does not suffice for are left out.
const PER_TICK_NS: i64 = 500_000_000;
/// Processes named of those that are left out.
const NAMED: usize = 4;

/// The state of all processes.
#[derive(Debug)]
pub(super) struct Mappings {
    mode: SmapsMode,
    /// Rows that were read.
    pub(super) rows: Vec<SmapsRow>,
    /// When those of a process were read last, CLOCK_MONOTONIC ns.
    last: BTreeMap<u32, i64>,
    /// What reading them is expected to take, ns.
    expected: BTreeMap<u32, i64>,
    /// The moment of this tick, if it is one.
    moment: Option<SmapsMoment>,
    /// Time in the readings of this tick.
    spent: i64,
    /// Time in those of programs that had just been executed.
    pub(super) spent_on_programs: i64,
    /// Processes that there was no time for in this tick.
    no_time: usize,
    /// Processes with more mappings than can be read in time.
    too_many: BTreeSet<u32>,
    /// Those that were left out and why, as far as that was not said yet.
    left_out: BTreeMap<u32, String>,
    said: BTreeSet<u32>,
    refused: Option<String>,
}

impl Default for Mappings {
    fn default() -> Self {
        Self::new(SmapsMode::Off)
    }
}

impl Mappings {
    pub(super) fn new(mode: SmapsMode) -> Self {
        Self {
            mode,
            rows: Vec::new(),
            last: BTreeMap::new(),
            expected: BTreeMap::new(),
            moment: None,
            spent: 0,
            spent_on_programs: 0,
            no_time: 0,
            too_many: BTreeSet::new(),
            left_out: BTreeMap::new(),
            said: BTreeSet::new(),
            refused: None,
        }
    }

    /// A process has another address space: that has a begin of its own.
    pub(super) fn new_program(&mut self, pid: u32) {
        self.last.remove(&pid);
        self.expected.remove(&pid);
        self.too_many.remove(&pid);
    }

    /// Reads the mappings of a program that has just been executed.
    pub(super) fn read_program(&mut self, pid: u32, now: i64) {
        if self.mode != SmapsMode::Off {
            self.begin_tick(None);
            self.read(pid, now);
            self.spent_on_programs += self.spent;
        }
    }

    /// A tick begins; `moment` if everything is read in it.
    pub(super) fn begin_tick(&mut self, moment: Option<SmapsMoment>) {
        (self.moment, self.spent, self.no_time) = (moment, 0, 0);
    }

    /// Which of these processes are due, with the time of their last reading; at a moment all, after everything else.
    pub(super) fn due(&mut self, pids: impl Iterator<Item = u32>, now: i64) -> Vec<(i64, u32)> {
        if self.mode == SmapsMode::Off {
            return Vec::new();
        }
        let pids: BTreeSet<u32> = pids.collect();
        for of_dead in [&mut self.last, &mut self.expected] {
            of_dead.retain(|pid, _| pids.contains(pid));
        }
        for of_dead in [&mut self.too_many, &mut self.said] {
            of_dead.retain(|pid| pids.contains(pid));
        }
        let last = |pid| match (self.moment, self.mode, self.last.get(&pid)) {
            (Some(_), ..) => Some((i64::MAX, pid)),
            (None, _, None) => Some((i64::MIN, pid)),
            (None, SmapsMode::Every(interval), Some(last)) => (now
                >= last.saturating_add(i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX)))
            .then_some((*last, pid)),
            (None, ..) => None,
        };
        pids.into_iter().filter_map(last).collect()
    }

    /// Whether it is known what a reading would take.
    pub(super) fn can_tell(&self, pid: u32) -> bool {
        self.expected.contains_key(&pid)
    }

    /// So long was the same walk, without a row for each mapping.
    pub(super) fn rollup_took(&mut self, pid: u32, ns: u64) {
        if self.mode != SmapsMode::Off {
            self.expected.insert(pid, ns.cast_signed());
        }
    }

    /// Reads the mappings of a process, unless that takes too long.
    pub(super) fn read(&mut self, pid: u32, now: i64) {
        let moment = self.moment.unwrap_or(match self.last.get(&pid) {
            None => SmapsMoment::Begin,
            Some(_) => SmapsMoment::Periodic,
        });
        // Tried counts, too: otherwise the same one comes again at each tick.
        self.last.insert(pid, now);
        if self.too_many.contains(&pid) {
            return;
        }
        let expected = self.expected.get(&pid).copied().unwrap_or(0);
        if expected > MAX_WALK_NS {
            let (takes, may) = (expected / 1_000_000, MAX_WALK_NS / 1_000_000);
            let why =
                format!("its page tables take {takes} ms to walk, and its mmap calls are held up for {may} ms at most");
            self.leave_out(pid, why);
            return;
        }
        let left = PER_TICK_NS - self.spent;
        if left <= expected {
            self.no_time += 1;
            return;
        }
        let before = crate::host::monotonic_ns();
        let reading = smaps::take(pid, moment, Duration::from_nanos(left.unsigned_abs()));
        let is_first = self.spent == 0;
        self.spent += crate::host::monotonic_ns() - before;
        match reading {
            Reading::Rows(mut rows) => self.rows.append(&mut rows),
            Reading::TooLong if is_first => {
                self.too_many.insert(pid);
                self.leave_out(pid, format!("it has more than can be read in {} ms", PER_TICK_NS / 1_000_000));
            }
            Reading::TooLong => self.no_time += 1,
            Reading::Gone => {}
            Reading::Refused(e) => {
                self.refused = Some(format!(
                    "/proc/PID/smaps of a target cannot be read ({e}): no resident memory by mapping; run as root or with \
                     CAP_SYS_PTRACE, on a kernel with CONFIG_PROC_PAGE_MONITOR"
                ));
            }
        }
    }

    fn leave_out(&mut self, pid: u32, why: String) {
        if self.said.insert(pid) {
            self.left_out.insert(pid, why);
        }
    }

    /// What was left out and why, in plain words.
    pub(super) fn end_tick(&mut self) -> Vec<String> {
        let mut said: Vec<String> = self.refused.take().into_iter().collect();
        let left_out = std::mem::take(&mut self.left_out);
        let named = left_out.iter().take(NAMED);
        said.extend(named.map(|(pid, why)| format!("the mappings of process {pid} (smaps) were not read: {why}")));
        if left_out.len() > NAMED {
            said.push(format!("nor, for such reasons, were those of {} others", left_out.len() - NAMED));
        }
        if self.no_time > 0 {
            said.push(format!(
                "the mappings of some processes (smaps) were not read, {} at one moment: there are {} ms for all of them",
                self.no_time,
                PER_TICK_NS / 1_000_000
            ));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn pids(due: Vec<(i64, u32)>) -> Vec<u32> {
        due.into_iter().map(|(_, pid)| pid).collect()
    }

    #[test]
    fn each_process_has_a_begin_and_another_one_after_an_exec() {
        let me = std::process::id();
        let mut m = Mappings::new(SmapsMode::Ends);
        assert_eq!(pids(m.due([me].into_iter(), 0)), [me]);
        m.read(me, SECOND);
        assert!(m.rows.len() > 10 && m.rows.iter().all(|r| r.moment == SmapsMoment::Begin));
        assert!(m.due([me].into_iter(), i64::MAX).is_empty());
        m.new_program(me);
        assert_eq!(pids(m.due([me].into_iter(), 0)), [me]);
        m.begin_tick(Some(SmapsMoment::End));
        assert_eq!(m.due([me, 1].into_iter(), 0), [(i64::MAX, 1), (i64::MAX, me)]);
        m.rows.clear();
        m.read(me, 2 * SECOND);
        assert!(m.rows.iter().all(|r| r.moment == SmapsMoment::End));
        assert!(Mappings::new(SmapsMode::Off).due([me].into_iter(), 0).is_empty());
    }

    #[test]
    fn a_time_brings_them_again() {
        let me = std::process::id();
        let mut m = Mappings::new(SmapsMode::Every(Duration::from_secs(10)));
        m.read(me, 0);
        assert!(m.due([me].into_iter(), 9 * SECOND).is_empty());
        assert_eq!(m.due([me].into_iter(), 10 * SECOND), [(0, me)]);
        m.rows.clear();
        m.read(me, 10 * SECOND);
        assert!(m.rows.iter().all(|r| r.moment == SmapsMoment::Periodic));
    }

    #[test]
    fn what_takes_too_long_is_left_alone_and_said_once() {
        let mut m = Mappings::new(SmapsMode::Ends);
        let me = std::process::id();
        m.rollup_took(me, 3 * SECOND.unsigned_abs() / 10);
        m.begin_tick(None);
        m.read(me, 0);
        assert!(m.rows.is_empty());
        let said = m.end_tick();
        assert!(
            said.len() == 1 && said[0].contains(&format!("process {me}")) && said[0].contains("300 ms"),
            "{said:?}"
        );
        m.begin_tick(Some(SmapsMoment::End));
        m.read(me, 1);
        assert_eq!(m.end_tick(), Vec::<String>::new());
        // Smaller now; that it was not is said.
        m.rollup_took(me, 1_000_000);
        m.read(me, 2);
        assert!(!m.rows.is_empty());
    }

    #[test]
    fn many_processes_have_some_time_together() {
        let mut m = Mappings::new(SmapsMode::Ends);
        m.begin_tick(Some(SmapsMoment::End));
        m.spent = PER_TICK_NS;
        for pid in 1..=3 {
            m.rollup_took(pid, 1);
            m.read(pid, 0);
        }
        let said = m.end_tick();
        assert!(said.len() == 1 && said[0].contains("3 at one moment"), "{said:?}");
    }
}
