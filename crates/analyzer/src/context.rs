//! What the rules see: everything that the joins made of a capture.

use mtrace_formats::capture::{Host, Target};
use mtrace_formats::tables::{Sample, SampleSource};

use crate::model::{CodeLocation, Facts, Ledger, LedgerCategory, TouchKind};
use crate::replay::VmaCounts;

/// What the joins may be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JoinOptions {
    /// The process to look at first; null: the one with the slowest request, else the one with most events.
    pub pid: Option<u32>,
}

/// Part of a ledger that is due to one place in the code: wall time on the critical path, nothing counted twice.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerShare {
    /// Process.
    pub pid: u32,
    /// Name of the ledger's window.
    pub window: String,
    /// Category; the shares of a category sum to its row in the ledger.
    pub category: LedgerCategory,
    /// Faults: what they did.
    pub kind: Option<TouchKind>,
    /// Faults: who touched. Memory calls: who called. Null if unknown or for other categories.
    pub who: Option<CodeLocation>,
    /// Faults: who mapped.
    pub mapper: Option<CodeLocation>,
    /// Wall time.
    pub wall_ns: i64,
    /// Faults, calls or intervals (a stretch of waiting counts as one).
    pub count: u64,
}

/// A capture, joined: what the report shows, and what rules need beyond it.
#[derive(Debug)]
pub struct Joined {
    /// What the report shows, too.
    pub facts: Facts,
    /// Who is behind the ledgers' categories, largest first within a window.
    pub shares: Vec<LedgerShare>,
    /// What happened to the mappings, by process.
    pub vma_counts: Vec<(u32, VmaCounts)>,
    /// The machine.
    pub host: Host,
    /// Targets.
    pub targets: Vec<Target>,
    /// Periodic samples in order of time.
    pub samples: Vec<Sample>,
}

impl Joined {
    /// How much longer some task waited for memory during the capture (PSI `memory.some`), µs: of the targets'
    /// cgroups if they were sampled, else of the host. Null if neither was sampled twice.
    pub fn memory_pressure_us(&self) -> Option<u64> {
        self.pressure_us(SampleSource::CgroupPressure).or_else(|| self.pressure_us(SampleSource::HostPressure))
    }

    fn pressure_us(&self, source: SampleSource) -> Option<u64> {
        let of_source =
            || self.samples.iter().filter(move |s| s.source == source && is_memory_some(&s.key) && s.value.is_some());
        let mut pids: Vec<Option<u32>> = of_source().map(|s| s.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter()
            .filter_map(|pid| {
                let mut values = of_source().filter(|s| s.pid == pid).filter_map(|s| s.value);
                let first = values.next()?;
                Some(values.next_back()?.saturating_sub(first))
            })
            .max()
    }

    /// A soft limit of a target by its name in the manifest (RLIMIT_AS, …); null if unlimited or unknown.
    pub fn limit_bytes(&self, pid: u32, name: &str) -> Option<u64> {
        self.targets.iter().find(|t| t.pid == pid)?.limits_bytes.get(name).copied()
    }

    /// Why requests of a process may not have been seen; empty if all were.
    pub fn unseen_requests(&self, pid: u32) -> &[String] {
        self.facts.requests.iter().find(|r| r.pid == pid).map_or(&[], |r| &r.unseen)
    }

    /// The parts of one category of one ledger.
    pub fn shares_of(&self, ledger: &Ledger, category: LedgerCategory) -> impl Iterator<Item = &LedgerShare> {
        let (pid, name) = (ledger.pid, ledger.window.name.clone());
        self.shares.iter().filter(move |s| s.pid == pid && s.window == name && s.category == category)
    }
}

/// The total of `memory.some` of a pressure file, with or without the name of the file in front.
fn is_memory_some(key: &str) -> bool {
    key.starts_with("memory") && key.contains("some") && key.contains("total")
}
