//! Intervals in which a thread was not on a CPU, at least `off_cpu_min_ns` long.
//!
//! Own counters: 0 `below_minimum`: shorter intervals; 1 `below_minimum_ns`: their sum.

use mtrace_formats::tables::{OffCpu as Row, OffCpuState};

use super::wire::{Reader, Undecodable, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

/// Name of the probe.
pub(crate) const NAME: &str = "off_cpu";
/// Its map of the threads that are off the CPU; the key is the thread.
pub(crate) const THREADS: &str = "off";

/// `struct left` of probe.bpf.c: a thread that is off the CPU since `ts` at the latest.
pub(crate) fn left(ts: i64, state: OffCpuState) -> [u8; 16] {
    let class: u64 = match state {
        OffCpuState::Runnable => 0,
        OffCpuState::Sleeping => 1,
        OffCpuState::Uninterruptible => 2,
        OffCpuState::Other => 3,
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&ts.to_ne_bytes());
    bytes[8..].copy_from_slice(&class.to_ne_bytes());
    bytes
}

pub(crate) struct OffCpu;

impl Probe for OffCpu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn tables(&self) -> &'static [&'static str] {
        &[NAME]
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
