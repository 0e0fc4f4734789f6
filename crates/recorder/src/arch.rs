//! What depends on the architecture in user space; the kernel side has bpf/arch.bpf.h.
//!
//! The records hold system calls by the numbers of this host, which are those of `libc`; the tables name them.

use mtrace_formats::tables::{IoCallKind, MemoryCallKind};

/// Calls that only old architectures have.
#[cfg(target_arch = "x86_64")]
mod old {
    pub(super) const FORKS: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
    pub(super) const OPENS: &[libc::c_long] = &[libc::SYS_open, libc::SYS_creat];
}
#[cfg(not(target_arch = "x86_64"))]
mod old {
    pub(super) const FORKS: &[libc::c_long] = &[];
    pub(super) const OPENS: &[libc::c_long] = &[];
}

/// The calls that the probe of memory calls records.
pub(crate) fn memory_call(nr: u16) -> Option<MemoryCallKind> {
    Some(match libc::c_long::from(nr) {
        libc::SYS_mmap => MemoryCallKind::Mmap,
        libc::SYS_mprotect => MemoryCallKind::Mprotect,
        libc::SYS_munmap => MemoryCallKind::Munmap,
        libc::SYS_brk => MemoryCallKind::Brk,
        libc::SYS_mremap => MemoryCallKind::Mremap,
        libc::SYS_madvise => MemoryCallKind::Madvise,
        libc::SYS_clone | libc::SYS_clone3 => MemoryCallKind::Fork,
        nr if old::FORKS.contains(&nr) => MemoryCallKind::Fork,
        _ => return None,
    })
}

/// The calls that the probe of file and network calls records.
pub(crate) fn io_call(nr: u16) -> Option<IoCallKind> {
    Some(match libc::c_long::from(nr) {
        libc::SYS_openat | libc::SYS_openat2 => IoCallKind::Open,
        libc::SYS_read
        | libc::SYS_pread64
        | libc::SYS_readv
        | libc::SYS_preadv
        | libc::SYS_preadv2
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg => IoCallKind::Read,
        libc::SYS_write
        | libc::SYS_pwrite64
        | libc::SYS_writev
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_sendto
        | libc::SYS_sendmsg => IoCallKind::Write,
        libc::SYS_accept | libc::SYS_accept4 => IoCallKind::Accept,
        libc::SYS_connect => IoCallKind::Connect,
        libc::SYS_fsync | libc::SYS_fdatasync => IoCallKind::Sync,
        libc::SYS_close => IoCallKind::Close,
        libc::SYS_listen => IoCallKind::Listen,
        nr if old::OPENS.contains(&nr) => IoCallKind::Open,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `#define NR_NAME number` of the kernel side's header for this architecture.
    fn kernel_side() -> Vec<(&'static str, i64)> {
        let header = if cfg!(target_arch = "x86_64") {
            include_str!("bpf/arch_x86.bpf.h")
        } else {
            include_str!("bpf/arch_arm64.bpf.h")
        };
        let numbers = header.lines().filter_map(|line| line.strip_prefix("#define NR_")?.split_once(' '));
        numbers.filter_map(|(name, nr)| Some((name, nr.parse().ok()?))).collect()
    }

    #[test]
    fn both_sides_know_the_same_calls() {
        let numbers = kernel_side();
        assert!(numbers.len() >= 30, "{numbers:?}");
        for (name, nr) in numbers {
            // Below zero: a call that this architecture does not have.
            let Ok(nr) = u16::try_from(nr) else { continue };
            assert!(memory_call(nr).is_some() != io_call(nr).is_some(), "{name} is {nr}");
        }
    }

    #[test]
    fn other_calls_have_no_kind() {
        let nr = libc::SYS_gettid as u16;
        assert_eq!((memory_call(nr), io_call(nr)), (None, None));
    }
}
