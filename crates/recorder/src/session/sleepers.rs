//! The threads that sleep when a process becomes a target.
//!
//! The kernel side sees a thread leave the CPU and come back. A sleep that began before would write no row, and the
//! time up to its end would pass for computing. So the threads that sleep are put into the kernel side's map right after
//! it was attached: "off the CPU since the attach, at the latest". That is exact: an entry is only added where there is
//! none, so a thread that left since has its own, and one that runs by now writes over ours when it leaves.
//!
//! A thread that waits for a CPU at that moment is left out: it may be one that runs.

use std::fs;

use mtrace_formats::tables::OffCpuState;

use super::Loaded;
use crate::probes::off_cpu;

/// Notes the sleeping threads of `pid`, which is a target since `ts`.
pub(super) fn note(probes: &[Loaded], pid: u32, ts: i64) {
    let Some(probe) = probes.iter().find(|p| p.probe.name() == off_cpu::NAME) else { return };
    for (tid, state) in sleeping_threads(pid) {
        probe.add_to_map(off_cpu::THREADS, &tid.to_ne_bytes(), &off_cpu::left(ts, state));
    }
}

fn sleeping_threads(pid: u32) -> Vec<(u32, OffCpuState)> {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    dir.flatten()
        .filter_map(|e| {
            let tid = e.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(e.path().join("stat")).ok()?;
            Some((tid, state_of(&stat)?))
        })
        .collect()
}

/// The state in a stat file: the letter after the name, which may hold any bytes; `None` if the thread is not asleep.
fn state_of(stat: &[u8]) -> Option<OffCpuState> {
    let name_ends = stat.iter().rposition(|b| *b == b')')?;
    match stat.get(name_ends + 2)? {
        b'S' => Some(OffCpuState::Sleeping),
        b'D' => Some(OffCpuState::Uninterruptible),
        b'T' | b't' => Some(OffCpuState::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stands_after_the_last_parenthesis() {
        assert_eq!(state_of(b"7 (a) S (b) D 1 2"), Some(OffCpuState::Uninterruptible));
        assert_eq!(state_of(b"7 (name) S 1 2"), Some(OffCpuState::Sleeping));
        assert_eq!(state_of(b"7 (name) R 1 2"), None);
        for bad in [&b""[..], b"7 (name", b"7 (name)", b"7 (name) "] {
            assert_eq!(state_of(bad), None);
        }
    }

    #[test]
    fn a_thread_of_ours_that_sleeps_is_found() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv().is_err());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while sleeping_threads(std::process::id()).is_empty() {
            assert!(std::time::Instant::now() < until, "no sleeping thread within ten seconds");
        }
        drop(stop);
        assert!(thread.join().is_ok_and(|closed| closed));
    }
}
