//! Intervals in which a thread was not on a CPU, at least `off_cpu_min_ns` long.
//!
//! Own counters: 0 `below_minimum`: shorter intervals; 1 `below_minimum_ns`: their sum.

use mtrace_formats::tables::{OffCpu as Row, OffCpuState};

use super::wire::{Reader, Undecodable, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

pub(crate) struct OffCpu;

impl Probe for OffCpu {
    fn name(&self) -> &'static str {
        "off_cpu"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["off_cpu"]
    }

    fn hides(&self) -> &'static str {
        "waiting: which part of the time no thread ran, and whether it slept, waited for a disk or for a CPU"
    }

    fn events(&self) -> &'static [u16] {
        &[event::OFF_CPU]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("off_cpu")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[
                Variant { name: "tp_btf", programs: &[Program::trace("switch_with_state")], lacks: None },
                // Before 5.18 the state is read from the task, which a wake-up on another CPU may have changed.
                Variant {
                    name: "tp_btf_without_state",
                    programs: &[Program::trace("switch_without_state")],
                    lacks: None,
                },
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["below_minimum", "below_minimum_ns"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let mut r = Reader::new(bytes);
        let h = r.header()?;
        let dur = r.i64()?;
        let state = match h.detail {
            0 => OffCpuState::Runnable,
            1 => OffCpuState::Sleeping,
            2 => OffCpuState::Uninterruptible,
            3 => OffCpuState::Other,
            _ => return Err(Undecodable),
        };
        sink.push(Row { ts: h.ts, dur, pid: h.pid, tid: h.tid, state });
        Ok(())
    }
}
