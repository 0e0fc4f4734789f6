//! Waits of a target's threads for the lock of their own address space.
//!
//! Own counters: 0 `without_waiting`: acquired at once (only where the kernel reports every acquisition);
//! 1 `never_ended`: the thread was killed within it.

use mtrace_formats::tables::{LockMode, LockWait};

use super::wire::{Reader, Undecodable, c_string, event};
use super::{Probe, Program, Variant};
use crate::FaultMode;
use crate::session::Sink;

const WRITE: u16 = 1;
const HELD_BY_READER: u16 = 2;
const HELD_BY_RECORDER: u16 = 4;

pub(crate) struct LockWaits;

impl Probe for LockWaits {
    fn name(&self) -> &'static str {
        "lock_waits"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["lock_waits"]
    }

    fn hides(&self) -> &'static str {
        "whether slow faults and memory calls waited for mmap_lock, and who held it"
    }

    fn events(&self) -> &'static [u16] {
        &[event::LOCK_WAIT]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("lock_waits")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[
                Variant {
                    name: "tp_btf",
                    programs: &[
                        Program::trace("contention_begin"),
                        Program::trace("contention_end"),
                        Program::trace("waiting_thread_exit"),
                    ],
                    lacks: None,
                },
                Variant {
                    name: "tp_btf, every acquisition",
                    programs: &[
                        Program::trace("locking_begins"),
                        Program::trace("locking_ends"),
                        Program::trace("waiting_thread_exit"),
                    ],
                    lacks: Some("before 5.19 the kernel does not tell waits: those below 2 us are not recorded"),
                },
            ]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["without_waiting", "never_ended"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let (row, stack) = decode(bytes)?;
        let stack_id = sink.stack_id(stack, self, 1);
        sink.push(LockWait { stack_id, ..row });
        Ok(())
    }
}

/// Decodes `struct mt_lock_wait`; the second value is the stack's hash.
fn decode(bytes: &[u8]) -> Result<(LockWait, u64), Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    if h.detail & !(WRITE | HELD_BY_READER | HELD_BY_RECORDER) != 0 {
        return Err(Undecodable);
    }
    let mode = |write| if write { LockMode::Write } else { LockMode::Read };
    let (dur, stack) = (r.i64()?, r.u64()?);
    let holder_pid = r.u32()?;
    r.u32()?;
    let comm = c_string(r.bytes(16)?);
    let known = h.aux != 0;
    let row = LockWait {
        ts: h.ts,
        dur,
        pid: h.pid,
        tid: h.tid,
        mode: mode(h.detail & WRITE != 0),
        holder_mode: known.then(|| mode(h.detail & HELD_BY_READER == 0)),
        holder_pid: known.then_some(holder_pid),
        holder_tid: known.then_some(h.aux),
        holder_comm: known.then_some(comm),
        holder_is_recorder: known.then_some(h.detail & HELD_BY_RECORDER != 0),
        stack_id: None,
    };
    Ok((row, stack))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::wire::testing::{header, with};
    use super::*;

    fn record(detail: u16, holder_tid: u32) -> Vec<u8> {
        let mut b = with(header(event::LOCK_WAIT, detail, 5, 6, holder_tid, 1000), &[70, 0xabc, 9]);
        b.extend(b"telegraf\0\0\0\0\0\0\0\0");
        b
    }

    #[test]
    fn a_writer_waits_for_a_foreign_reader() {
        let (row, stack) = decode(&record(WRITE | HELD_BY_READER, 10)).unwrap();
        assert_eq!((row.ts, row.dur, row.pid, row.tid, row.mode), (1000, 70, 5, 6, LockMode::Write));
        assert_eq!((row.holder_mode, row.holder_pid, row.holder_tid), (Some(LockMode::Read), Some(9), Some(10)));
        assert_eq!((row.holder_comm.as_deref(), stack), (Some("telegraf"), 0xabc));
    }

    #[test]
    fn an_unknown_holder_is_null_and_bad_records_are_errors() {
        let (row, _) = decode(&record(0, 0)).unwrap();
        assert_eq!((row.mode, row.holder_mode, row.holder_pid, row.holder_comm), (LockMode::Read, None, None, None));
        assert!(decode(&record(8, 1)).is_err());
        let whole = record(1, 1);
        for n in 0..whole.len() {
            assert!(decode(&whole[..n]).is_err(), "{n} bytes");
        }
    }
}
