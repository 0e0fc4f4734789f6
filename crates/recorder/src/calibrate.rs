//! What a page fault costs on this host, with and without being recorded.
//!
//! A recorded service time excludes exception entry and exit, and the probes themselves cost time that the report must
//! not blame on the target. Both are measured here, by a small loop of our own with maps of its own, before the targets
//! run: the analyzer can then say what a fault costs when nobody is looking.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};

use libbpf_rs::RingBufferBuilder;
use mtrace_formats::capture::FaultCost;

use crate::FaultMode;
use crate::probes::{Probe, faults_in};
use crate::ring::{Config, SharedMaps};
use crate::session::Loaded;

/// Pages that one round touches: few milliseconds, so that some rounds fall into quiet moments of a busy host.
const PAGES: usize = 2048;
/// Pages between neighbours in time where pages are touched out of order: farther apart than those of a run.
const SCATTER: usize = 1001;
/// Times that the probe is attached and detached again, so that both kinds of rounds see the same conditions.
const PASSES: usize = 3;
/// Rounds of each kind in a pass; the quickest one of all counts, because everything that disturbs makes it slower.
const ROUNDS: usize = 6;
/// Holds the records of a round several times over.
const RING_BYTES: usize = 1 << 20;

/// Measures the probe of faults, as it will run.
///
/// # Errors
/// In plain words, why it could not be measured: the recording goes on without it.
pub(crate) fn fault_cost(probe: &'static dyn Probe, faults: FaultMode) -> Result<FaultCost, String> {
    let mut looper = Looper::start().map_err(|e| format!("failed to start the calibration loop: {e}"))?;
    let shared = SharedMaps::create(RING_BYTES, 16).map_err(|e| e.to_string())?;
    let config = Config { next_image: 2, slow_fault_ns: u64::MAX, ..Config::default() };
    shared.configure(&config).map_err(|e| e.to_string())?;
    let mut loaded = Loaded::load(probe, faults, &shared)?;
    let seen = Cell::new((0_i64, 0_i64));
    let mut ring = RingBufferBuilder::new();
    ring.add(&shared.ring, |bytes| {
        if let Some((faults, ns)) = faults_in(bytes) {
            let (n, sum) = seen.get();
            seen.set((n + faults, sum + ns));
        }
        0
    })
    .map_err(|e| e.to_string())?;
    let ring = ring.build().map_err(|e| e.to_string())?;
    let orders: &[Order] =
        if faults == FaultMode::Runs { &[Order::Sequential, Order::Scattered] } else { &[Order::Sequential] };
    let mut best = [Best::default(); 2];
    let mut passed_by = i64::MAX;
    for _ in 0..PASSES {
        for (order, best) in orders.iter().zip(&mut best) {
            for _ in 0..ROUNDS {
                best.untraced = best.untraced.min(ask(&mut looper, *order)?);
            }
        }
        loaded.attach()?;
        for _ in 0..ROUNDS {
            passed_by = passed_by.min(ask(&mut looper, Order::Sequential)?);
        }
        shared.add_target(looper.pid, 1, false).map_err(|e| e.to_string())?;
        for (order, best) in orders.iter().zip(&mut best) {
            for _ in 0..ROUNDS {
                seen.set((0, 0));
                let recorded = ask(&mut looper, *order)?;
                loaded.flush()?;
                ring.consume().map_err(|e| e.to_string())?;
                best.see(recorded, seen.get());
            }
        }
        shared.remove_target(looper.pid);
        loaded.detach();
    }
    let pages = PAGES as i64;
    let [sequential, scattered] = best;
    if sequential.faults == 0 {
        return Err(format!("expected {PAGES} faults in a round, saw fewer"));
    }
    Ok(FaultCost {
        untraced_ns: sequential.untraced / pages,
        recorded_ns: sequential.recorded / pages,
        service_ns: sequential.service / sequential.faults,
        single_adds_ns: (scattered.faults > 0).then(|| (scattered.recorded - scattered.untraced).max(0) / pages),
        passed_by_ns: Some((passed_by - sequential.untraced).max(0) / pages),
    })
}

fn ask(looper: &mut Looper, order: Order) -> Result<i64, String> {
    looper.round(order).map_err(|e| format!("the calibration loop ended early: {e}"))
}

/// In which order a round touches its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Sequential = b's' as isize,
    Scattered = b'r' as isize,
}

