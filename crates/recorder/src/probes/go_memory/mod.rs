//! What Go's memory management does to the program: mark assists, heap growth, the scavenger, and settings.
//!
//! Own counters: 0 `below_minimum`: assists shorter than `off_cpu_min_ns`; 1 `below_minimum_ns`: their sum;
//! 2 `scavenged_nothing`: calls of the scavenger that gave nothing back.

use mtrace_formats::tables::{GoMemory as Row, GoMemoryKind};

use super::wire::{Reader, Undecodable, event};
use super::{Attach, Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

pub(crate) struct GoMemory;

const MARK_ASSIST: &str = "runtime.gcAssistAlloc1";
const PARK_ASSIST: &str = "runtime.gcParkAssist";
const HEAP_GROWTH: &str = "runtime.(*mheap).grow";
const SCAVENGE: &str = "runtime.(*pageAlloc).scavenge";
const SET_GC_PERCENT: &str = "runtime/debug.setGCPercent";
const SET_MEMORY_LIMIT: &str = "runtime/debug.setMemoryLimit";

/// `MT_GO_HAS_START`.
const HAS_START: u32 = 1;
/// `pageSize` and `pallocChunkPages` of the runtime: the heap grows in whole chunks.
const CHUNK_BYTES: u64 = 512 * PAGE_BYTES;
const PAGE_BYTES: u64 = 8192;

const fn program(name: &'static str, attach: Attach) -> Program {
    Program { name, attach }
}

impl Probe for GoMemory {
    fn name(&self) -> &'static str {
        "go_memory"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["go_memory"]
    }

    fn hides(&self) -> &'static str {
        "what Go's memory management costs the program: mark assists, heap growth, scavenging"
    }

    fn events(&self) -> &'static [u16] {
        &[event::GO_MEMORY]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("go_memory")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[Variant {
                name: "uprobe",
                programs: &[
                    program("go_mark_assist_begin", Attach::GoEntry(MARK_ASSIST)),
                    program("go_mark_assist_end", Attach::GoReturns(MARK_ASSIST)),
                    program("go_park_assist_begin", Attach::GoEntry(PARK_ASSIST)),
                    program("go_park_assist_end", Attach::GoReturns(PARK_ASSIST)),
                    program("go_heap_growth_begin", Attach::GoEntry(HEAP_GROWTH)),
                    program("go_heap_growth_end", Attach::GoReturns(HEAP_GROWTH)),
                    program("go_scavenge_begin", Attach::GoEntry(SCAVENGE)),
                    program("go_scavenge_end", Attach::GoReturns(SCAVENGE)),
                    program("go_set_gc_percent", Attach::GoEntryIfLinked(SET_GC_PERCENT)),
                    program("go_set_memory_limit", Attach::GoEntryIfLinked(SET_MEMORY_LIMIT)),
                ],
                lacks: None,
            }]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["below_minimum", "below_minimum_ns", "scavenged_nothing"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let (mut row, stack) = decode(bytes)?;
        row.stack_id = sink.stack_id(stack, self, 1);
        sink.push(row);
        Ok(())
    }
}

/// The row without its stack, and the stack's hash.
fn decode(bytes: &[u8]) -> Result<(Row, u64), Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let (dur, arg, result, stack) = (r.i64()?, r.u64()?, r.u64()?, r.u64()?);
    let event = match h.detail {
        1 => GoMemoryKind::MarkAssist,
        2 => GoMemoryKind::ParkAssist,
        3 => GoMemoryKind::HeapGrowth,
        4 => GoMemoryKind::Scavenge,
        5 => GoMemoryKind::SetGcPercent,
        6 => GoMemoryKind::SetMemoryLimit,
        _ => return Err(Undecodable),
    };
    let has_start = h.aux & HAS_START != 0;
    let bytes = match event {
        GoMemoryKind::HeapGrowth => has_start.then(|| growth(arg)),
        GoMemoryKind::Scavenge | GoMemoryKind::SetMemoryLimit => Some(result),
        _ => None,
    };
    let row = Row {
        ts: h.ts,
        dur: has_start.then_some(dur),
        pid: h.pid,
        tid: h.tid,
        event,
        bytes,
        // An int32 in a register: the upper half is whatever was there before.
        percent: (event == GoMemoryKind::SetGcPercent).then_some(result as u32 as i32),
        stack_id: None,
    };
    Ok((row, stack))
}

/// What the runtime takes for so many of its pages.
fn growth(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_BYTES).div_ceil(CHUNK_BYTES).saturating_mul(CHUNK_BYTES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    fn row(which: u16, aux: u32, fields: [u64; 4]) -> Row {
        decode(&with(header(event::GO_MEMORY, which, 10, 11, aux, 500), &fields)).unwrap().0
    }

    #[test]
    fn growth_is_in_whole_chunks() {
        assert_eq!(row(3, HAS_START, [70, 1, 0, 9]).bytes, Some(4 << 20));
        assert_eq!(row(3, HAS_START, [70, 513, 0, 9]).bytes, Some(8 << 20));
        assert_eq!(growth(0), 0);
        assert_eq!(growth(u64::MAX), u64::MAX);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let whole = row(1, HAS_START, [70, 1, 2, 9]);
        assert_eq!((whole.ts, whole.dur, whole.bytes, whole.percent), (500, Some(70), None, None));
        assert_eq!(row(1, 0, [0, 0, 2, 9]).dur, None);
        let growth = row(3, 0, [0, 0, 2, 9]);
        assert_eq!((growth.dur, growth.bytes), (None, None));
        assert_eq!(row(4, 0, [0, 0, 65536, 9]).bytes, Some(65536));
    }

    #[test]
    fn settings_are_read_as_the_runtime_reads_them() {
        assert_eq!(row(5, 0, [0, 0, 0xdead_beef_ffff_ffff, 9]).percent, Some(-1));
        assert_eq!(row(6, 0, [0, 0, 1 << 30, 9]).bytes, Some(1 << 30));
    }

    #[test]
    fn short_and_unknown_records_are_refused() {
        let bytes = with(header(event::GO_MEMORY, 1, 10, 11, 1, 500), &[1, 2, 3, 4]);
        for n in 0..bytes.len() {
            assert_eq!(decode(&bytes[..n]), Err(Undecodable), "{n} bytes");
        }
        assert_eq!(decode(&with(header(event::GO_MEMORY, 7, 10, 11, 1, 500), &[1, 2, 3, 4])), Err(Undecodable));
    }
}
