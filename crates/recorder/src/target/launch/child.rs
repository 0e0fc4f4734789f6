//! The child between fork and exec: what it needs is made before the fork, and it makes system calls only.

use std::ffi::{CString, OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::error::LaunchError;

/// Exit code of the child when its exec failed; the reason goes through a pipe and not through this number.
const EXEC_FAILED: i32 = 127;

/// RLIM_NLIMITS of the kernel; the number has been 16 since 2.6.25. An unknown resource is passed over.
const RESOURCES: i32 = 16;

/// Soft and hard resource limits, taken before the recorder changes its own, to give to the command.
#[derive(Debug, Clone)]
pub struct ResourceLimits(pub(super) Vec<(i32, libc::rlimit)>);

impl ResourceLimits {
    /// The limits of this process now.
    pub fn current() -> Self {
        Self((0..RESOURCES).filter_map(|r| Some((r, limit(r)?))).collect())
    }
}

fn limit(resource: i32) -> Option<libc::rlimit> {
    let mut value = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `value` is a valid rlimit for the call to fill.
    let r = unsafe { libc::getrlimit(resource as _, &mut value) };
    (r == 0).then_some(value)
}

/// Everything the child needs, allocated before the fork.
pub(super) struct Image {
    path: CString,
    _strings: Vec<CString>,
    argv: Vec<*const libc::c_char>,
}

impl Image {
    pub(super) fn new(program: &Path, argv: &[OsString]) -> Result<Self, LaunchError> {
        let c = |s: &OsStr| {
            CString::new(s.as_bytes()).map_err(|_| LaunchError::BadArguments("an argument holds a NUL byte"))
        };
        let mut strings = argv.iter().map(|a| c(a)).collect::<Result<Vec<_>, _>>()?;
        let mut path = c(program.as_os_str())?;
        if is_script_without_interpreter(program) {
            // What shells and execvp(3) do with a script that does not name its interpreter.
            strings[0] = path;
            strings.insert(0, c"sh".to_owned());
            path = c"/bin/sh".to_owned();
        }
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { path, _strings: strings, argv: pointers })
    }
}

/// The descriptors of the child.
pub(super) struct Descriptors {
    /// It waits for a byte from here.
    pub(super) gate: i32,
    /// The recorder's side of the gate.
    pub(super) gate_write: i32,
    /// Where the errno of a failed exec goes.
    pub(super) failure: i32,
    /// The highest one that was open before the fork.
    pub(super) highest: i32,
}

/// The highest descriptor that is open in this process; 0 if it cannot be told.
pub(super) fn highest_descriptor() -> i32 {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).max().unwrap_or(0)
}

/// The child between fork and exec: system calls only.
///
/// # Safety
/// Only in a forked child; the descriptors must be those of the two pipes.
pub(super) unsafe fn child(image: &Image, limits: &ResourceLimits, fds: &Descriptors) -> ! {
    let (gate, failure) = (fds.gate, fds.failure);
    unsafe {
        // Or this process would hold its own gate open and never see the recorder die.
        libc::close(fds.gate_write);
        close_what_exec_would_close(fds);
        reset_signals();
        for (resource, value) in &limits.0 {
            // May fail where a limit cannot be set back; the command then has the recorder's.
            libc::setrlimit(*resource as _, value);
        }
        let mut byte = 0u8;
        let n = loop {
            let n = libc::read(gate, (&raw mut byte).cast(), 1);
            if n >= 0 || *libc::__errno_location() != libc::EINTR {
                break n;
            }
        };
        if n == 1 {
            libc::execv(image.path.as_ptr(), image.argv.as_ptr());
            let errno = *libc::__errno_location();
            libc::write(failure, (&raw const errno).cast(), size_of_val(&errno));
        }
        libc::_exit(EXEC_FAILED)
    }
}

/// It waits for as long as probes are loaded: until then it must not hold files of the process that it came from. A file
/// that was removed there would keep its space, a filesystem could not be unmounted, a pipe would never end.
///
/// # Safety
/// Only in a forked child.
unsafe fn close_what_exec_would_close(fds: &Descriptors) {
    for fd in 3..=fds.highest {
        // SAFETY: descriptors are numbers; this process has no owner of one that it goes on to use.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC != 0 && fd != fds.gate && fd != fds.failure {
            unsafe { libc::close(fd) };
        }
    }
}

/// Default for every signal that the recorder handles and for SIGPIPE; then none is blocked.
///
/// # Safety
/// Only in a forked child with all signals blocked.
unsafe fn reset_signals() {
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=libc::SIGRTMAX() {
            let mut now: libc::sigaction = std::mem::zeroed();
            let known = libc::sigaction(signal, std::ptr::null(), &mut now) == 0;
            if known && (now.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE) {
                libc::sigaction(signal, &default, std::ptr::null_mut());
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// True for text that starts with neither `#!` nor the ELF magic; a foreign or damaged binary must not go to a shell.
fn is_script_without_interpreter(path: &Path) -> bool {
    let mut head = Vec::new();
    let Ok(file) = std::fs::File::open(path) else { return false };
    if file.take(256).read_to_end(&mut head).is_err() {
        return false;
    }
    !head.is_empty() && !head.starts_with(b"#!") && !head.contains(&0)
}
