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

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

/// Exit code of the child when its exec failed; the reason goes through a pipe and not through this number.
const EXEC_FAILED: i32 = 127;

/// RLIM_NLIMITS of the kernel; the number has been 16 since 2.6.25. An unknown resource is passed over.
const RESOURCES: i32 = 16;

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The argument vector is empty or holds a NUL byte.
    #[error("no usable command: {0}")]
    BadArguments(&'static str),
    /// No such file, or no such name in PATH.
    #[error("command `{}` not found: {searched}", command.to_string_lossy())]
    NotFound {
        /// As given.
        command: OsString,
        /// Where it was looked for, and what to do next.
        searched: String,
    },
    /// There is a file, and it cannot be executed.
    #[error("cannot execute `{}`: {found}", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do next.
        found: String,
    },
    /// exec(2) failed for another reason.
    #[error("failed to execute `{}`: {source}{hint}", path.display())]
    Exec {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
        /// What to do next; starts with "; " or is empty.
        hint: &'static str,
    },
    /// The child ended before its exec.
    #[error("`{}` was ended by {by} before it began to run", path.display())]
    Ended {
        /// The file.
        path: PathBuf,
        /// Signal or exit code.
        by: String,
    },
    /// A system call needed for starting failed.
    #[error("failed to {action} for `{}`: {source}", path.display())]
    System {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Soft and hard resource limits, taken before the recorder changes its own, to give to the command.
#[derive(Debug, Clone)]
pub struct ResourceLimits(Vec<(i32, libc::rlimit)>);

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
        // SAFETY: between fork and exec the child makes system calls only: no allocation, no lock.
        let forked = match unsafe { libc::fork() } {
            0 => unsafe {
                child(&image, limits, gate_read.as_raw_fd(), gate_write.as_raw_fd(), fail_write.as_raw_fd())
            },
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

/// wait4(2); `None` if the child lives (a ptrace stop is life).
fn wait4(pid: Pid, flags: i32) -> io::Result<Option<Exit>> {
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

/// Everything the child needs, allocated before the fork.
struct Image {
    path: CString,
    _strings: Vec<CString>,
    argv: Vec<*const libc::c_char>,
}

impl Image {
    fn new(program: &Path, argv: &[OsString]) -> Result<Self, LaunchError> {
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

/// The child between fork and exec: system calls only.
///
/// # Safety
/// Only in a forked child; the descriptors must be those of the two pipes.
unsafe fn child(image: &Image, limits: &ResourceLimits, gate: i32, gate_write: i32, failure: i32) -> ! {
    unsafe {
        // Or this process would hold its own gate open and never see the recorder die.
        libc::close(gate_write);
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

fn resolve(argv: &[OsString]) -> Result<PathBuf, LaunchError> {
    let command = argv.first().ok_or(LaunchError::BadArguments("no command was given after `--`"))?;
    if command.is_empty() {
        return Err(LaunchError::BadArguments("the command's name is empty"));
    }
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return match check(&path) {
            Check::Good => Ok(path),
            Check::Absent => Err(LaunchError::NotFound {
                command: command.clone(),
                searched: "there is no such file; check the path".to_owned(),
            }),
            Check::Bad(found) => Err(LaunchError::NotExecutable { path, found }),
        };
    }
    // execvp(3)'s default where PATH is not set.
    let list = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut bad = None;
    for dir in std::env::split_paths(&list) {
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
        let path = dir.join(command);
        match check(&path) {
            Check::Good => return Ok(path),
            Check::Bad(found) => bad = bad.or(Some(LaunchError::NotExecutable { path, found })),
            Check::Absent => {}
        }
    }
    Err(bad.unwrap_or_else(|| not_in_path(command, &list)))
}

fn not_in_path(command: &OsStr, list: &OsStr) -> LaunchError {
    let searched = if Path::new(command).is_file() {
        format!("it is not in PATH, and there is a file of this name here: write ./{}", command.to_string_lossy())
    } else {
        // sudo replaces PATH, which is the usual surprise.
        format!("not in PATH ({}); give its path (sudo has a PATH of its own)", list.to_string_lossy())
    };
    LaunchError::NotFound { command: command.to_owned(), searched }
}

enum Check {
    Good,
    Absent,
    Bad(String),
}

fn check(path: &Path) -> Check {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Check::Absent,
        Err(e) => Check::Bad(e.to_string()),
        Ok(m) if m.is_dir() => Check::Bad("it is a directory".to_owned()),
        Ok(m) if !m.is_file() => Check::Bad("it is not a regular file".to_owned()),
        Ok(m) if nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_err() => Check::Bad(format!(
            "permission denied (mode {:04o}); make it executable with chmod +x, or name its interpreter",
            m.permissions().mode() & 0o7777
        )),
        Ok(_) => Check::Good,
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

fn exec_error(path: &Path, errno: Errno) -> LaunchError {
    let hint = match errno {
        Errno::ENOENT => "; the file is there, so the interpreter it names (its #! line or ELF loader) is missing",
        Errno::ENOEXEC => "; its format is not one this machine executes (empty, damaged, or another architecture)",
        Errno::EACCES => "; check the permissions of the file, its interpreter, and a noexec mount",
        Errno::E2BIG => "; the arguments and the environment are too long together",
        Errno::ETXTBSY => "; the file is open for writing",
        _ => "",
    };
    LaunchError::Exec { path: path.to_path_buf(), source: errno.into(), hint }
}

#[cfg(test)]
#[path = "launch_tests.rs"]
mod tests;
