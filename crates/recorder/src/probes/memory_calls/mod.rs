//! mmap, munmap, mremap, brk, mprotect, madvise and fork: arguments, result, duration, stack, file.
//!
//! The raw sys_enter and sys_exit tracepoints and not `syscalls:sys_enter_mmap` and its kin: those need tracefs and save
//! nothing, because the kernel implements them on top of the raw ones, for every call of every process.
//!
//! Own counters: 0 `never_returned`: the thread was killed inside the call; 1 `call_of_32_bit_code`.

use mtrace_formats::tables::{MemoryCall, MemoryCallKind};

use super::wire::{Header, Reader, Undecodable, event, outcome, user_dev};
use super::{Probe, Program, Variant};
use crate::session::Sink;
use crate::{FaultMode, arch};

const MAP_ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const MREMAP_FIXED: u64 = libc::MREMAP_FIXED as u64;

pub(crate) struct MemoryCalls;

/// A file that was mapped executable: the symboliser needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewCode {
    pub(crate) pid: u32,
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) offset: u64,
    pub(crate) dev: u64,
    pub(crate) inode: u64,
}

impl Probe for MemoryCalls {
    fn name(&self) -> &'static str {
        "memory_calls"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["memory_calls"]
    }

    fn hides(&self) -> &'static str {
        "mmap, munmap, mremap, brk, mprotect, madvise and fork: who mapped, gave back, copied or failed to get memory"
    }

    fn events(&self) -> &'static [u16] {
        &[event::MEMORY_CALL]
    }

    fn object(&self) -> &'static [u8] {
        super::object!("memory_calls")
    }

    fn variants(&self, _: FaultMode) -> &'static [Variant] {
        const {
            &[Variant {
                name: "tp_btf",
                programs: &[
                    Program::trace("memory_enter"),
                    Program::trace("memory_exit"),
                    Program::trace("memory_thread_exit"),
                ],
                lacks: None,
            }]
        }
    }

    fn ignored(&self) -> &'static [&'static str] {
        &["never_returned", "call_of_32_bit_code"]
    }

    fn record(&self, bytes: &[u8], sink: &mut Sink) -> Result<(), Undecodable> {
        let call = Call::decode(bytes)?;
        let stack_id = sink.stack_id(call.stack, self, 1);
        let file_id = call.file.map(|(dev, inode)| sink.files.id(dev, inode, call.header.pid));
        if let Some(code) = call.new_code() {
            sink.new_code.push(code);
        }
        sink.push(MemoryCall { stack_id, file_id, ..call.row() });
        Ok(())
    }
}

/// `struct mt_memory_call`.
struct Call {
    header: Header,
    kind: MemoryCallKind,
    dur: i64,
    ret: i64,
    args: [u64; 6],
    stack: u64,
    file: Option<(u64, u64)>,
}

