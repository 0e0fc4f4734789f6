//! What the kernel counted when it refused a call of the mmap family: mappings, pages, limits in force.
//!
//! brk is left out: it does not return an errno, and glibc falls back to mmap.

use mtrace_formats::tables::Refusal;

use super::wire::{Reader, Undecodable, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

pub(crate) struct Refusals;

impl Probe for Refusals {
    fn name(&self) -> &'static str {
        "refusals"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["refusals"]
    }

    fn hides(&self) -> &'static str {
        "why a mapping was refused: the limits in force and the kernel's own counts at that moment"
    }

    fn events(&self) -> &'static [u16] {
        &[event::REFUSAL]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("refusals")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const { &[Variant { name: "tp_btf", programs: &[Program::trace("refusal_exit")], lacks: None }] }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &[]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        sink.push(decode(bytes)?);
        Ok(())
    }
}

/// Decodes `struct mt_refusal`.
fn decode(bytes: &[u8]) -> Result<Refusal, Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let (vmas, mapped_pages, data_pages, locked_pages) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let mut limit = || r.u64().map(|bytes| (bytes != libc::RLIM_INFINITY).then_some(bytes));
    Ok(Refusal {
        ts: h.ts,
        pid: h.pid,
        tid: h.tid,
        vmas,
        mapped_pages,
        data_pages,
        locked_pages,
        limit_as_bytes: limit()?,
        limit_data_bytes: limit()?,
        limit_memlock_bytes: limit()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    #[test]
    fn an_infinite_limit_is_null() {
        let head = header(event::REFUSAL, 9, 5, 6, 0, 1000);
        let row = decode(&with(head.clone(), &[7, 100, 50, 1, 1 << 30, u64::MAX, 65536])).unwrap();
        assert_eq!((row.ts, row.pid, row.tid, row.vmas), (1000, 5, 6, 7));
        assert_eq!((row.mapped_pages, row.data_pages, row.locked_pages), (100, 50, 1));
        assert_eq!(row.limit_as_bytes, Some(1 << 30));
        assert_eq!((row.limit_data_bytes, row.limit_memlock_bytes), (None, Some(65536)));
        assert!(decode(&with(head, &[7, 100])).is_err());
    }
}
