//! How a command ended.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// How a command ended and what it used (its waited-for children included, as wait4(2) counts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// As wait(2) encodes it: exit code << 8 | signal.
    pub status: i32,
    /// Faults without I/O.
    pub minor_faults: u64,
    /// Faults with I/O.
    pub major_faults: u64,
    /// User CPU time, ns.
    pub cpu_user_ns: u64,
    /// System CPU time, ns.
    pub cpu_system_ns: u64,
    /// Peak RSS.
    pub rss_peak_bytes: u64,
}

impl Exit {
    /// In plain words: "exit code 0", "signal 9 (SIGKILL)".
    pub fn describe(&self) -> String {
        describe_status(self.status)
    }
}

/// A status of wait(2) in plain words.
pub fn describe_status(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        let core = if libc::WCOREDUMP(status) { ", core dumped" } else { "" };
        return match Signal::try_from(signal) {
            Ok(s) => format!("signal {signal} ({s}{core})"),
            Err(_) => format!("signal {signal}{core}"),
        };
    }
    format!("exit code {}", libc::WEXITSTATUS(status))
}

/// wait4(2); `None` if the child lives (a ptrace stop is life).
pub(super) fn wait4(pid: Pid, flags: i32) -> io::Result<Option<Exit>> {
    let mut status = 0;
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are valid for the call to fill.
        let r = unsafe { libc::wait4(pid.as_raw(), &mut status, flags, &mut usage) };
        match r {
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Err(io::Error::last_os_error()),
            0 => return Ok(None),
            _ if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) => break,
            _ => return Ok(None),
        }
    }
    let ns = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_usec.unsigned_abs() * 1_000;
    Ok(Some(Exit {
        status,
        minor_faults: usage.ru_minflt.unsigned_abs(),
        major_faults: usage.ru_majflt.unsigned_abs(),
        cpu_user_ns: ns(usage.ru_utime),
        cpu_system_ns: ns(usage.ru_stime),
        rss_peak_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
    }))
}
