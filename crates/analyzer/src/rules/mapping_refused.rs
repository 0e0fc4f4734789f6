use super::common::{Doubt, not_checked, place, probe_ran, ruled_out};
use super::{Outcome, rule};
use crate::context::Joined;
use crate::model::{Confidence, EnomemGroup, Evidence, Finding, Fix, LookAlike, NamedStack, RefusalFacts};
use crate::units;

const CODE: &str = "mapping-refused";
const CAUSE: &str = "mmap, mprotect or mremap refused with ENOMEM";

/// errno values, uapi/asm-generic/errno-base.h.
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
/// The kernel refuses at `max_map_count`; a few maps may have come and gone between the failure and the replay's view.
const MAP_COUNT_SLACK: u64 = 64;

rule! {
    /// **Mapping refused.** mmap, mprotect, mremap or brk failed with ENOMEM (or EAGAIN) although the machine has free
    /// memory. ENOMEM from these calls never means that RAM is used up, and never that a memory cgroup is full: cgroups
    /// are charged at fault time.
    ///
    /// *Found when* such a call failed. The true reason is worked out from the replayed address space at that moment
    /// and the limits recorded with the target, in this order: number of mappings (`vm.max_map_count`), RLIMIT_AS,
    /// RLIMIT_DATA, locked memory (EAGAIN), commit limit (`vm.overcommit_memory` 2), one writable mapping larger than
    /// RAM plus swap (`vm.overcommit_memory` 0), no gap of that size in the address space. If none fits, it says so.
    ///
    /// *Looks like*: an OOM kill (there the process dies at a fault, no call fails).
    ///
    /// *What to do*: depends on the reason; the finding names the one setting or the one call.
    pub struct MappingRefused(CODE, check);
}

fn check(joined: &Joined) -> Outcome {
    if !probe_ran(joined, "memory_calls") {
        return Outcome::RuledOut(not_checked(CODE, CAUSE, "memory calls were not recorded"));
    }
    let found: Vec<Finding> = joined
        .facts
        .failed_calls
        .iter()
        .filter(|g| g.errno == ENOMEM || g.errno == EAGAIN && g.call != "madvise")
        // madvise answers ENOMEM for a range with holes: no memory is missing.
        .filter(|g| g.call != "madvise")
        .map(|g| finding(joined, g))
        .collect();
    if found.is_empty() {
        return Outcome::RuledOut(ruled_out(
            joined,
            CODE,
            CAUSE,
            "no call of the mmap family failed for want of memory",
            &["memory_calls"],
        ));
    }
    Outcome::Found(found)
}

/// Why the kernel refused, how sure that is, and what to do.
struct Reason {
    what: String,
    confidence: Confidence,
    fix: String,
}

/// The state of the process at the failure: the kernel's own counts, else the replay's and the limits at the start.
fn facts(joined: &Joined, g: &EnomemGroup) -> RefusalFacts {
    let limit = |name: &str| joined.limit_bytes(g.pid, name);
    g.kernel.unwrap_or_else(|| RefusalFacts {
        vmas: g.vmas,
        mapped_bytes: g.mapped_bytes,
        data_bytes: g.data_bytes,
        locked_bytes: 0,
        limit_as_bytes: limit("RLIMIT_AS"),
        limit_data_bytes: limit("RLIMIT_DATA"),
        limit_memlock_bytes: limit("RLIMIT_MEMLOCK"),
    })
}

