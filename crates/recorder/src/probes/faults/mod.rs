//! Page faults of user addresses: start to end, with the address, the instruction, the error code and the stack.
//!
//! `--faults=runs` adds up in the kernel what follows each other (`fault_runs`) and keeps single rows of the rest and of
//! slow faults; `--faults=every` writes a row each. Both are the same programs up to the moment in which a fault is put
//! away, so counts and sums agree.
//!
//! Where a budget asks for it only one of N is recorded, chosen by a throw of the dice for each fault ([`sampling`]).
//!
//! A start is seen by a tracepoint of the kernel; where it has none (arm64), by fentry on the architecture's handler or by
//! a kprobe on the common one (late.bpf.h).
//!
//! Own counters: 0 `start_without_end`: the fault ended in a signal, in the kernel's fixup, or was not accounted.
//! 1 `left_out_elsewhere`: not chosen, and its thread left its CPU within it; those that stay on theirs are not counted
//! here but by the kernel (`fault_counts`). 2 `stacks_doubtful`: took over the stack of
//! the fault before (see may_reuse_stack) between two walks that found different ones.

mod records;

use mtrace_formats::tables::{Fault, FaultKind};

use super::wire::{Header, Reader, Undecodable, event};
use super::{Attach, Probe, Program, Variant};
use crate::FaultMode;
use crate::session::{Loaded, Sink};
pub(crate) use records::{Batch, Run};

/// `enum perf_sw_ids`, include/uapi/linux/perf_event.h.
const PERF_COUNT_SW_PAGE_FAULTS_MIN: u64 = 5;
const PERF_COUNT_SW_PAGE_FAULTS_MAJ: u64 = 6;

const MAJOR: u16 = 1;
const HAS_START: u16 = 2;

const fn minor(name: &'static str) -> Program {
    Program { name, attach: Attach::SoftwareEvent(PERF_COUNT_SW_PAGE_FAULTS_MIN) }
}

const fn major(name: &'static str) -> Program {
    Program { name, attach: Attach::SoftwareEvent(PERF_COUNT_SW_PAGE_FAULTS_MAJ) }
}

const fn flush(name: &'static str) -> Program {
    Program { name, attach: Attach::Flush }
}

