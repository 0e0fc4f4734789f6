//! Small pages that are replaced by huge ones, by khugepaged or by madvise(MADV_COLLAPSE).
//!
//! Own counters: 0 `left_alone`: ranges of the targets that khugepaged looked at and did not try to collapse;
//! 1 `owner_unknown`: collapses of an address space of which the kernel does not tell whose it is.

mod results;

use mtrace_formats::tables::{Collapse, CollapsedBy, CollapsedMemory};

use super::wire::{Reader, Undecodable, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::host::HostFacts;
use crate::session::Sink;

const BY_KHUGEPAGED: u16 = 1;
const BY_OTHER: u16 = 2;
const OF_FILE: u16 = 4;
/// What was not measured.
const NOT_MEASURED: u64 = u64::MAX;

const OWNER: Program = Program::trace("owner_is_known");
const ANON: [Program; 3] =
    [Program::trace("anon_isolated"), Program::trace("anon_collapsed"), Program::trace("anon_scanned")];
const FILE: Program = Program::trace("file_scanned");

pub(crate) struct Collapses;

impl Probe for Collapses {
    fn name(&self) -> &'static str {
        "collapses"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["collapses"]
    }

    fn hides(&self) -> &'static str {
        "whether memory grew, or mmap_lock was held, because small pages were replaced by huge ones (khugepaged, \
         MADV_COLLAPSE)"
    }

    fn objection(&self, facts: &HostFacts) -> Option<String> {
        facts.host.thp_enabled.is_none().then(|| {
            "this kernel has no transparent huge pages (no /sys/kernel/mm/transparent_hugepage; \
             CONFIG_TRANSPARENT_HUGEPAGE): it collapses nothing"
                .to_owned()
        })
    }

    fn events(&self) -> &'static [u16] {
        &[event::COLLAPSE]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("collapses")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            let [a, b, c] = ANON;
            &[
                Variant {
                    name: "tp_btf",
                    programs: &[a, b, c, FILE, OWNER, Program::trace("file_collapsed")],
                    lacks: None,
                },
                // 6.1: the row is the same but for the address.
                Variant { name: "tp_btf, no address", programs: &[a, b, c, FILE, OWNER], lacks: None },
                Variant {
                    name: "tp_btf, anonymous memory",
                    programs: &[a, b, c, OWNER],
                    lacks: Some("before 6.1 the kernel does not tell how the collapse of a file's pages ended"),
                },
                Variant {
                    name: "tp_btf, own",
                    programs: &[a, b, c, FILE],
                    lacks: Some(
                        "without CONFIG_MEMCG the kernel does not tell whose memory khugepaged collapses: only \
                         MADV_COLLAPSE of the targets themselves is recorded",
                    ),
                },
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["left_alone", "owner_unknown"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        sink.push(decode(bytes, results::name, results::huge_page_pages())?);
        Ok(())
    }
}

/// Decodes `struct mt_collapse`; `huge` is how many small pages a huge one stands for.
fn decode(bytes: &[u8], name: impl Fn(u32) -> String, huge: Option<u64>) -> Result<Collapse, Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let measured = |value: u64| (value != NOT_MEASURED).then_some(value);
    let (pages, copy, addr) = (measured(r.u64()?), measured(r.u64()?), measured(r.u64()?));
    let by = match h.detail & !OF_FILE {
        0 => CollapsedBy::Own,
        BY_KHUGEPAGED => CollapsedBy::Khugepaged,
        BY_OTHER => CollapsedBy::Other,
        _ => return Err(Undecodable),
    };
    let of_file = h.detail & OF_FILE != 0;
    Ok(Collapse {
        ts: h.ts,
        pid: h.pid,
        tid: h.tid,
        by,
        memory: if of_file { CollapsedMemory::File } else { CollapsedMemory::Anon },
        result: name(h.aux),
        // Of a file the kernel tells the pages that were there.
        new_pages: if of_file { pages.zip(huge).map(|(there, all)| all.saturating_sub(there)) } else { pages },
        copy_ns: copy.map(u64::cast_signed),
        addr,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    fn record(detail: u16, fields: &[u64; 3]) -> Vec<u8> {
        with(header(event::COLLAPSE, detail, 5, 6, 1, 1000), fields)
    }

    fn decoded(bytes: &[u8]) -> Result<Collapse, Undecodable> {
        decode(bytes, |n| format!("result {n}"), Some(512))
    }

    #[test]
    fn anonymous_memory_has_the_pages_that_came_and_a_file_those_that_were_there() {
        let row = decoded(&record(BY_KHUGEPAGED, &[511, 70, NOT_MEASURED])).unwrap();
        assert_eq!((row.ts, row.pid, row.tid, row.by), (1000, 5, 6, CollapsedBy::Khugepaged));
        assert_eq!((row.memory, row.result.as_str()), (CollapsedMemory::Anon, "result 1"));
        assert_eq!((row.new_pages, row.copy_ns, row.addr), (Some(511), Some(70), None));
        let row = decoded(&record(OF_FILE, &[500, NOT_MEASURED, 0x20_0000])).unwrap();
        assert_eq!((row.by, row.memory), (CollapsedBy::Own, CollapsedMemory::File));
        assert_eq!((row.new_pages, row.copy_ns, row.addr), (Some(12), None, Some(0x20_0000)));
        assert_eq!(decode(&record(OF_FILE, &[500, 0, 0]), |_| String::new(), None).unwrap().new_pages, None);
    }

    #[test]
    fn what_was_not_measured_is_null_and_bad_records_are_errors() {
        let row = decoded(&record(BY_OTHER, &[NOT_MEASURED; 3])).unwrap();
        assert_eq!((row.by, row.new_pages, row.copy_ns, row.addr), (CollapsedBy::Other, None, None, None));
        assert!(decoded(&record(BY_KHUGEPAGED | BY_OTHER, &[0; 3])).is_err());
        assert!(decoded(&record(8, &[0; 3])).is_err());
        let whole = record(0, &[1; 3]);
        for n in 0..whole.len() {
            assert!(decoded(&whole[..n]).is_err(), "{n} bytes");
        }
    }
}
