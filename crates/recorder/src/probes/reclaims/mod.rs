//! Reclaim and compaction that the kernel makes a target's thread do before it goes on.
//!
//! Own counters: 0 `never_ended`: the thread was killed within it.

use mtrace_formats::tables::{Reclaim, ReclaimKind};

use super::wire::{Reader, Undecodable, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

const WITHOUT_COMPACTION: [Program; 5] = [
    Program::trace("direct_begin"),
    Program::trace("direct_end"),
    Program::trace("memcg_begin"),
    Program::trace("memcg_end"),
    Program::trace("reclaim_thread_exit"),
];

pub(crate) struct Reclaims;

impl Probe for Reclaims {
    fn name(&self) -> &'static str {
        "reclaims"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["reclaims"]
    }

    fn hides(&self) -> &'static str {
        "whether slow faults and calls had to reclaim or compact memory first, and for which limit"
    }

    fn events(&self) -> &'static [u16] {
        &[event::RECLAIM]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("reclaims")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            let [a, b, c, d, e] = WITHOUT_COMPACTION;
            &[
                Variant {
                    name: "tp_btf",
                    programs: &[a, b, c, d, e, Program::trace("compaction_begin"), Program::trace("compaction_end")],
                    lacks: None,
                },
                Variant {
                    name: "tp_btf, reclaim only",
                    programs: &WITHOUT_COMPACTION,
                    lacks: Some("the kernel has no tracepoints of compaction (CONFIG_COMPACTION)"),
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
        sink.push(Reclaim { stack_id, ..row });
        Ok(())
    }
}

/// Decodes `struct mt_reclaim`; the second value is the stack's hash.
fn decode(bytes: &[u8]) -> Result<(Reclaim, u64), Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let kind = match h.detail {
        1 => ReclaimKind::Direct,
        2 => ReclaimKind::Memcg,
        3 => ReclaimKind::Compaction,
        _ => return Err(Undecodable),
    };
    let (dur, pages, stack) = (r.i64()?, r.u64()?, r.u64()?);
    let of_reclaim = kind != ReclaimKind::Compaction;
    let row = Reclaim {
        ts: h.ts,
        dur,
        pid: h.pid,
        tid: h.tid,
        kind,
        order: of_reclaim.then_some(h.aux),
        reclaimed_pages: of_reclaim.then_some(pages),
        stack_id: None,
    };
    Ok((row, stack))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    #[test]
    fn compaction_has_neither_order_nor_pages() {
        let record = |detail| with(header(event::RECLAIM, detail, 5, 6, 9, 1000), &[70, 32, 0xabc]);
        let (row, stack) = decode(&record(2)).unwrap();
        assert_eq!((row.ts, row.dur, row.kind), (1000, 70, ReclaimKind::Memcg));
        assert_eq!((row.order, row.reclaimed_pages, stack), (Some(9), Some(32), 0xabc));
        let (row, _) = decode(&record(3)).unwrap();
        assert_eq!((row.kind, row.order, row.reclaimed_pages), (ReclaimKind::Compaction, None, None));
        assert!(decode(&record(4)).is_err());
        let short = record(1);
        assert!(decode(&short[..short.len() - 1]).is_err());
    }
}