/// A start that is put aside, and what happens at the end; the names are those of a mode.
const fn late(start: &'static str, exit: &'static str, ends: [&'static str; 2], rest: &'static str) -> [Program; 5] {
    [Program::on_trial(start), Program::trace(exit), minor(ends[0]), major(ends[1]), flush(rest)]
}

/// The ways of a mode, best first. Programs that the object of an architecture does not have make a way fail there.
const fn ways(traced: &'static [Program], fentry: &'static [Program], kprobe: &'static [Program]) -> [Variant; 4] {
    [
        Variant { name: "tp_btf+software_event", programs: traced, lacks: None },
        Variant { name: "fentry+software_event", programs: fentry, lacks: None },
        Variant {
            name: "kprobe+software_event",
            programs: kprobe,
            lacks: Some(
                "the kernel shows the start of a fault to a kprobe only: waiting for mmap_lock is not in the service \
                 time, and copy-on-write is not told from other faults",
            ),
        },
        Variant {
            name: "software_event",
            programs: const { &[minor("end_minor_alone"), major("end_major_alone")] },
            lacks: Some("the kernel does not show the start of a fault: faults have no duration and no error code"),
        },
    ]
}

const RUNS: [Variant; 4] = {
    const EXIT: &str = "thread_exit_run";
    const ENDS: [&str; 2] = ["late_minor_run", "late_major_run"];
    const FENTRY: [Program; 5] = late("start_abort", EXIT, ENDS, "flush_run");
    const KPROBE: [Program; 5] = late("start_handler", EXIT, ENDS, "flush_run");
    const TRACED: [Program; 7] = [
        Program::trace("start_user_run"),
        Program::trace("start_kernel_run"),
        Program::trace("fault_switch"),
        Program::trace(EXIT),
        minor("end_minor_run"),
        major("end_major_run"),
        flush("flush_run"),
    ];
    ways(&TRACED, &FENTRY, &KPROBE)
};

const EVERY: [Variant; 4] = {
    const EXIT: &str = "thread_exit_every";
    const ENDS: [&str; 2] = ["late_minor_every", "late_major_every"];
    const FENTRY: [Program; 5] = late("start_abort", EXIT, ENDS, "flush_every");
    const KPROBE: [Program; 5] = late("start_handler", EXIT, ENDS, "flush_every");
    const TRACED: [Program; 7] = [
        Program::trace("start_user_every"),
        Program::trace("start_kernel_every"),
        Program::trace("fault_switch"),
        Program::trace(EXIT),
        minor("end_minor_every"),
        major("end_major_every"),
        flush("flush_every"),
    ];
    ways(&TRACED, &FENTRY, &KPROBE)
};

pub(crate) struct Faults;

impl Probe for Faults {
    fn name(&self) -> &'static str {
        "faults"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["faults", "fault_runs"]
    }

    fn hides(&self) -> &'static str {
        "page faults: who touched which memory, when, and how long it took"
    }

    fn events(&self) -> &'static [u16] {
        &[event::FAULT, event::FAULT_RUN, event::FAULT_BATCH]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("faults")
    }

    fn variants(&self, faults: FaultMode) -> &'static [Variant] {
        match faults {
            FaultMode::Every => &EVERY,
            FaultMode::Runs | FaultMode::Off => &RUNS,
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["start_without_end", "left_out_elsewhere", "stacks_doubtful"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let mut r = Reader::new(bytes);
        let h = r.header()?;
        match h.event {
            event::FAULT_RUN => {
                let run = Run::decode(h, &mut r)?;
                let stack_id = sink.stack_id(run.stack, self, run.count);
                sink.push(run.row(stack_id));
            }
            event::FAULT_BATCH => {
                let batch = Batch::decode(h, &mut r)?;
                let stack_id = sink.stack_id(batch.stack, self, batch.faults.len() as u64);
                batch.rows(stack_id).for_each(|row| sink.push(row));
            }
            _ => {
                let (dur, addr, ip, hash) = (r.i64()?, r.u64()?, r.u64()?, r.u64()?);
                let has_start = h.detail & HAS_START != 0;
                let stack_id = sink.stack_id(hash, self, 1);
                sink.push(Fault {
                    ts: h.ts,
                    dur: has_start.then_some(dur),
                    pid: h.pid,
                    tid: h.tid,
                    addr,
                    ip,
                    error_code: has_start.then_some(h.aux),
                    kind: kind(h),
                    stack_id,
                    weight: Some(weight(h)),
                });
            }
        }
        Ok(())
    }
}

fn kind(h: Header) -> FaultKind {
    if h.detail & MAJOR != 0 { FaultKind::Major } else { FaultKind::Minor }
}

/// How many faults each fault of a record stands for: `MT_FAULT_WEIGHT_SHIFT`, `MT_FAULT_MAX_SHIFT`.
fn weight(h: Header) -> u32 {
    1 << (h.detail >> 8 & 15)
}

/// `MT_FAULT_NONE`.
const NONE: u32 = 16;

/// Makes the programs record one fault of `1 << shift`, or none.
pub(crate) fn sampling(loaded: &Loaded, shift: Option<u32>) {
    let shift = shift.unwrap_or(NONE);
    loaded.set_in_map("sampling", &0_u32.to_ne_bytes(), &shift.to_ne_bytes());
}

/// Forgets what was under way when the programs were detached: its end was not seen.
pub(crate) fn forget_starts(loaded: &Loaded) {
    loaded.clear_map("parked");
    loaded.zero_map("slots");
}

/// Number and summed service time of the faults in a record of this probe; `None` if it is another's.
pub(crate) fn count_and_sum(bytes: &[u8]) -> Option<(i64, i64)> {
    let mut r = Reader::new(bytes);
    let h = r.header().ok()?;
    match h.event {
        event::FAULT => Some((1, r.i64().ok()?)),
        event::FAULT_RUN => {
            Run::decode(h, &mut r).ok().map(|run| (i64::try_from(run.count).unwrap_or(i64::MAX), run.dur_sum))
        }
        event::FAULT_BATCH => {
            let batch = Batch::decode(h, &mut r).ok()?;
            Some((batch.faults.len() as i64, batch.faults.iter().map(|f| i64::from(f.dur)).sum()))
        }
        _ => None,
    }
}
