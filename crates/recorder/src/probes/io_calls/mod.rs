//! File and network calls, as many per process as the knob `io_calls_per_process` says.
//!
//! Own counters: 0 `never_returned`: the thread was killed inside the call; 1 `call_of_32_bit_code`.

use mtrace_formats::tables::{IoCall, IoCallKind};

use super::wire::{Reader, Undecodable, event, outcome};
use super::{Probe, Program, Variant};
use crate::session::Sink;
use crate::{FaultMode, arch};

/// `enum mt_io_aux`.
const HAS_MODE: u32 = 1;
const SOCKET: u32 = 2;
const HAS_BYTE: u32 = 4;

pub(crate) struct IoCalls;

impl Probe for IoCalls {
    fn name(&self) -> &'static str {
        "io_calls"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["io_calls"]
    }

    fn hides(&self) -> &'static str {
        "file and network calls: when requests came and were answered, and what they waited for"
    }

    fn events(&self) -> &'static [u16] {
        &[event::IO_CALL]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("io_calls")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[Variant {
                name: "tp_btf",
                programs: &[Program::trace("io_enter"), Program::trace("io_exit"), Program::trace("io_thread_exit")],
                lacks: None,
            }]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["never_returned", "call_of_32_bit_code"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        sink.push(decode(bytes)?);
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Result<IoCall, Undecodable> {
    let mut r = Reader::new(bytes);
    let h = r.header()?;
    let call = arch::io_call(h.detail).ok_or(Undecodable)?;
    let (dur, ret, fd) = (r.i64()?, r.i64()?, r.i64()?);
    let (result, errno) = outcome(ret);
    let socket = (h.aux & HAS_MODE != 0).then_some(h.aux & SOCKET != 0);
    Ok(IoCall {
        ts: h.ts,
        dur,
        pid: h.pid,
        tid: h.tid,
        call,
        fd: (call != IoCallKind::Open).then_some(fd as i32),
        socket,
        result,
        errno,
        first_byte: (h.aux & HAS_BYTE != 0).then_some(h.aux >> 8 & 0xff),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use libc::{SYS_close, SYS_openat, SYS_read};

    use super::super::wire::testing::{header, with};
    use super::*;

    fn io(nr: libc::c_long, aux: u32, ret: i64, fd: i64) -> IoCall {
        decode(&with(header(event::IO_CALL, nr as u16, 5, 6, aux, 9), &[70, ret.cast_unsigned(), fd.cast_unsigned()]))
            .unwrap()
    }

    #[test]
    fn a_read_from_a_socket_has_its_first_byte() {
        let row = io(SYS_read, HAS_MODE | SOCKET | HAS_BYTE | 0x16 << 8, 517, 4);
        assert_eq!((row.call, row.fd, row.socket), (IoCallKind::Read, Some(4), Some(true)));
        assert_eq!((row.result, row.errno, row.first_byte), (Some(517), None, Some(0x16)));
    }

    #[test]
    fn first_byte_zero_is_not_the_same_as_none() {
        assert_eq!(io(SYS_read, HAS_MODE | SOCKET | HAS_BYTE, 1, 4).first_byte, Some(0));
        assert_eq!(io(SYS_read, HAS_MODE | SOCKET, -11, 4).first_byte, None);
    }

    #[test]
    fn open_has_no_descriptor_argument() {
        let row = io(SYS_openat, 0, -2, -100);
        assert_eq!((row.call, row.fd, row.socket, row.errno), (IoCallKind::Open, None, None, Some(2)));
    }

    #[test]
    fn a_bad_descriptor_leaves_socket_unknown() {
        assert_eq!(io(SYS_close, 0, -9, 99).socket, None);
        assert_eq!(io(SYS_close, HAS_MODE, 0, 3).socket, Some(false));
    }
}
