//! Starts a command so that it stops at its exec before running one instruction of its own.
//!
//! Two steps, because the recorder needs the pid before the exec and the maps right after it:
//!
//! 1. [`Launched::prepare`] forks. The child waits at a gate (a pipe): its pid exists and can go into the kernel
//!    filter, and no probe can miss its exec.
//! 2. [`Launched::exec_stopped`] opens the gate and returns at the exec stop: `/proc/PID/maps` is exact, nothing has run.
//! 3. [`Launched::resume`] lets it go, untraced: a debugger can attach to it from then on.
//!
//! Whoever dies, nothing is left behind: if the recorder dies while the child waits, the child reads end-of-file and
//! exits; at the exec stop PTRACE_O_EXITKILL kills it; [`Drop`] kills and reaps a child that never ran.
//!
//! The child stays in the recorder's process group, the terminal's foreground group. Ctrl-C therefore reaches the
//! command and the recorder alike, as under time(1) or strace(1), and a command that reads the terminal is not stopped
//! by SIGTTIN. The recorder must catch SIGINT and wait for the command to end.

mod child;
mod error;
mod exit;
mod path;

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

pub use child::ResourceLimits;
use child::{Descriptors, Image, child, highest_descriptor};
pub use error::LaunchError;
use error::exec_error;
use exit::wait4;
pub use exit::{Exit, describe_status};
use path::resolve;

/// Where the command stands after [`Launched::exec_stopped`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStop {
    /// True if it is stopped at its exec; false if ptrace was refused and it is already running.
    pub exact: bool,
    /// Why it is not exact; what that costs.
    pub note: Option<String>,
    /// Minor faults up to here: of the waiting child and inside exec itself. An exec does not reset the counters, so
    /// [`Exit`] includes them; no event of the command's own belongs to them. `None` if not exact.
    pub minor_faults_before: Option<u64>,
    /// Major faults, likewise.
    pub major_faults_before: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Behind the gate.
    Waiting,
    /// At the exec stop.
    Stopped,
    Running,
}

/// A command that was started by the recorder.
///
/// Not `Send`: the kernel accepts ptrace calls from the tracing thread only.
#[derive(Debug)]
pub struct Launched {
    pid: Pid,
    program: PathBuf,
    state: State,
    exit: Option<Exit>,
    gate: Option<OwnedFd>,
    failure: Option<OwnedFd>,
    same_thread: PhantomData<*mut ()>,
}

impl Launched {
    /// Forks a child that waits before its exec of `argv` (looked up in PATH as execvp(3) does).
    ///
    /// The child inherits stdin, stdout, stderr and the environment, gets `limits`, an empty signal mask and SIGPIPE's
    /// default back (Rust programs ignore it); what the recorder's parent ignored (nohup) stays ignored.
    ///
    /// # Errors
    /// A command that is missing or obviously not executable is reported here, before anything is forked.
    pub fn prepare(argv: &[OsString], limits: &ResourceLimits) -> Result<Self, LaunchError> {
        let program = resolve(argv)?;
        let image = Image::new(&program, argv)?;
        let system = |action| {
            let path = program.clone();
            move |e: Errno| LaunchError::System { action, path, source: e.into() }
        };
        let (gate_read, gate_write) = pipe2(OFlag::O_CLOEXEC).map_err(system("create a pipe"))?;
        let (fail_read, fail_write) = pipe2(OFlag::O_CLOEXEC).map_err(system("create a pipe"))?;
        keep_exit_status();

        // Blocked around the fork: a handler of the recorder must not run in the child.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
            .map_err(system("block signals"))?;
        let fds = Descriptors {
            gate: gate_read.as_raw_fd(),
            gate_write: gate_write.as_raw_fd(),
            failure: fail_write.as_raw_fd(),
            highest: highest_descriptor(),
        };
        // SAFETY: between fork and exec the child makes system calls only: no allocation, no lock.
        let forked = match unsafe { libc::fork() } {
            0 => unsafe { child(&image, limits, &fds) },
            -1 => Err(Errno::last()),
            pid => Ok(Pid::from_raw(pid)),
        };
        let restored = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        let pid = forked.map_err(system("fork"))?;
        let launched = Self {
            pid,
            program: program.clone(),
            state: State::Waiting,
            exit: None,
            gate: Some(gate_write),
            failure: Some(fail_read),
            same_thread: PhantomData,
        };
        restored.map_err(system("restore signals"))?;
        Ok(launched)
    }

