//! Numbers read periodically from /proc and cgroup files: rows of `samples`.
//!
//! Two speeds. Every tick: `statm`, `stat`, the counters of the cgroup, PSI, `meminfo`; every second at most `vmstat` and
//! `buddyinfo`, which take the kernel longer. Rarely: `smaps_rollup`, which
//! walks the page tables under mmap_lock and so stalls the target's mmap calls, and the cgroup's `memory.stat`, which
//! makes the kernel gather per-CPU counters, and `smaps` (rows of a table of its own, see `sampler/mappings.rs`). The rare
//! ones share one [`Budget`]: each reading is timed, and the next one
//! waits until all of them together take at most 1 % of the time.
//!
//! What is absent writes no row; a limit of "max" is a row without a value.

mod budget;
mod cgroup;
mod mappings;
mod parse;
mod vm;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mtrace_formats::tables::{Sample, SampleSource, SmapsMoment, SmapsRow};
use procfs_core::FromRead as _;
use procfs_core::process::Stat;

pub use budget::SamplerCost;
use budget::{Budget, RARE_INTERVAL_NS, RARE_SHARE};
pub use cgroup::CgroupPaths;
pub(crate) use cgroup::below;
pub(crate) use parse::{Mount, mountinfo, parse_kb_lines};

use crate::SmapsMode;
use crate::host::{monotonic_ns, page_bytes};
use mappings::Mappings;
use parse::pressure_totals;

/// The essentials of /proc/meminfo: what pressure, page cache, anonymous memory and commit accounting need.
const MEMINFO: &[&str] = &[
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapCached",
    "Active",
    "Inactive",
    "SwapTotal",
    "SwapFree",
    "Dirty",
    "Writeback",
    "AnonPages",
    "Mapped",
    "Shmem",
    "Slab",
    "SReclaimable",
    "PageTables",
    "CommitLimit",
    "Committed_AS",
    "AnonHugePages",
];

/// Processes sampled in a tick. Of more, each has its turn: a whole host must not cost more than its targets are worth.
const MAX_PER_TICK: usize = 200;

/// Reads /proc/PID/stat with procfs-core; `None` if the process is gone.
pub(crate) fn read_stat(pid: u32) -> Option<Stat> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // comm may hold any bytes; the parser wants UTF-8.
    Stat::from_read(String::from_utf8_lossy(&bytes).as_bytes()).ok()
}

/// Something that is read rarely.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Rare {
    Rollup(u32),
    CgroupStat(CgroupPaths),
    // Last among those that are due equally: what the rollup took tells whether it can be read at all.
    Mappings(u32),
}

/// Samples a set of processes, their cgroups and the host.
#[derive(Debug)]
pub struct Sampler {
    /// Processes and the cgroup each was found in at the last look.
    processes: BTreeMap<u32, Membership>,
    /// Things that are read rarely, with the time of their last reading.
    rare_last: BTreeMap<Rare, i64>,
    /// The process that was sampled last, where they have turns.
    last_turn: u32,
    budget: Budget,
    mappings: Mappings,
    /// CLOCK_MONOTONIC ns.
    began: i64,
    /// When `vmstat` and `buddyinfo` are due, CLOCK_MONOTONIC ns.
    vm_next: i64,
    page_bytes: u64,
    tick_ns: u64,
    problems: BTreeSet<String>,
    reported: BTreeSet<String>,
    cost: SamplerCost,
}

#[derive(Debug, Default)]
struct Membership {
    /// /proc/PID/cgroup as last read: the paths are looked up again when it changes.
    text: Vec<u8>,
    paths: CgroupPaths,
}