impl Call {
    fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut r = Reader::new(bytes);
        let header = r.header()?;
        let kind = arch::memory_call(header.detail).ok_or(Undecodable)?;
        let (dur, ret) = (r.i64()?, r.i64()?);
        let mut args = [0; 6];
        for a in &mut args {
            *a = r.u64()?;
        }
        let stack = r.u64()?;
        let (dev, inode) = (user_dev(r.u64()?), r.u64()?);
        Ok(Self { header, kind, dur, ret, args, stack, file: (header.aux & 1 != 0).then_some((dev, inode)) })
    }

    fn new_code(&self) -> Option<NewCode> {
        let (dev, inode) = self.file?;
        let start = outcome(self.ret).0?;
        let executable = self.kind == MemoryCallKind::Mmap && self.args[2] & PROT_EXEC != 0;
        let [_, len, _, _, _, offset] = self.args;
        executable.then_some(NewCode { pid: self.header.pid, start, len, offset, dev, inode })
    }

    /// The row without what only this recording knows: the numbers of the stack and the file.
    fn row(&self) -> MemoryCall {
        use MemoryCallKind as K;
        let a = self.args;
        let (result, errno) = outcome(self.ret);
        let of_file = self.kind == K::Mmap && a[3] & MAP_ANONYMOUS == 0;
        MemoryCall {
            ts: self.header.ts,
            dur: self.dur,
            pid: self.header.pid,
            tid: self.header.tid,
            call: self.kind,
            addr: a[0],
            len_bytes: if self.kind == K::Brk { 0 } else { a[1] },
            prot_or_advice: matches!(self.kind, K::Mmap | K::Mprotect | K::Madvise).then_some(a[2] as u32),
            flags: matches!(self.kind, K::Mmap | K::Mremap | K::Fork).then_some(a[3] as u32),
            new_len_bytes: (self.kind == K::Mremap).then_some(a[2]),
            new_addr: (self.kind == K::Mremap && a[3] & MREMAP_FIXED != 0).then_some(a[4]),
            offset_bytes: of_file.then_some(a[5]),
            file_id: None,
            result,
            errno,
            stack_id: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use libc::{SYS_gettid, SYS_mmap, SYS_mprotect, SYS_mremap};

    use super::super::wire::testing::{header, with};
    use super::*;

    fn call(nr: libc::c_long, ret: i64, args: [u64; 6], file: Option<(u64, u64)>) -> Call {
        let (dev, inode) = file.unwrap_or_default();
        let head = header(event::MEMORY_CALL, nr as u16, 5, 6, u32::from(file.is_some()), 1000);
        let mut fields = vec![70, ret.cast_unsigned()];
        fields.extend(args);
        fields.extend([0xabc, dev, inode]);
        Call::decode(&with(head, &fields)).unwrap()
    }

    #[test]
    fn an_anonymous_mmap_has_no_offset_and_no_file() {
        let row = call(SYS_mmap, 0x7f00_0000_0000, [0, 8192, 3, 0x22, u64::MAX, 0], None).row();
        assert_eq!((row.call, row.ts, row.dur, row.pid, row.tid), (MemoryCallKind::Mmap, 1000, 70, 5, 6));
        assert_eq!((row.len_bytes, row.prot_or_advice, row.flags), (8192, Some(3), Some(0x22)));
        assert_eq!((row.result, row.errno, row.offset_bytes), (Some(0x7f00_0000_0000), None, None));
    }

    #[test]
    fn an_executable_file_map_is_news_for_the_symboliser() {
        let c = call(SYS_mmap, 0x7f00_0000_0000, [0, 8192, 5, 2, 3, 4096], Some((8 << 20 | 1, 77)));
        let code = c.new_code().unwrap();
        assert_eq!(
            (code.start, code.len, code.offset, code.dev, code.inode),
            (0x7f00_0000_0000, 8192, 4096, 0x801, 77)
        );
        assert_eq!(c.row().offset_bytes, Some(4096));
        assert_eq!(call(SYS_mmap, -12, [0, 8192, 5, 2, 3, 4096], Some((1, 77))).new_code(), None);
        assert_eq!(call(SYS_mmap, 4096, [0, 8192, 1, 2, 3, 4096], Some((1, 77))).new_code(), None);
    }

    #[test]
    fn a_failure_has_an_errno_and_no_result() {
        let row = call(SYS_mprotect, -12, [4096, 4096, 3, 0, 0, 0], None).row();
        assert_eq!((row.result, row.errno, row.flags), (None, Some(12), None));
    }

    #[test]
    fn mremap_tells_its_new_address_only_if_it_was_asked_for() {
        let row = call(SYS_mremap, 4096, [4096, 4096, 8192, 1, 99, 0], None).row();
        assert_eq!((row.new_len_bytes, row.flags, row.new_addr), (Some(8192), Some(1), None));
        let row = call(SYS_mremap, 4096, [4096, 4096, 8192, 3, 99, 0], None).row();
        assert_eq!(row.new_addr, Some(99));
    }

    #[test]
    fn another_system_call_is_not_decodable() {
        let head = header(event::MEMORY_CALL, SYS_gettid as u16, 5, 6, 0, 0);
        assert!(Call::decode(&with(head, &[0; 11])).is_err());
    }
}