    /// [`Launched::prepare`] and [`Launched::exec_stopped`] in one, where nothing needs the pid before the exec.
    ///
    /// # Errors
    /// As both.
    pub fn spawn(argv: &[OsString]) -> Result<(Self, ExecStop), LaunchError> {
        let mut launched = Self::prepare(argv, &ResourceLimits::current())?;
        let stop = launched.exec_stopped()?;
        Ok((launched, stop))
    }

    /// The pid of the command (the same before and after the exec), in the recorder's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// The file that is executed.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Lets the child exec and returns when it stopped there.
    ///
    /// Where ptrace is refused (seccomp, Yama, a recorder that is traced itself) the command runs without a stop and
    /// the answer says so.
    ///
    /// # Errors
    /// Exec failed, or the child was killed meanwhile; it is reaped then.
    pub fn exec_stopped(&mut self) -> Result<ExecStop, LaunchError> {
        if self.state != State::Waiting {
            return Ok(self.stop(None));
        }
        let options = ptrace::Options::PTRACE_O_TRACEEXEC | ptrace::Options::PTRACE_O_EXITKILL;
        // Seize instead of PTRACE_TRACEME: the options hold from the first moment and the exec stop has a number of
        // its own, so that no SIGTRAP sent by somebody can pass for it.
        let seized = ptrace::seize(self.pid, options);
        self.open_gate()?;
        match seized {
            Ok(()) => self.wait_for_exec_stop(),
            Err(e) => self.wait_for_exec(e),
        }
    }

    /// Lets a stopped command go on, untraced. Does nothing if it runs already.
    ///
    /// # Errors
    /// If ptrace fails for another reason than that the command was killed meanwhile.
    pub fn resume(&mut self) -> Result<(), LaunchError> {
        if self.state != State::Stopped {
            return Ok(());
        }
        match ptrace::detach(self.pid, None) {
            // ESRCH: killed at the stop; try_wait tells how.
            Ok(()) | Err(Errno::ESRCH) => {
                self.state = State::Running;
                Ok(())
            }
            Err(e) => Err(self.system("detach", e)),
        }
    }