impl Sampler {
    /// A sampler of these processes (thread groups).
    pub fn new(pids: impl IntoIterator<Item = u32>) -> Self {
        // SAFETY: no pointers.
        let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|t| *t > 0);
        let mut sampler = Self {
            processes: BTreeMap::new(),
            rare_last: BTreeMap::new(),
            last_turn: 0,
            budget: Budget { next: i64::MIN },
            mappings: Mappings::default(),
            began: monotonic_ns(),
            vm_next: i64::MIN,
            page_bytes: page_bytes(),
            tick_ns: 1_000_000_000 / ticks.unwrap_or(100),
            problems: BTreeSet::new(),
            reported: BTreeSet::new(),
            cost: SamplerCost::default(),
        };
        pids.into_iter().for_each(|pid| sampler.add(pid));
        sampler
    }

    /// Reads the mappings of the processes, too.
    pub fn with_mappings(mut self, mode: SmapsMode) -> Self {
        self.mappings = Mappings::new(mode);
        self
    }

    /// Adds a process (a child that became a target); its cgroup is found at the next tick.
    pub fn add(&mut self, pid: u32) {
        self.processes.entry(pid).or_default();
    }

    /// Stops sampling a process. One that ended drops out by itself.
    pub fn remove(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    /// A process has just executed a program: its mappings are others, and are read while there are few, as long as all
    /// such readings keep within the share of the time.
    pub(crate) fn new_program(&mut self, pid: u32) {
        self.mappings.new_program(pid);
        let (now, spent) = (monotonic_ns(), self.mappings.spent_on_programs);
        if spent.saturating_mul(RARE_SHARE) <= now.saturating_sub(self.began).saturating_add(RARE_INTERVAL_NS) {
            self.mappings.read_program(pid, now);
        }
    }

    /// The processes that are sampled.
    pub fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.keys().copied()
    }

    /// Reads what is due at `now` (CLOCK_MONOTONIC, ns). Each row carries the time of its own reading.
    pub fn tick(&mut self, now: i64) -> Vec<Sample> {
        self.sample(now, None)
    }

    /// Reads everything, the expensive files too: at the end of a recording and before a dump.
    pub fn tick_all(&mut self, now: i64, moment: SmapsMoment) -> Vec<Sample> {
        self.sample(now, Some(moment))
    }

    /// The mappings that were read since the last call.
    pub fn take_mappings(&mut self) -> Vec<SmapsRow> {
        std::mem::take(&mut self.mappings.rows)
    }

    /// What could not be read and why, each said once.
    pub fn take_problems(&mut self) -> Vec<String> {
        let new: Vec<String> = std::mem::take(&mut self.problems).into_iter().collect();
        self.reported.extend(new.iter().cloned());
        new
    }

    /// What sampling cost so far.
    pub fn cost(&self) -> SamplerCost {
        self.cost
    }

    fn sample(&mut self, now: i64, moment: Option<SmapsMoment>) -> Vec<Sample> {
        let (begin, all) = (monotonic_ns(), moment.is_some());
        let mut out = Vec::new();
        let pids = self.turn(all);
        let mut left = Vec::new();
        for pid in pids {
            if self.process(pid, &mut out) {
                self.find_cgroup(pid);
            } else {
                left.extend(self.processes.remove(&pid).map(|member| (member.paths, pid)));
            }
        }
        let mut cgroups = self.cgroups();
        // A last look at the group of a process that is gone: what killed it may be counted there and nowhere else.
        for (paths, pid) in left {
            cgroups.entry(paths).or_insert(pid);
        }
        for (paths, pid) in &cgroups {
            cgroup::counters(paths, *pid, &mut out);
            self.cgroup_pressure(paths, *pid, &mut out);
        }
        self.host_pressure(&mut out);
        meminfo(&mut out);
        if all || now >= self.vm_next {
            vm::counters(&mut out);
            self.vm_next = now.saturating_add(RARE_INTERVAL_NS);
        }
        self.mappings.begin_tick(moment);
        self.rare(now, all, &cgroups, &mut out);
        self.mappings.end_tick().iter().for_each(|what| self.problem(what));
        self.cost.ticks += 1;
        self.cost.total_ns += (monotonic_ns() - begin).unsigned_abs();
        out
    }

    /// The processes to sample now.
    fn turn(&mut self, all: bool) -> Vec<u32> {
        if all || self.processes.len() <= MAX_PER_TICK {
            return self.processes.keys().copied().collect();
        }
        self.problem(&format!("more than {MAX_PER_TICK} processes at a time: they were sampled in turns"));
        let after = self.processes.range(self.last_turn.saturating_add(1)..);
        let turn: Vec<u32> = after.chain(&self.processes).map(|(pid, _)| *pid).take(MAX_PER_TICK).collect();
        self.last_turn = turn.last().copied().unwrap_or(0);
        turn
    }

    /// statm and stat; false if the process is gone.
    fn process(&self, pid: u32, out: &mut Vec<Sample>) -> bool {
        let ts = monotonic_ns();
        let Ok(statm) = fs::read_to_string(format!("/proc/{pid}/statm")) else { return false };
        // Fields that are always 0 since Linux 2.6 (lib, dt) are left out.
        let names = [Some("size"), Some("resident"), Some("shared"), Some("text"), None, Some("data")];
        let mut rows = Rows { ts, source: SampleSource::Statm, pid: Some(pid), out };
        for (name, pages) in names.iter().zip(statm.split_whitespace()) {
            if let (Some(name), Ok(pages)) = (name, pages.parse::<u64>()) {
                rows.push(format!("{name}_bytes"), Some(pages.saturating_mul(self.page_bytes)));
            }
        }
        let ts = monotonic_ns();
        let Some(stat) = read_stat(pid) else { return false };
        let mut rows = Rows { ts, source: SampleSource::Stat, pid: Some(pid), out };
        rows.push("minflt", Some(stat.minflt));
        rows.push("majflt", Some(stat.majflt));
        rows.push("utime_ns", Some(stat.utime.saturating_mul(self.tick_ns)));
        rows.push("stime_ns", Some(stat.stime.saturating_mul(self.tick_ns)));
        rows.push("num_threads", u64::try_from(stat.num_threads).ok());
        stat.state != 'Z' || stat.num_threads > 1
    }

    fn find_cgroup(&mut self, pid: u32) {
        let Ok(text) = fs::read(format!("/proc/{pid}/cgroup")) else { return };
        let Some(member) = self.processes.get_mut(&pid) else { return };
        if member.text == text {
            return;
        }
        member.paths = CgroupPaths::of(pid);
        member.text = text;
        if member.paths.memory_version().is_none() {
            self.problem(
                "the memory files of the target's cgroup are not visible here (no memory controller, or the cgroup \
                 lies outside this mount): no cgroup_memory samples; mount the host's /sys/fs/cgroup",
            );
        }
    }

    /// Each cgroup once, under the lowest pid in it: its numbers are not the process's but the group's.
    fn cgroups(&self) -> BTreeMap<CgroupPaths, u32> {
        let mut found = BTreeMap::new();
        for (pid, member) in &self.processes {
            found.entry(member.paths.clone()).or_insert(*pid);
        }
        found
    }

    fn cgroup_pressure(&mut self, paths: &CgroupPaths, pid: u32, out: &mut Vec<Sample>) {
        let Some(dir) = &paths.v2 else { return };
        for resource in ["cpu", "memory", "io"] {
            let ts = monotonic_ns();
            let Ok(text) = fs::read_to_string(dir.join(format!("{resource}.pressure"))) else { continue };
            let rows = Rows { ts, source: SampleSource::CgroupPressure, pid: Some(pid), out };
            push_pressure(rows, resource, &text);
        }
    }

    fn host_pressure(&mut self, out: &mut Vec<Sample>) {
        for resource in ["cpu", "memory", "io"] {
            let ts = monotonic_ns();
            match fs::read_to_string(format!("/proc/pressure/{resource}")) {
                Ok(text) => {
                    push_pressure(Rows { ts, source: SampleSource::HostPressure, pid: None, out }, resource, &text)
                }
                Err(e) => self.problem(&format!(
                    "/proc/pressure/{resource} cannot be read ({e}): no pressure samples; PSI needs CONFIG_PSI and, \
                     where it is off by default, psi=1 on the kernel command line"
                )),
            }
        }
    }

    /// The readings that share the budget: the one that was read longest ago goes first.
    fn rare(&mut self, now: i64, all: bool, cgroups: &BTreeMap<CgroupPaths, u32>, out: &mut Vec<Sample>) {
        let rollups = self.processes.keys().map(|pid| (Rare::Rollup(*pid), *pid));
        let stats = cgroups.iter().map(|(paths, pid)| (Rare::CgroupStat(paths.clone()), *pid));
        let mut due: Vec<(i64, Rare, u32)> = rollups
            .chain(stats)
            .map(|(what, pid)| (self.rare_last.get(&what).copied().unwrap_or(i64::MIN), what, pid))
            .collect();
        // Forget the dead, so that a long recording of short processes does not grow.
        self.rare_last = due.iter().filter(|d| d.0 > i64::MIN).map(|d| (d.1.clone(), d.0)).collect();
        let mappings = self.mappings.due(self.processes.keys().copied(), now);
        due.extend(mappings.into_iter().map(|(last, pid)| (last, Rare::Mappings(pid), pid)));
        due.sort();
        // The first mappings are the begin of the recording, and not of what the budget leaves.
        let at_begin = self.cost.ticks == 0;
        let mut took = 0;
        for (_, what, pid) in due {
            // All cheap ones in one tick; after an expensive one the rest waits for its turn.
            let exempt = all || at_begin && matches!(what, Rare::Mappings(_));
            if !exempt && (!self.budget.allows(now) || took > RARE_INTERVAL_NS / RARE_SHARE) {
                continue;
            }
            let begin = monotonic_ns();
            match &what {
                Rare::Rollup(pid) => self.rollup(*pid, out),
                Rare::CgroupStat(paths) => cgroup::stat(paths, pid, out),
                Rare::Mappings(pid) => self.read_mappings(*pid, out),
            }
            took += monotonic_ns() - begin;
            if !matches!(what, Rare::Mappings(_)) {
                self.rare_last.insert(what, begin);
            }
        }
        if took > 0 {
            self.budget.spend(now + took, took);
        }
    }

    fn read_mappings(&mut self, pid: u32, out: &mut Vec<Sample>) {
        if !self.mappings.can_tell(pid) {
            self.rollup(pid, out);
        }
        self.mappings.read(pid, monotonic_ns());
    }

    fn rollup(&mut self, pid: u32, out: &mut Vec<Sample>) {
        let ts = monotonic_ns();
        let text = match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(text) => text,
            // Gone between two readings.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) || e.kind() == std::io::ErrorKind::NotFound => {
                if !std::path::Path::new("/proc/self/smaps_rollup").exists() {
                    self.problem("/proc/PID/smaps_rollup is absent (before Linux 4.14): no PSS, no LazyFree samples");
                }
                return;
            }
            Err(e) => {
                self.problem(&format!(
                    "smaps_rollup of a target cannot be read ({e}): run as root or with CAP_SYS_PTRACE"
                ));
                return;
            }
        };
        let took = (monotonic_ns() - ts).unsigned_abs();
        self.cost.rollups += 1;
        self.cost.rollup_ns += took;
        self.cost.rollup_max_ns = self.cost.rollup_max_ns.max(took);
        self.mappings.rollup_took(pid, took);
        let mut rows = Rows { ts, source: SampleSource::SmapsRollup, pid: Some(pid), out };
        for (key, bytes) in parse_kb_lines(&text) {
            rows.push(format!("{key}_bytes"), Some(bytes));
        }
    }

    fn problem(&mut self, what: &str) {
        if !self.reported.contains(what) {
            self.problems.insert(what.to_owned());
        }
    }
}

fn meminfo(out: &mut Vec<Sample>) {
    let ts = monotonic_ns();
    let Ok(text) = fs::read_to_string("/proc/meminfo") else { return };
    let values = parse_kb_lines(&text);
    let mut rows = Rows { ts, source: SampleSource::Meminfo, pid: None, out };
    for key in MEMINFO {
        if let Some(bytes) = values.get(*key) {
            rows.push(format!("{key}_bytes"), Some(*bytes));
        }
    }
}

fn push_pressure(mut rows: Rows<'_>, resource: &str, text: &str) {
    for (kind, total) in pressure_totals(text) {
        rows.push(format!("{resource}.{kind}.total_us"), Some(total));
    }
}

/// Appends rows of one reading.
struct Rows<'a> {
    ts: i64,
    source: SampleSource,
    pid: Option<u32>,
    out: &'a mut Vec<Sample>,
}

impl Rows<'_> {
    fn push(&mut self, key: impl Into<String>, value: Option<u64>) {
        self.out.push(Sample { ts: self.ts, source: self.source, pid: self.pid, key: key.into(), value });
    }
}

#[cfg(test)]
#[path = "sampler/tests.rs"]
mod tests;
