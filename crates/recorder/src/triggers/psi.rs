//! Pressure stall information: by the kernel's own trigger where the window fits it, else from its counters.
//!
//! The kernel watches windows of 0.5 to 10 s (kernel/sched/psi.c: `WINDOW_MIN_US`, `WINDOW_MAX_US`) and tells a poller with
//! POLLPRI, at most once per window (<https://docs.kernel.org/accounting/psi.html>). Longer windows are computed here
//! from `total=`, the stall time so far in microseconds: the exact sum over the window, not an average of averages.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::percent_of;
use super::spec::Psi;

const KERNEL_WINDOW_MAX: Duration = Duration::from_secs(10);

/// What went wrong and what to do about it.
pub(super) type Refused = (String, &'static str);

pub(super) struct Watch {
    path: PathBuf,
    psi: Psi,
    /// What tasks have to stall for within the window.
    threshold: Duration,
    way: Way,
}

enum Way {
    Kernel(File),
    /// Stall time read at these times, ns, within the window.
    Own(VecDeque<(i64, u64)>),
    /// The cgroup is gone.
    Gone,
}

impl Watch {
    pub(super) fn open(psi: &Psi) -> Result<Self, Refused> {
        let path = match &psi.cgroup {
            Some(cgroup) => cgroup.join(format!("{}.pressure", psi.resource.name())),
            None => PathBuf::from(format!("/proc/pressure/{}", psi.resource.name())),
        };
        let threshold = percent_of(psi.window, psi.percent);
        total_us(&path, psi.full).map_err(|e| refused(&path, &e))?;
        let own = || Way::Own(VecDeque::new());
        // A window that is no multiple of 2 s is refused without CAP_SYS_RESOURCE, and so is writing to a file of root's.
        let way = match psi.window <= KERNEL_WINDOW_MAX {
            true => kernel_trigger(&path, psi, threshold).map_or_else(|_| own(), Way::Kernel),
            false => own(),
        };
        Ok(Self { path, psi: psi.clone(), threshold, way })
    }

    /// What tasks stalled for, if that is the threshold.
    pub(super) fn poll(&mut self, now: i64, read: bool) -> Option<String> {
        let stalled = match &mut self.way {
            Way::Kernel(file) => match poll_pri(file) {
                Polled::Fired => self.threshold,
                Polled::Nothing => return None,
                Polled::Gone => {
                    self.way = Way::Gone;
                    return None;
                }
            },
            Way::Own(readings) if read => {
                let total = total_us(&self.path, self.psi.full).ok()?;
                own_sum(readings, now, total, self.psi.window, self.threshold)?
            }
            Way::Own(_) | Way::Gone => return None,
        };
        let who = if self.psi.full { "all tasks" } else { "tasks" };
        let name = self.psi.resource.name();
        Some(format!(
            "{who} stalled on {name} for at least {} ms of {} ms, by `{}`",
            stalled.as_millis(),
            self.psi.window.as_millis(),
            self.path.display()
        ))
    }

    /// How it is watched, if that is not by the kernel.
    pub(super) fn note(&self) -> Option<String> {
        let why = match &self.way {
            Way::Own(_) if self.psi.window > KERNEL_WINDOW_MAX => "the kernel's own triggers have 10 s at most",
            Way::Own(_) => "the kernel refused a trigger of its own",
            Way::Kernel(_) | Way::Gone => return None,
        };
        Some(format!("stall time is summed over the window from readings every 250 ms: {why}"))
    }
}

/// The stall time within the window once it is the threshold; then the window begins anew.
fn own_sum(
    readings: &mut VecDeque<(i64, u64)>,
    now: i64,
    total: u64,
    window: Duration,
    threshold: Duration,
) -> Option<Duration> {
    let window_ns = i64::try_from(window.as_nanos()).unwrap_or(i64::MAX);
    while readings.front().is_some_and(|(ts, _)| now - ts > window_ns) {
        readings.pop_front();
    }
    readings.push_back((now, total));
    let stalled = Duration::from_micros(total.saturating_sub(readings.front()?.1));
    if stalled < threshold {
        return None;
    }
    readings.clear();
    readings.push_back((now, total));
    Some(stalled)
}

fn kernel_trigger(path: &Path, psi: &Psi, threshold: Duration) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let kind = if psi.full { "full" } else { "some" };
    // The kernel wants it in one write, ended by a zero.
    file.write_all(format!("{kind} {} {}\0", threshold.as_micros(), psi.window.as_micros()).as_bytes())?;
    Ok(file)
}

enum Polled {
    Fired,
    Nothing,
    Gone,
}

fn poll_pri(file: &File) -> Polled {
    let mut fd = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
    // SAFETY: one descriptor, which `fd` describes; the call does not wait.
    if unsafe { libc::poll(&raw mut fd, 1, 0) } <= 0 {
        return Polled::Nothing;
    }
    match fd.revents {
        r if r & libc::POLLERR != 0 => Polled::Gone,
        r if r & libc::POLLPRI != 0 => Polled::Fired,
        _ => Polled::Nothing,
    }
}

/// Stall time so far, microseconds.
fn total_us(path: &Path, full: bool) -> io::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let kind = if full { "full " } else { "some " };
    let total = text.lines().find(|l| l.starts_with(kind)).and_then(|l| l.rsplit_once("total="));
    total.and_then(|(_, n)| n.trim().parse().ok()).ok_or_else(|| io::Error::other(format!("it has no `{kind}…total=`")))
}

fn refused(path: &Path, e: &io::Error) -> Refused {
    let what = format!("`{}` cannot be read: {e}", path.display());
    match e.raw_os_error() {
        Some(libc::EOPNOTSUPP) => (what, "pressure stall information is off: boot with psi=1"),
        Some(libc::ENOENT) => {
            (what, "the kernel needs CONFIG_PSI and psi=1, a cgroup the v2 hierarchy (`cgroup.pressure` at 1)")
        }
        _ => (what, "run as root, or leave this trigger out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stall_time_is_summed_over_the_window_and_no_longer() {
        let mut readings = VecDeque::new();
        let s = 1_000_000_000_i64;
        let (window, threshold) = (Duration::from_secs(30), Duration::from_secs(24));
        let mut at = |t: i64, total_s: u64| own_sum(&mut readings, t * s, total_s * 1_000_000, window, threshold);
        assert_eq!(at(0, 1000), None);
        assert_eq!(at(20, 1019), None);
        assert_eq!(at(30, 1023), None);
        // From 20 on: the readings before are out of the window.
        assert_eq!(at(50, 1042), None);
        assert_eq!(at(51, 1047), Some(Duration::from_secs(24)));
        assert_eq!(at(52, 1048), None, "it begins anew");
    }

    #[test]
    fn a_kernel_without_psi_is_told_apart() {
        let psi: super::super::Trigger = match "psi:memory.some>80%/2s@/no/such/cgroup".parse() {
            Ok(t) => t,
            Err(e) => panic!("{e}"),
        };
        let super::super::Condition::Psi(psi) = psi.condition() else { panic!("{psi:?}") };
        let refused = Watch::open(psi).err();
        assert!(refused.is_some_and(|(what, next)| what.contains("memory.pressure") && next.contains("psi=1")));
    }
}
