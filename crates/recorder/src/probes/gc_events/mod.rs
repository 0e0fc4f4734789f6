//! Steps of Go's garbage collection: entries of five runtime functions, found by Go's own table (stripped binaries too).

pub(crate) mod prologue;

use mtrace_formats::tables::{GcEvent, GcEventKind};

use super::wire::{Reader, Undecodable, event};
use super::{Attach, Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

pub(crate) struct GcEvents;

/// The functions, in the order of `detail` in the record (from 1).
const FUNCTIONS: [&str; 5] = [
    "runtime.(*gcControllerState).startCycle",
    "runtime.gcMarkTermination",
    "runtime.gcSweep",
    "runtime.stopTheWorldWithSema",
    "runtime.startTheWorldWithSema",
];

const fn entry(name: &'static str, function: usize) -> Program {
    Program { name, attach: Attach::GoEntry(FUNCTIONS[function]) }
}

impl Probe for GcEvents {
    fn name(&self) -> &'static str {
        "gc_events"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["gc_events"]
    }

    fn hides(&self) -> &'static str {
        "Go's garbage collections: cycles, sweeps and stop-the-world pauses"
    }

    fn events(&self) -> &'static [u16] {
        &[event::GC]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("gc_events")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[Variant {
                name: "uprobe",
                programs: &[
                    entry("gc_cycle_start", 0),
                    entry("gc_mark_termination", 1),
                    entry("gc_sweep", 2),
                    entry("gc_stop_the_world", 3),
                    entry("gc_start_the_world", 4),
                ],
                lacks: None,
            }]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &[]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let h = Reader::new(bytes).header()?;
        let event = match h.detail {
            1 => GcEventKind::CycleStart,
            2 => GcEventKind::MarkTermination,
            3 => GcEventKind::Sweep,
            4 => GcEventKind::StopTheWorld,
            5 => GcEventKind::StartTheWorld,
            _ => return Err(Undecodable),
        };
        // stwReason is a uint8: the rest of the register is whatever was there before.
        let reason =
            (event == GcEventKind::StopTheWorld && sink.has_stw_reason.contains(&h.pid)).then_some(h.aux & 0xff);
        sink.push(GcEvent { ts: h.ts, pid: h.pid, tid: h.tid, event, reason });
        Ok(())
    }
}
