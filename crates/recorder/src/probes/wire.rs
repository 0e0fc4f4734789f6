//! Reads the records of `bpf/wire.h`. Pure: bytes in, values out; nothing here needs libbpf.

/// A record that is shorter than its event says, or holds a value that is not one of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Undecodable;

/// Little-endian fields one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], Undecodable> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Undecodable)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Undecodable)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Undecodable> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Undecodable> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Undecodable> {
        self.array().map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Undecodable> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Undecodable> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn header(&mut self) -> Result<Header, Undecodable> {
        Ok(Header {
            event: self.u16()?,
            detail: self.u16()?,
            pid: self.u32()?,
            tid: self.u32()?,
            aux: self.u32()?,
            ts: self.u64()?.cast_signed(),
        })
    }
}

/// `struct mt_header`: begins every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) event: u16,
    pub(crate) detail: u16,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) aux: u32,
    pub(crate) ts: i64,
}

/// `enum mt_event`.
pub(crate) mod event {
    pub(crate) const STACK: u16 = 1;
    pub(crate) const FILE: u16 = 2;
    pub(crate) const PROCESS: u16 = 3;
    pub(crate) const MEMORY_CALL: u16 = 4;
    pub(crate) const IO_CALL: u16 = 5;
    pub(crate) const FAULT: u16 = 6;
    pub(crate) const GC: u16 = 7;
    pub(crate) const OFF_CPU: u16 = 8;
    pub(crate) const REFUSAL: u16 = 9;
    pub(crate) const FAULT_RUN: u16 = 10;
    pub(crate) const FAULT_BATCH: u16 = 11;
    pub(crate) const RECLAIM: u16 = 12;
    pub(crate) const OOM_KILL: u16 = 20;
    pub(crate) const LOCK_WAIT: u16 = 21;
    pub(crate) const THROTTLE: u16 = 22;
    pub(crate) const FAULT_COUNT: u16 = 40;
    pub(crate) const GO_MEMORY: u16 = 60;
    pub(crate) const JVM: u16 = 61;
    pub(crate) const COLLAPSE: u16 = 80;
}

/// `struct mt_stack`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StackRecord {
    pub(crate) pid: u32,
    pub(crate) image: u32,
    pub(crate) hash: u64,
    /// Perhaps the return address of the innermost function, if that has no frame; 0 if it is certainly not.
    pub(crate) top: u64,
    pub(crate) ips: Vec<u64>,
}

impl StackRecord {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut r = Reader::new(bytes);
        let h = r.header()?;
        let (hash, top) = (r.u64()?, r.u64()?);
        let ips = (0..h.detail).map(|_| r.u64()).collect::<Result<_, _>>()?;
        Ok(Self { pid: h.pid, image: h.aux, hash, top, ips })
    }
}

/// `struct mt_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRecord {
    pub(crate) pid: u32,
    pub(crate) dev: u64,
    pub(crate) inode: u64,
    pub(crate) name: String,
}

impl FileRecord {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut r = Reader::new(bytes);
        let h = r.header()?;
        let dev = user_dev(r.u64()?);
        let inode = r.u64()?;
        let name = String::from_utf8_lossy(r.bytes(usize::from(h.detail))?).into_owned();
        Ok(Self { pid: h.pid, dev, inode, name })
    }
}

/// The device as stat(2) and /proc/PID/maps number it, from the kernel's own form (`MKDEV`: major << 20 | minor).
pub(crate) fn user_dev(kernel: u64) -> u64 {
    let (major, minor) = (kernel >> 20, kernel & 0xf_ffff);
    libc::makedev(major as u32, minor as u32)
}

/// What a system call returned: the value, or errno.
///
/// ERESTARTSYS and its kin (512 …, include/linux/errno.h) never reach the caller: a signal interrupted the call, and the
/// kernel either restarts it or reports EINTR.
pub(crate) fn outcome(ret: i64) -> (Option<u64>, Option<i32>) {
    match ret {
        -4095..=-1 => {
            let errno = -ret as i32;
            (None, Some(if matches!(errno, 512..=514 | 516) { libc::EINTR } else { errno }))
        }
        _ => (Some(ret.cast_unsigned()), None),
    }
}

/// A fixed-size C string.
pub(crate) fn c_string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
pub(crate) mod testing {
    /// The header of a record as the kernel side writes it.
    pub(crate) fn header(event: u16, detail: u16, pid: u32, tid: u32, aux: u32, ts: u64) -> Vec<u8> {
        let mut b = Vec::new();
        b.extend(event.to_le_bytes());
        b.extend(detail.to_le_bytes());
        for v in [pid, tid, aux] {
            b.extend(v.to_le_bytes());
        }
        b.extend(ts.to_le_bytes());
        b
    }

    /// Appends u64 fields.
    pub(crate) fn with(mut b: Vec<u8>, fields: &[u64]) -> Vec<u8> {
        for f in fields {
            b.extend(f.to_le_bytes());
        }
        b
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::testing::{header, with};
    use super::*;

    #[test]
    fn a_stack_is_read_back() {
        let bytes = with(header(event::STACK, 3, 10, 11, 7, 0), &[0xfeed, 9, 1, 2, 3]);
        let s = StackRecord::decode(&bytes).unwrap();
        assert_eq!(s, StackRecord { pid: 10, image: 7, hash: 0xfeed, top: 9, ips: vec![1, 2, 3] });
    }

    #[test]
    fn a_record_that_is_too_short_is_an_error_at_every_length() {
        let bytes = with(header(event::STACK, 3, 10, 11, 7, 0), &[0xfeed, 9, 1, 2, 3]);
        for n in 0..bytes.len() {
            assert_eq!(StackRecord::decode(&bytes[..n]), Err(Undecodable), "{n} bytes");
        }
    }

    #[test]
    fn devices_are_numbered_as_stat_does() {
        assert_eq!(user_dev(8 << 20 | 1), 0x801);
        assert_eq!(user_dev(253 << 20 | 300), libc::makedev(253, 300));
    }

    #[test]
    fn errors_are_told_from_addresses() {
        assert_eq!(outcome(0), (Some(0), None));
        assert_eq!(outcome(-12), (None, Some(12)));
        assert_eq!(outcome(-512), (None, Some(libc::EINTR)));
        // The vsyscall page is the highest address a call may return; it is no errno.
        assert_eq!(outcome(0xffff_ffff_ff60_0000_u64.cast_signed()), (Some(0xffff_ffff_ff60_0000), None));
    }
}
