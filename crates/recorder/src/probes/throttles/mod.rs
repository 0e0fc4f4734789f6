//! Sleeps that the kernel imposes on a target's thread because memory is short.
//!
//! Own counters: 0 `never_ended`: the thread was killed within it.

use mtrace_formats::tables::{Throttle, ThrottleKind, ThrottleReason};

use super::wire::{Reader, Undecodable, event};
use super::{Attach, Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

const VMSCAN: Program = Program::trace("vmscan_throttled");
const EXIT: Program = Program::trace("throttled_thread_exit");
const SWITCH: Program = Program {
    name: "high_switch",
    attach: Attach::WithFunction(&["mem_cgroup_handle_over_high", "__mem_cgroup_handle_over_high"]),
};

/// On the kernel function that does it; the second of each kind is for the name that it has from 6.18 on.
const FENTRY: [Program; 4] = on_function("high_entry", "high_exit");
const FENTRY_2: [Program; 4] = on_function("high_entry_2", "high_exit_2");
const KPROBE: [Program; 4] = on_function("high_kprobe", "high_kretprobe");
const KPROBE_2: [Program; 4] = on_function("high_kprobe_2", "high_kretprobe_2");

const fn on_function(entry: &'static str, exit: &'static str) -> [Program; 4] {
    [Program::on_trial(entry), Program::on_trial(exit), VMSCAN, EXIT]
}

pub(crate) struct Throttles;

impl Probe for Throttles {
    fn name(&self) -> &'static str {
        "throttles"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["throttles"]
    }

    fn hides(&self) -> &'static str {
        "sleeps for memory.high (they look like idle time after a fault or a call), and waits within reclaim"
    }

    fn events(&self) -> &'static [u16] {
        &[event::THROTTLE]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("throttles")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[
                Variant { name: "fentry", programs: &FENTRY, lacks: None },
                Variant { name: "fentry", programs: &FENTRY_2, lacks: None },
                Variant { name: "kprobe", programs: &KPROBE, lacks: None },
                Variant { name: "kprobe", programs: &KPROBE_2, lacks: None },
                Variant { name: "off-CPU stack", programs: &[SWITCH, VMSCAN, EXIT], lacks: None },
                Variant {
                    name: "tp_btf, vmscan only",
                    programs: &[VMSCAN],
                    lacks: Some(
                        "sleeps for memory.high: fentry and kprobes are refused, and the kernel's functions have no \
                         addresses here (kernel.kptr_restrict, or no CONFIG_MEMCG)",
                    ),
                },
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["never_ended"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let (row, stack) = decode(bytes)?;
        let stack_id = sink.stack_id(stack, self, 1);
        sink.push(Throttle { stack_id, ..row });
        Ok(())
    }
}

/// Decodes `struct mt_throttle`; the second value is the stack's hash.
fn decode(bytes: &[u8]) -> Result<(Throttle, u64), Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let (kind, reason) = match h.detail {
        1 => (ThrottleKind::MemoryHigh, None),
        2 => (ThrottleKind::Vmscan, Some(reason(h.aux))),
        _ => return Err(Undecodable),
    };
    let (dur, stack) = (r.i64()?, r.u64()?);
    Ok((Throttle { ts: h.ts, dur, pid: h.pid, tid: h.tid, kind, reason, stack_id: None }, stack))
}

/// `enum vmscan_throttle_state`, include/linux/mmzone.h.
fn reason(number: u32) -> ThrottleReason {
    match number {
        0 => ThrottleReason::Writeback,
        1 => ThrottleReason::Isolated,
        2 => ThrottleReason::NoProgress,
        3 => ThrottleReason::Congested,
        _ => ThrottleReason::Other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    #[test]
    fn only_vmscan_has_a_reason() {
        let record = |detail, aux| with(header(event::THROTTLE, detail, 5, 6, aux, 1000), &[70, 0xabc]);
        let (row, stack) = decode(&record(1, 0)).unwrap();
        assert_eq!((row.ts, row.dur, row.kind, row.reason), (1000, 70, ThrottleKind::MemoryHigh, None));
        assert_eq!((row.pid, row.tid, stack), (5, 6, 0xabc));
        assert_eq!(decode(&record(2, 0)).unwrap().0.reason, Some(ThrottleReason::Writeback));
        assert_eq!(decode(&record(2, 9)).unwrap().0.reason, Some(ThrottleReason::Other));
        assert!(decode(&record(3, 0)).is_err());
        let short = record(1, 0);
        assert!(decode(&short[..short.len() - 1]).is_err());
    }
}
