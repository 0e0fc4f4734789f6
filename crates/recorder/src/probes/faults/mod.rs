//! Page faults of user addresses: start to end, with the address, the instruction, the error code and the stack.
//!
//! Own counters: 0 `start_without_end`: the fault ended in a signal, in the kernel's fixup, or was not accounted.

use mtrace_formats::tables::{Fault, FaultKind};

use super::wire::{Reader, Undecodable, event};
use super::{Attach, Probe, Program, Variant};
use crate::session::Sink;

/// `enum perf_sw_ids`, include/uapi/linux/perf_event.h.
const PERF_COUNT_SW_PAGE_FAULTS_MIN: u64 = 5;
const PERF_COUNT_SW_PAGE_FAULTS_MAJ: u64 = 6;

const MAJOR: u16 = 1;
const HAS_START: u16 = 2;

const MINOR_END: Program =
    Program { name: "fault_end_minor", attach: Attach::SoftwareEvent(PERF_COUNT_SW_PAGE_FAULTS_MIN) };
const MAJOR_END: Program =
    Program { name: "fault_end_major", attach: Attach::SoftwareEvent(PERF_COUNT_SW_PAGE_FAULTS_MAJ) };

pub(crate) struct Faults;

impl Probe for Faults {
    fn name(&self) -> &'static str {
        "faults"
    }

    fn table(&self) -> &'static str {
        "faults"
    }

    fn hides(&self) -> &'static str {
        "page faults: who touched which memory, when, and how long it took"
    }

    fn event(&self) -> u16 {
        event::FAULT
    }

    fn object(&self) -> &'static [u8] {
        super::object!("faults")
    }

    fn variants(&self) -> &'static [Variant] {
        const {
            &[
                Variant {
                    name: "tp_btf+software_event",
                    programs: &[
                        Program::trace("fault_start_user"),
                        Program::trace("fault_start_kernel"),
                        Program::trace("fault_thread_exit"),
                        MINOR_END,
                        MAJOR_END,
                    ],
                    lacks: None,
                },
                Variant {
                    name: "software_event",
                    programs: &[MINOR_END, MAJOR_END],
                    lacks: Some(
                        "the kernel has no page_fault_user tracepoint: faults have no duration and no error code",
                    ),
                },
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["start_without_end"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let mut r = Reader::new(bytes);
        let h = r.header()?;
        let (dur, addr, ip, hash) = (r.i64()?, r.u64()?, r.u64()?, r.u64()?);
        let has_start = h.detail & HAS_START != 0;
        let stack_id = sink.stack_id(hash, self);
        sink.push(Fault {
            ts: h.ts,
            dur: has_start.then_some(dur),
            pid: h.pid,
            tid: h.tid,
            addr,
            ip,
            error_code: has_start.then_some(h.aux),
            kind: if h.detail & MAJOR != 0 { FaultKind::Major } else { FaultKind::Minor },
            stack_id,
        });
        Ok(())
    }
}
