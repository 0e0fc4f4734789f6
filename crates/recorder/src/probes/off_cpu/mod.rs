//! Intervals in which a thread was not on a CPU, at least `off_cpu_min_ns` long, and who woke it.
//!
//! In which context it was woken is read from the CPU's preemption count, or told from the stack that the waker runs on
//! (variants `…_by_stack`), which takes a thread that wakes another within a page fault for an interrupt.
//!
//! Own counters: 0 `below_minimum`: shorter intervals; 1 `below_minimum_ns`: their sum;
//! 2 `start_without_end`: intervals of which nobody saw the end.

use mtrace_formats::tables::{OffCpu as Row, OffCpuState, WakerContext};

use super::wire::{Reader, Undecodable, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

/// Name of the probe.
pub(crate) const NAME: &str = "off_cpu";
/// Its map of the threads that are off the CPU; the key is the thread.
pub(crate) const THREADS: &str = "off";

/// `struct left` of probe.bpf.c: a thread that is off the CPU since `ts` at the latest, nobody knows where.
pub(crate) fn left(ts: i64, state: OffCpuState) -> [u8; 48] {
    let class: u64 = match state {
        OffCpuState::Runnable => 0,
        OffCpuState::Sleeping => 1,
        OffCpuState::Uninterruptible => 2,
        OffCpuState::Other => 3,
    };
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&ts.to_ne_bytes());
    bytes[8..16].copy_from_slice(&class.to_ne_bytes());
    bytes[40..44].copy_from_slice(&(-1_i32).to_ne_bytes());
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
        "waiting: which part of the time no thread ran, whether it slept, waited for a disk or for a CPU, and who woke it"
    }

    fn events(&self) -> &'static [u16] {
        &[event::OFF_CPU]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("off_cpu")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            const fn variant(name: &'static str, programs: &'static [Program]) -> Variant {
                Variant { name, programs, lacks: None }
            }
            const WAKEUP: Program = Program::trace("wakeup");
            const NEW: Program = Program::trace("wakeup_new");
            const COUNT: Program = Program::trace("waking");
            const STACK: Program = Program::trace("waking_by_stack");
            const SWITCH: Program = Program::trace("switch_with_state");
            // Before 5.18 the state is read from the task, which a wake-up on another CPU may have changed.
            const SWITCH_OLD: Program = Program::trace("switch_without_state");
            &[
                variant("tp_btf", &[SWITCH, COUNT, WAKEUP, NEW]),
                variant("tp_btf_by_stack", &[SWITCH, STACK, WAKEUP, NEW]),
                variant("tp_btf_without_state", &[SWITCH_OLD, COUNT, WAKEUP, NEW]),
                variant("tp_btf_without_state_by_stack", &[SWITCH_OLD, STACK, WAKEUP, NEW]),
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["below_minimum", "below_minimum_ns", "start_without_end"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let (row, stack) = decode(bytes)?;
        let stack_id = stack.and_then(|hash| sink.stack_id(hash, self, 1));
        sink.push(Row { stack_id, ..row });
        Ok(())
    }
}

/// `MT_WAKER_CONTEXT` and `MT_OFF_HAS_STACK`.
const CONTEXT: u32 = 3;
const HAS_STACK: u32 = 4;

/// Decodes `struct mt_off_cpu`; the second value is the stack's hash, if one was to be taken.
fn decode(bytes: &[u8]) -> Result<(Row, Option<u64>), Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let (dur, runnable, waker, stack, syscall) = (r.i64()?, r.i64()?, r.u64()?, r.u64()?, r.i64()?);
    let state = match h.detail {
        0 => OffCpuState::Runnable,
        1 => OffCpuState::Sleeping,
        2 => OffCpuState::Uninterruptible,
        3 => OffCpuState::Other,
        _ => return Err(Undecodable),
    };
    let waker_context = match h.aux & CONTEXT {
        0 => None,
        1 => Some(WakerContext::Thread),
        2 => Some(WakerContext::Interrupt),
        _ => return Err(Undecodable),
    };
    // The idle thread is nobody.
    let waker = (waker as u32 != 0).then_some(waker);
    let row = Row {
        ts: h.ts,
        dur,
        pid: h.pid,
        tid: h.tid,
        state,
        runqueue_ns: match state {
            OffCpuState::Runnable => Some(dur),
            _ => (runnable != 0).then(|| (h.ts + dur - runnable).clamp(0, dur)),
        },
        waker_pid: waker.map(|w| (w >> 32) as u32),
        waker_tid: waker.map(|w| w as u32),
        waker_context,
        syscall_nr: u32::try_from(syscall).ok(),
        stack_id: None,
    };
    Ok((row, (h.aux & HAS_STACK != 0).then_some(stack)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    fn record(detail: u16, aux: u32, fields: [u64; 5]) -> Vec<u8> {
        with(header(event::OFF_CPU, detail, 5, 6, aux, 1000), &fields)
    }

    #[test]
    fn a_sleep_is_split_where_the_thread_was_woken() {
        let (row, stack) = decode(&record(1, 1 | 4, [500, 1400, 7 << 32 | 8, 0xabc, 202])).unwrap();
        assert_eq!((row.ts, row.dur, row.runqueue_ns), (1000, 500, Some(100)));
        assert_eq!((row.waker_pid, row.waker_tid), (Some(7), Some(8)));
        assert_eq!((row.waker_context, row.syscall_nr), (Some(WakerContext::Thread), Some(202)));
        assert_eq!(stack, Some(0xabc));
    }

    #[test]
    fn what_nobody_saw_is_null_and_a_preempted_thread_only_waits_for_a_cpu() {
        let none = u64::MAX;
        let (row, stack) = decode(&record(2, 4, [500, 0, 0, 0, none])).unwrap();
        assert_eq!((row.runqueue_ns, row.waker_tid, row.waker_context, row.syscall_nr), (None, None, None, None));
        assert_eq!(stack, Some(0), "a stack that could not be read is told from one that was not taken");
        let (row, stack) = decode(&record(0, 0, [500, 0, 0, 0, none])).unwrap();
        assert_eq!((row.runqueue_ns, stack), (Some(500), None));
    }

    #[test]
    fn an_idle_cpu_has_no_thread() {
        let of = |waker| decode(&record(1, 2, [500, 1400, waker, 0, 0])).unwrap().0;
        assert_eq!((of(0).waker_context, of(0).waker_tid), (Some(WakerContext::Interrupt), None));
        assert_eq!(of(7 << 32 | 8).waker_tid, Some(8));
    }

    #[test]
    fn what_is_short_or_unknown_is_refused() {
        let whole = record(1, 1, [500, 1400, 1, 2, 3]);
        assert!((0..whole.len()).all(|n| decode(&whole[..n]).is_err()));
        assert!(decode(&record(4, 1, [500, 1400, 1, 2, 3])).is_err());
        assert!(decode(&record(1, 3, [500, 1400, 1, 2, 3])).is_err());
    }

    #[test]
    fn the_entry_of_a_sleeper_has_the_layout_of_the_kernel_side() {
        let bytes = left(9, OffCpuState::Uninterruptible);
        assert_eq!((bytes[0], bytes[8]), (9, 2));
        assert_eq!(&bytes[40..], &[255, 255, 255, 255, 0, 0, 0, 0]);
    }
}
