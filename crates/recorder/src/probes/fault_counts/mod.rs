//! The kernel's own counts of the page faults of each process: exact whatever else is recorded of them.
//!
//! The program tells the counts of a process that ends; [`reading`] those of one that lives.

use mtrace_formats::tables::{FaultCount, FaultCountAt};

use super::wire::{Reader, Undecodable, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

pub(crate) struct FaultCounts;

impl Probe for FaultCounts {
    fn name(&self) -> &'static str {
        "fault_counts"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["fault_counts"]
    }

    fn hides(&self) -> &'static str {
        "how many page faults a process had when it ended, by the kernel's own count"
    }

    fn events(&self) -> &'static [u16] {
        &[event::FAULT_COUNT]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("fault_counts")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const { &[Variant { name: "tp_btf", programs: &[Program::trace("count_at_exit")], lacks: None }] }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &[]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        sink.push(decode(bytes)?);
        Ok(())
    }
}

/// Decodes `struct mt_fault_count`.
fn decode(bytes: &[u8]) -> Result<FaultCount, Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    Ok(FaultCount { ts: h.ts, pid: h.pid, at: FaultCountAt::Exit, minor: r.u64()?, major: r.u64()? })
}

/// The counts of a process that lives (minflt and majflt of /proc/PID/stat: all its threads, those that are gone
/// included); `None` if it is gone.
pub(crate) fn reading(pid: u32, at: FaultCountAt) -> Option<FaultCount> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (minor, major) = parse(&text)?;
    Some(FaultCount { ts: crate::host::monotonic_ns(), pid, at, minor, major })
}

/// Fields 10 and 12 of proc(5); the name before them may hold anything.
fn parse(stat: &[u8]) -> Option<(u64, u64)> {
    let after_name = stat.iter().rposition(|b| *b == b')')? + 1;
    let text = std::str::from_utf8(&stat[after_name..]).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(7);
    Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    #[test]
    fn the_counts_of_a_process_that_ended_are_read_back() {
        let bytes = with(header(event::FAULT_COUNT, 0, 5, 5, 0, 1000), &[70, 3]);
        let row = decode(&bytes).unwrap();
        assert_eq!((row.ts, row.pid, row.minor, row.major, row.at), (1000, 5, 70, 3, FaultCountAt::Exit));
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_name_with_brackets_and_blanks_hides_no_field() {
        let line = b"7 (a) b) 1 2) S 1 7 7 0 -1 4194560 123 9 45 9 1 2 3 4";
        assert_eq!(parse(line), Some((123, 45)));
        assert_eq!(parse(b"7 (x"), None);
        assert_eq!(parse(b"7 (x) S 1"), None);
    }
}
