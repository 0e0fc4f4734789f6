//! Who has ended, by whatever way that becomes known.

use super::processes::Todo;
use super::{REMOVE_AFTER_NS, Session};
use crate::host::monotonic_ns;
use crate::target::launch::Launched;

impl Session<'_> {
    /// Takes ended processes out of the kernel's map, late enough that nothing of theirs comes after.
    pub(super) fn reap(&mut self) {
        let now = monotonic_ns();
        while let Some((when, pid, image)) = self.ended.front().copied() {
            if now - when < REMOVE_AFTER_NS {
                break;
            }
            self.ended.pop_front();
            // Unless the pid is in use again.
            if self.processes.image(pid) == Some(image) {
                self.shared.remove_target(pid);
            }
            self.processes.forget(pid, image, &mut self.sink.borrow_mut());
        }
    }

    /// Finds targets that ended without an exit event: the probe is absent, or the event was lost.
    pub(super) fn look_for_the_dead(&mut self) {
        for pid in self.processes.alive() {
            let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
            if gone {
                self.processes.ended(pid, None);
                self.follow(Todo::Ended(pid));
            }
        }
        if self.lost_life() {
            self.clear_unknown();
        }
    }

    /// True if records of who came and went are lost.
    fn lost_life(&self) -> bool {
        let probe = self.probes.iter().find(|p| p.probe.name() == "process_events");
        let sink = self.sink.borrow();
        probe.is_some_and(|p| crate::accounts::lost_rows(&p.counters(), sink.counts(p.probe)) > 0)
    }

    /// Takes processes out of the kernel's map that are gone, and that nobody here has heard of: they would fill it.
    fn clear_unknown(&self) {
        for pid in self.shared.targets() {
            if self.processes.image(pid).is_none() && !std::path::Path::new(&format!("/proc/{pid}")).exists() {
                self.shared.remove_target(pid);
            }
        }
    }

    /// True if no target lives, and none can come.
    pub(super) fn targets_are_gone(&mut self) -> bool {
        let launched = match self.launched.as_mut().map(Launched::try_wait) {
            Some(Ok(None)) => return false,
            Some(Ok(Some(exit))) => Some(exit.status),
            // Somebody else reaped it: it is gone all the same.
            Some(Err(_)) | None => None,
        };
        if let (Some(pid), Some(status)) = (self.launched.as_ref().map(Launched::pid), launched) {
            // Its exit event may still be on its way through the ring.
            self.drain();
            if self.processes.is_alive(pid) {
                self.processes.ended(pid, Some(status));
                self.follow(Todo::Ended(pid));
            }
        }
        !self.processes.any_alive() && !self.rule.may_bring_more()
    }
}
