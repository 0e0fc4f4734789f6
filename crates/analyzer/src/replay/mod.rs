//! The address spaces of a capture, rebuilt call by call.
//!
//! Every fault is charged to the mapping it hit: who mapped it, who touched it, whether the page had been touched or
//! given back before. What the replay arrives at is compared with the kernel's own snapshots ([`ReplayCertificate`]).
//!
//! A call takes effect somewhere between its entry and its exit. Calls that take away (munmap, madvise) are applied at
//! their entry, all others at their exit: the address that an mmap returns is known to nobody before it returns, and
//! the address that a munmap frees can be given to another thread before the munmap returns.

mod base;
mod certificate;
mod charge;
mod files;
mod gaps;
mod mm;
mod pages;
mod resident;
mod run;
mod vma;

use std::collections::{BTreeMap, HashMap};

pub use mm::CallEffect;
pub use vma::{AddressMap, Backing, Perms, Vma, VmaCounts};

use crate::load::Tables;
use crate::model::{Envelope, GapHistogram, GapPoint, ReplayCertificate};
pub(crate) use gaps::Space;

/// A madvise call that gave pages back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Release {
    /// The call, as an index into [`Tables::calls`].
    pub call: u32,
    /// Pages given back that had been touched.
    pub pages: u64,
}

/// The state of an address space when a call failed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailedCall {
    /// The call, as an index into [`Tables::calls`].
    pub call: u32,
    /// VMAs as the kernel counts them.
    pub vmas: u64,
    /// Mapped bytes.
    pub mapped_bytes: u64,
    /// Private writable bytes.
    pub data_bytes: u64,
    /// Largest free gap.
    pub largest_gap_bytes: u64,
    /// brk: bytes that it asked for beyond the old break.
    pub brk_growth_bytes: Option<u64>,
}

/// The address space of one process over the capture.
#[derive(Debug, Clone, Default)]
pub struct ProcessReplay {
    /// Gaps over time, thinned.
    pub points: Vec<GapPoint>,
    /// Mapped bytes over time, PROT_NONE excluded.
    pub accessible: Vec<Envelope>,
    /// Gaps at the end.
    pub histogram: GapHistogram,
    /// Most VMAs at any moment.
    pub max_vmas: u64,
    /// Usable bytes still mapped at the end, by the stack that mapped them.
    pub live: HashMap<u32, u64>,
    /// What happened to the mappings.
    pub counts: VmaCounts,
    /// False if nothing told where it started: then maps older than the capture are unknown.
    pub has_base: bool,
}

/// What the replay found out.
#[derive(Debug, Default)]
pub struct Replay {
    /// By process.
    pub processes: BTreeMap<u32, ProcessReplay>,
    /// Replay against snapshots.
    pub certificates: Vec<ReplayCertificate>,
    /// Calls that gave pages back; faults refer to them.
    pub releases: Vec<Release>,
    /// What each call did; parallel to [`Tables::calls`].
    pub effects: Vec<CallEffect>,
    /// Calls that failed.
    pub failed: Vec<FailedCall>,
    /// Stack of the call that mapped most of it, for each row of [`Tables::smaps`]; [`crate::load::NONE`] if unknown.
    pub smaps_owners: Vec<u32>,
    /// Names of mappings; faults refer to them.
    pub names: Vec<String>,
    /// What went wrong, in plain words.
    pub problems: Vec<String>,
}

/// Replays all processes; fills `map_stack`, `mapping`, `release` and `touch` of the faults.
pub(crate) fn replay(tables: &mut Tables, space: Space, span: (i64, i64)) -> Replay {
    run::Driver::new(tables, space, span).run()
}

/// True for the madvise advice that gives pages back.
pub fn is_release(advice: u32) -> bool {
    mm::releases(advice)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