    /// How the command ended; `None` while it lives. Never blocks; may be called again after the end.
    ///
    /// # Errors
    /// If wait4(2) fails, for example because somebody else reaped the child.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        if self.exit.is_none() {
            self.exit = wait4(self.pid, libc::WNOHANG)?;
        }
        Ok(self.exit)
    }

    /// Asks the command to end (SIGTERM), kills it (SIGKILL) if it has not ended after `grace`, and reaps it.
    ///
    /// Its children are not signalled. A command that never ran is killed at once.
    ///
    /// # Errors
    /// As [`Launched::try_wait`].
    pub fn terminate(&mut self, grace: Duration) -> io::Result<Exit> {
        if let Some(exit) = self.try_wait()? {
            return Ok(exit);
        }
        if self.state == State::Running {
            // The pid cannot have been reused: the child is not reaped yet.
            let _ = kill(self.pid, Signal::SIGTERM);
            let _ = kill(self.pid, Signal::SIGCONT);
            let until = Instant::now() + grace;
            while Instant::now() < until {
                if let Some(exit) = self.try_wait()? {
                    return Ok(exit);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill_and_reap()
    }

    fn kill_and_reap(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        loop {
            if let Some(exit) = wait4(self.pid, libc::__WALL)? {
                self.exit = Some(exit);
                return Ok(exit);
            }
        }
    }

    fn open_gate(&mut self) -> Result<(), LaunchError> {
        let Some(gate) = self.gate.take() else { return Ok(()) };
        match std::fs::File::from(gate).write_all(b"g") {
            // Broken pipe: the child was killed behind the gate; the wait that follows tells how.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(LaunchError::System { action: "open the gate", path: self.program.clone(), source: e })
            }
            _ => Ok(()),
        }
    }

    fn wait_for_exec_stop(&mut self) -> Result<ExecStop, LaunchError> {
        loop {
            let status = match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(|e| self.system("wait", e))?,
            };
            let pass_on = match status {
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => {
                    self.state = State::Stopped;
                    self.failure = None;
                    return Ok(self.stop(None));
                }
                WaitStatus::Exited(_, code) => return Err(self.not_started(code << 8)),
                WaitStatus::Signaled(_, signal, _) => return Err(self.not_started(signal as i32)),
                WaitStatus::Stopped(_, signal) => Some(signal),
                _ => None,
            };
            match ptrace::cont(self.pid, pass_on) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => return Err(self.system("continue", e)),
            }
        }
    }

    /// Without ptrace: the failure pipe closes at the exec.
    fn wait_for_exec(&mut self, refused: Errno) -> Result<ExecStop, LaunchError> {
        if let Some(errno) = self.read_failure() {
            let _ = self.kill_and_reap();
            return Err(exec_error(&self.program, errno));
        }
        self.state = State::Running;
        let note = format!(
            "ptrace was refused ({}): the command was not stopped at its exec, its first mappings may have changed \
             before they were read; allow ptrace (CAP_SYS_PTRACE, kernel.yama.ptrace_scope below 3)",
            refused.desc()
        );
        Ok(self.stop(Some(note)))
    }

    fn stop(&self, note: Option<String>) -> ExecStop {
        let exact = self.state == State::Stopped;
        let stat = if exact { crate::sampler::read_stat(self.pid()) } else { None };
        ExecStop {
            exact,
            note,
            minor_faults_before: stat.as_ref().map(|s| s.minflt),
            major_faults_before: stat.map(|s| s.majflt),
        }
    }

    /// The child ended without an exec, and was reaped by the wait that reported it.
    fn not_started(&mut self, status: i32) -> LaunchError {
        self.exit = Some(Exit {
            status,
            minor_faults: 0,
            major_faults: 0,
            cpu_user_ns: 0,
            cpu_system_ns: 0,
            rss_peak_bytes: 0,
        });
        match self.read_failure() {
            Some(errno) => exec_error(&self.program, errno),
            None => LaunchError::Ended { path: self.program.clone(), by: describe_status(status) },
        }
    }

    /// errno of the child's exec; `None` at end-of-file, which means that it succeeded or never came to it.
    fn read_failure(&mut self) -> Option<Errno> {
        let mut errno = [0; 4];
        std::fs::File::from(self.failure.take()?).read_exact(&mut errno).ok()?;
        Some(Errno::from_raw(i32::from_ne_bytes(errno)))
    }

    fn system(&self, action: &'static str, e: Errno) -> LaunchError {
        LaunchError::System { action, path: self.program.clone(), source: e.into() }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = match self.state {
            State::Waiting | State::Stopped => self.kill_and_reap().map(Some),
            // It runs and is nobody's business any more; if it ended, do not leave a zombie.
            State::Running => self.try_wait(),
        };
    }
}

/// An inherited "ignore SIGCHLD" would make the kernel reap children itself, exit status and rusage included.
fn keep_exit_status() {
    // SAFETY: sigaction with valid pointers; all zeroes is a valid sigaction (SIG_DFL, no flags).
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGCHLD, std::ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_IGN {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGCHLD, &default, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests;