fn reason(joined: &Joined, g: &EnomemGroup) -> Reason {
    let sure = |what: String, fix: &str| Reason { what, confidence: Confidence::High, fix: fix.to_owned() };
    let host = &joined.host;
    let at = facts(joined, g);
    let exceeds = |limit: Option<u64>, now: u64| limit.filter(|max| now.saturating_add(g.max_len_bytes) > *max);
    if let Some(max) = host.max_map_count.filter(|max| at.vmas + MAP_COUNT_SLACK >= *max) {
        return sure(
            format!("the process had {} mappings and vm.max_map_count is {}", units::count(at.vmas), units::count(max)),
            "map less piecemeal (fewer protection changes inside one mapping), or raise vm.max_map_count",
        );
    }
    // mprotect and a fixed mapping over an old one add no address space.
    if let Some(max) = exceeds(at.limit_as_bytes, at.mapped_bytes).filter(|_| g.call != "mprotect") {
        return sure(
            format!(
                "RLIMIT_AS is {}, mapped were {}, asked for {}",
                units::bytes(max),
                units::bytes(at.mapped_bytes),
                units::bytes(g.max_len_bytes)
            ),
            "raise the address-space limit (ulimit -v); reserved but unused memory counts against it",
        );
    }
    if let Some(max) = exceeds(at.limit_data_bytes, at.data_bytes).filter(|_| g.accountable) {
        return sure(
            format!(
                "RLIMIT_DATA is {}, private writable were {}, asked for {}",
                units::bytes(max),
                units::bytes(at.data_bytes),
                units::bytes(g.max_len_bytes)
            ),
            "raise the data limit (ulimit -d)",
        );
    }
    if g.errno == EAGAIN {
        return Reason {
            what: "the limit of locked memory (RLIMIT_MEMLOCK) was reached".to_owned(),
            confidence: Confidence::Medium,
            fix: "raise ulimit -l, or lock less".to_owned(),
        };
    }
    match (host.overcommit_memory, host.memory_bytes) {
        (Some(2), _) if g.accountable => Reason {
            what: format!(
                "vm.overcommit_memory is 2 (strict) and the commit limit {} did not allow {} more",
                host.commit_limit_bytes.map_or_else(|| "(unknown)".to_owned(), units::bytes),
                units::bytes(g.max_len_bytes)
            ),
            confidence: Confidence::Medium,
            fix: "raise vm.overcommit_ratio, or map with MAP_NORESERVE / PROT_NONE what is only reserved".to_owned(),
        },
        (Some(0), Some(ram)) if g.accountable && g.max_len_bytes > ram.saturating_add(host.swap_bytes.unwrap_or(0)) => {
            sure(
                format!(
                    "one writable mapping of {} is more than RAM and swap together ({}), which vm.overcommit_memory 0 refuses",
                    units::bytes(g.max_len_bytes),
                    units::bytes(ram.saturating_add(host.swap_bytes.unwrap_or(0)))
                ),
                "reserve with PROT_NONE or MAP_NORESERVE and make parts writable as they are needed, or set vm.overcommit_memory to 1",
            )
        }
        _ if g.max_len_bytes > g.largest_gap_bytes => sure(
            format!(
                "no gap of {} was free in the address space (largest: {})",
                units::bytes(g.max_len_bytes),
                units::bytes(g.largest_gap_bytes)
            ),
            "ask for less at once: this is more than the virtual address space can hold",
        ),
        _ => Reason {
            what: format!(
                "the reason could not be determined: {} mappings, {} mapped, limits and overcommit settings do not explain it",
                units::count(at.vmas),
                units::bytes(at.mapped_bytes)
            ),
            confidence: Confidence::Low,
            fix: "look at limits that were not recorded (a security module, a limit set after the recording began)"
                .to_owned(),
        },
    }
}

fn finding(joined: &Joined, g: &EnomemGroup) -> Finding {
    let reason = reason(joined, g);
    let at = facts(joined, g);
    let mut doubt = Doubt::new();
    doubt.accounting(joined, "memory_calls");
    doubt.at_most(reason.confidence, format!("reason: {}", reason.what));
    let (confidence, confidence_reasons) = doubt.finish();
    let errno = if g.errno == EAGAIN { "EAGAIN" } else { "ENOMEM" };
    Finding {
        code: CODE.to_owned(),
        title: "Mapping refused".to_owned(),
        claim: format!(
            "`{}` in {} failed {} with {errno}: {}",
            g.call,
            place(g.caller.as_ref()),
            if g.count == 1 { "once".to_owned() } else { format!("{} times", units::count(g.count)) },
            reason.what
        ),
        pid: g.pid,
        cost: None,
        confidence,
        confidence_reasons,
        location: g.caller.clone(),
        evidence: vec![
            Evidence {
                what: format!("failed {} calls", g.call),
                value: format!("{}, the largest for {}", units::count(g.count), units::bytes(g.max_len_bytes)),
                query: Some(format!(
                    "SELECT count(*), max(len_bytes) FROM 'CAPTURE/memory_calls/*.parquet' WHERE pid = {} AND call = '{}' AND errno = {}",
                    g.pid, g.call, g.errno
                )),
            },
            Evidence {
                what: "address space at the first failure".to_owned(),
                value: format!(
                    "{} mappings, {} mapped, largest free gap {}",
                    units::count(at.vmas),
                    units::bytes(at.mapped_bytes),
                    units::bytes(g.largest_gap_bytes)
                ),
                query: None,
            },
        ],
        against: Vec::new(),
        look_alikes: vec![LookAlike {
            cause: "the machine or the cgroup is out of memory".to_owned(),
            observation: "a full cgroup or host kills at a fault; it does not make these calls fail".to_owned(),
            excluded: true,
        }],
        stacks: vec![NamedStack {
            title: "called by".to_owned(),
            weight: format!("{} failures", units::count(g.count)),
            frames: g.stack.clone(),
        }],
        fix: Fix { what: reason.fix, gain_low_ns: None, gain_high_ns: None, caution: None },
    }
}
