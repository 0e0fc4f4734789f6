//! One folder per probe: the BPF program beside the code that decodes its records.
//!
//! Adding a probe is a new folder and one line in [`ALL`].

mod collapses;
mod fault_counts;
mod faults;
mod gc_events;
mod go_memory;
mod io_calls;
mod jvm_events;
mod lock_waits;
mod memory_calls;
pub(crate) mod off_cpu;
mod oom_kills;
mod process_events;
mod reclaims;
mod refusals;
mod throttles;
pub(crate) mod wire;

pub(crate) use fault_counts::reading as fault_count;
pub(crate) use faults::{
    count_and_sum as faults_in, forget_starts as forget_fault_starts, sampling as set_fault_sampling,
};
pub(crate) use gc_events::prologue;
pub(crate) use memory_calls::NewCode;
pub(crate) use process_events::rule::KernelRule;
pub(crate) use process_events::{Executable, Life, LifeKind};

use mtrace_formats::tables::RuntimeKind;

use crate::FaultMode;
use crate::host::HostFacts;
use crate::session::Sink;
use wire::Undecodable;

/// The registry: every probe, in the order of loading. `process_events` is first: it decides who is a target.
pub(crate) const ALL: &[&dyn Probe] = &[
    &process_events::ProcessEvents,
    &memory_calls::MemoryCalls,
    &refusals::Refusals,
    &io_calls::IoCalls,
    &faults::Faults,
    &fault_counts::FaultCounts,
    &reclaims::Reclaims,
    &throttles::Throttles,
    &lock_waits::LockWaits,
    &oom_kills::OomKills,
    &collapses::Collapses,
    &off_cpu::OffCpu,
    &gc_events::GcEvents,
    &go_memory::GoMemory,
    &jvm_events::JvmEvents,
];

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attach {
    /// By its section name (tp_btf).
    BySection,
    /// The same, but not every kernel that loads it also lets it be attached (fentry, kprobe): that is tried when the
    /// variant is chosen.
    OnTrial,
    /// By its section name, once the addresses of the first of these kernel functions that there is are in the object's
    /// map `function`.
    WithFunction(&'static [&'static str]),
    /// To a perf software event of every CPU, each occurrence; the number is `PERF_COUNT_SW_*`.
    SoftwareEvent(u64),
    /// To the entry of a function of the Go runtime, in every Go binary among the targets.
    GoEntry(&'static str),
    /// The same, for a function that the linker leaves out of a program that does not use it.
    GoEntryIfLinked(&'static str),
    /// To every return instruction of such a function.
    GoReturns(&'static str),
    /// To a USDT probe in every HotSpot library among the targets.
    JvmProbe { provider: &'static str, probe: &'static str },
    /// Not at all: run on each CPU when user space wants what the probe has not sent yet.
    Flush,
}

impl Attach {
    /// The runtime whose binaries it is attached to; `None` for a program that is attached once.
    pub(crate) fn runtime(self) -> Option<RuntimeKind> {
        match self {
            Self::GoEntry(_) | Self::GoEntryIfLinked(_) | Self::GoReturns(_) => Some(RuntimeKind::Go),
            Self::JvmProbe { .. } => Some(RuntimeKind::Jvm),
            Self::BySection | Self::OnTrial | Self::WithFunction(_) | Self::SoftwareEvent(_) | Self::Flush => None,
        }
    }

    /// The function of the Go runtime that it is about.
    pub(crate) fn go_function(self) -> Option<&'static str> {
        match self {
            Self::GoEntry(f) | Self::GoEntryIfLinked(f) | Self::GoReturns(f) => Some(f),
            _ => None,
        }
    }
}

/// One program of a probe's object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) attach: Attach,
}

impl Program {
    pub(crate) const fn trace(name: &'static str) -> Self {
        Self { name, attach: Attach::BySection }
    }

    pub(crate) const fn on_trial(name: &'static str) -> Self {
        Self { name, attach: Attach::OnTrial }
    }
}

/// One way to run a probe. The first that the kernel takes is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    /// Name in the manifest.
    pub(crate) name: &'static str,
    /// Programs to load; the others of the object are left out.
    pub(crate) programs: &'static [Program],
    /// What this variant cannot do, for the manifest; then the probe counts as partial.
    pub(crate) lacks: Option<&'static str>,
}

/// A probe.
pub(crate) trait Probe: Sync {
    /// Name: that of its folder.
    fn name(&self) -> &'static str;
    /// Tables that its rows go to; no other probe writes there.
    fn tables(&self) -> &'static [&'static str];
    /// What stays invisible without it.
    fn hides(&self) -> &'static str;
    /// Why it has nothing to observe on this host, whatever the kernel would load; `None` for most.
    fn objection(&self, _: &HostFacts) -> Option<String> {
        None
    }
    /// The events of its records.
    fn events(&self) -> &'static [u16];
    /// The BPF object.
    fn object(&self) -> &'static [u8];
    /// The ways to run it, best first.
    fn variants(&self, faults: FaultMode) -> &'static [Variant];
    /// Names of its own counters (`MT_OWN_0` …): events that write no row by design.
    fn ignored(&self) -> &'static [&'static str];
    /// Decodes a record and writes its row.
    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable>;
}

/// The BPF object of a probe, aligned as libelf wants it.
macro_rules! object {
    ($name:literal) => {{
        #[repr(C, align(8))]
        struct Aligned<T: ?Sized>(T);
        static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bpf.o")));
        &OBJECT.0
    }};
}
pub(crate) use object;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tables_and_events_are_unique_and_the_tables_exist() {
        for (i, a) in ALL.iter().enumerate() {
            for table in a.tables() {
                assert!(mtrace_formats::tables::ALL.iter().any(|t| t.name == *table), "{table}");
            }
            for b in &ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert!(a.tables().iter().all(|t| !b.tables().contains(t)));
                assert!(a.events().iter().all(|e| !b.events().contains(e)));
            }
        }
    }
}