/// The quickest rounds of an order.
#[derive(Debug, Clone, Copy)]
struct Best {
    untraced: i64,
    recorded: i64,
    faults: i64,
    service: i64,
}

impl Default for Best {
    fn default() -> Self {
        Self { untraced: i64::MAX, recorded: i64::MAX, faults: 0, service: 0 }
    }
}

impl Best {
    fn see(&mut self, recorded: i64, (faults, service): (i64, i64)) {
        if faults >= PAGES as i64 && recorded < self.recorded {
            *self = Self { recorded, faults, service, ..*self };
        }
    }
}

/// A child process that touches fresh pages when it is asked to.
struct Looper {
    pid: u32,
    ask: Option<File>,
    answer: File,
}

impl Looper {
    fn start() -> std::io::Result<Self> {
        let (ask_read, ask_write) = pipe()?;
        let (answer_read, answer_write) = pipe()?;
        // SAFETY: the child only makes system calls and touches memory that it maps itself; it never returns.
        match unsafe { libc::fork() } {
            -1 => Err(std::io::Error::last_os_error()),
            0 => {
                // The parent's ends must be closed here, else this process would keep its own question pipe open.
                drop((ask_write, answer_read));
                child(&ask_read, &answer_write)
            }
            pid => {
                Ok(Self { pid: pid.unsigned_abs(), ask: Some(File::from(ask_write)), answer: File::from(answer_read) })
            }
        }
    }

    /// Nanoseconds in which the pages were touched.
    fn round(&mut self, order: Order) -> std::io::Result<i64> {
        if let Some(ask) = &mut self.ask {
            ask.write_all(&[order as u8])?;
        }
        let mut ns = [0; 8];
        self.answer.read_exact(&mut ns)?;
        Ok(i64::from_ne_bytes(ns))
    }
}

impl Drop for Looper {
    fn drop(&mut self) {
        // The child ends when its questions do.
        self.ask = None;
        let mut status = 0;
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(self.pid as libc::pid_t, &raw mut status, 0) };
    }
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel fills both.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: both are new and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// The child's life: only system calls, because the parent may have held locks when it forked.
fn child(ask: &OwnedFd, answer: &OwnedFd) -> ! {
    use std::os::fd::AsRawFd as _;
    close_all_but(ask.as_raw_fd(), answer.as_raw_fd());
    let mut question = 0_u8;
    // SAFETY: plain system calls on our own descriptors and buffers.
    unsafe {
        while libc::read(ask.as_raw_fd(), (&raw mut question).cast(), 1) == 1 {
            let ns = touch_round(if question == Order::Scattered as u8 { SCATTER } else { 1 });
            if libc::write(answer.as_raw_fd(), (&raw const ns).cast(), 8) != 8 {
                break;
            }
        }
        libc::_exit(0)
    }
}

/// Two recordings in one process would else keep each other's pipes open in their children, and wait for ever.
fn close_all_but(a: i32, b: i32) {
    const FIRST: u32 = 3;
    let (low, high) = (a.min(b).unsigned_abs(), a.max(b).unsigned_abs());
    for (from, to) in [(FIRST, low.saturating_sub(1)), (low + 1, high.saturating_sub(1)), (high + 1, u32::MAX)] {
        // SAFETY: descriptors that this child does not use; close_range(2) since 5.9.
        if from <= to && unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } != 0 {
            (from..=to.min(1 << 16)).for_each(|fd| {
                // SAFETY: as above.
                unsafe { libc::close(fd.cast_signed()) };
            });
        }
    }
}

/// `stride` has no divisor in common with the number of pages: each is touched once.
fn touch_round(stride: usize) -> i64 {
    let page_bytes = crate::host::page_bytes() as usize;
    let bytes = PAGES * page_bytes;
    // SAFETY: maps, touches and unmaps a range of its own.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if memory == libc::MAP_FAILED {
            libc::_exit(1);
        }
        libc::madvise(memory, bytes, libc::MADV_NOHUGEPAGE);
        let start = crate::host::monotonic_ns();
        let (mut page, mut left) = (0, PAGES);
        while left > 0 {
            memory.cast::<u8>().add(page * page_bytes).write_volatile(1);
            page = (page + stride) % PAGES;
            // Opaque, or the loop is unrolled and each of its stores is an instruction of its own.
            left = std::hint::black_box(left) - 1;
        }
        let ns = crate::host::monotonic_ns() - start;
        libc::munmap(memory, bytes);
        ns
    }
}
