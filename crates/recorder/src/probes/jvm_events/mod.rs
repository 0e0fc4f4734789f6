//! Collections, memory pools, safepoints and VM operations of HotSpot, by its own USDT probes.
//!
//! The probes are nops in libjvm.so with a note that says where they are and where their arguments lie; libbpf reads
//! the notes (BPF cookies, Linux 5.15).

use mtrace_formats::tables::{JvmEvent, JvmEventKind};

use super::wire::{Reader, Undecodable, c_string, event};
use super::{Attach, Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

pub(crate) struct JvmEvents;

/// `MT_JVM_HAS_START`.
const HAS_START: u32 = 1;
/// `MT_JVM_TEXT`.
const TEXT: usize = 64;
/// What HotSpot says of a pool without a limit.
const NO_LIMIT: u64 = u64::MAX;

const fn usdt(name: &'static str, provider: &'static str, probe: &'static str) -> Program {
    Program { name, attach: Attach::JvmProbe { provider, probe } }
}

impl Probe for JvmEvents {
    fn name(&self) -> &'static str {
        "jvm_events"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["jvm_events"]
    }

    fn hides(&self) -> &'static str {
        "the JVM's collections, its memory pools around them, and its safepoints"
    }

    fn events(&self) -> &'static [u16] {
        &[event::JVM]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("jvm_events")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[Variant {
                name: "usdt",
                programs: &[
                    usdt("jvm_gc_begin", "hotspot", "gc__begin"),
                    usdt("jvm_gc_end", "hotspot", "gc__end"),
                    usdt("jvm_pool_begin", "hotspot", "mem__pool__gc__begin"),
                    usdt("jvm_pool_end", "hotspot", "mem__pool__gc__end"),
                    usdt("jvm_safepoint_begin", "hs_private", "safepoint__begin"),
                    usdt("jvm_safepoint_end", "hs_private", "safepoint__end"),
                    usdt("jvm_vm_operation_begin", "hotspot", "vmops__begin"),
                    usdt("jvm_vm_operation_end", "hotspot", "vmops__end"),
                ],
                lacks: None,
            }]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &[]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        sink.push(decode(bytes)?);
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Result<JvmEvent, Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let (dur, full, used_before, committed_before) = (r.i64()?, r.u64()?, r.u64()?, r.u64()?);
    let (used_after, committed_after, max) = (r.u64()?, r.u64()?, r.u64()?);
    let (name, pool) = (text(r.bytes(TEXT)?), text(r.bytes(TEXT)?));
    let event = match h.detail {
        1 => JvmEventKind::Gc,
        2 => JvmEventKind::Pool,
        3 => JvmEventKind::Safepoint,
        4 => JvmEventKind::VmOperation,
        _ => return Err(Undecodable),
    };
    let has_start = h.aux & HAS_START != 0;
    let of_pool = |v: u64| (event == JvmEventKind::Pool).then_some(v);
    Ok(JvmEvent {
        ts: h.ts,
        dur: has_start.then_some(dur),
        pid: h.pid,
        tid: h.tid,
        event,
        name,
        pool,
        full: (has_start && event == JvmEventKind::Gc).then_some(full != 0),
        used_before_bytes: of_pool(used_before).filter(|_| has_start),
        used_after_bytes: of_pool(used_after),
        committed_before_bytes: of_pool(committed_before).filter(|_| has_start),
        committed_after_bytes: of_pool(committed_after),
        max_bytes: of_pool(max).filter(|v| *v != NO_LIMIT),
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    Some(c_string(bytes)).filter(|t| !t.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    fn record(which: u16, aux: u32, name: &str, pool: &str) -> Vec<u8> {
        let mut b = with(header(event::JVM, which, 10, 11, aux, 500), &[70, 1, 2, 3, 4, 5, u64::MAX]);
        for text in [name, pool] {
            let mut field = text.as_bytes().to_vec();
            field.resize(TEXT, 0);
            b.extend(field);
        }
        b
    }

    #[test]
    fn a_pool_has_its_bytes_and_a_collection_its_kind() {
        let pool = decode(&record(2, HAS_START, "G1 Young Generation", "G1 Eden Space")).unwrap();
        assert_eq!((pool.name.as_deref(), pool.pool.as_deref()), (Some("G1 Young Generation"), Some("G1 Eden Space")));
        assert_eq!((pool.used_before_bytes, pool.committed_before_bytes), (Some(2), Some(3)));
        assert_eq!((pool.used_after_bytes, pool.committed_after_bytes, pool.max_bytes), (Some(4), Some(5), None));
        assert_eq!((pool.full, pool.dur), (None, Some(70)));
        let gc = decode(&record(1, HAS_START, "", "")).unwrap();
        assert_eq!((gc.full, gc.used_after_bytes, gc.name), (Some(true), None, None));
    }

    #[test]
    fn without_its_begin_only_the_end_is_known() {
        let pool = decode(&record(2, 0, "a", "b")).unwrap();
        assert_eq!((pool.dur, pool.used_before_bytes, pool.used_after_bytes), (None, None, Some(4)));
        assert_eq!(decode(&record(1, 0, "", "")).unwrap().full, None);
    }

    #[test]
    fn short_and_unknown_records_are_refused() {
        let bytes = record(1, 1, "", "");
        for n in 0..bytes.len() {
            assert_eq!(decode(&bytes[..n]), Err(Undecodable), "{n} bytes");
        }
        assert_eq!(decode(&record(5, 1, "", "")), Err(Undecodable));
    }
}
