//! Limits of a recording besides its duration: size on disk and number of events.

use super::Session;

/// What a file takes on disk is rounded up to this.
const BLOCK: u64 = 4096;
/// What closing a capture may add at most besides names: the rows that are under way, the last maps, the manifest.
const CLOSING_BYTES: u64 = 384 * 1024;
/// On disk, of the names of a frame.
const NAME_BYTES: u64 = 6;

impl Session<'_> {
    /// The reason to stop, if one of the limits is reached.
    pub(super) fn limit_reached(&self) -> Option<&'static str> {
        if self.options.max_events.is_some_and(|max| self.events() >= max) {
            return Some("max events");
        }
        self.options.max_bytes.is_some_and(|max| self.bytes_on_disk() >= max).then_some("max size")
    }

    /// Events in the rows written so far.
    fn events(&self) -> u64 {
        let sink = self.sink.borrow();
        self.probes.iter().map(|p| sink.counts(p.probe).written).sum()
    }

    /// What the capture would take if it were closed now.
    fn bytes_on_disk(&self) -> u64 {
        let sink = self.sink.borrow();
        let closing = CLOSING_BYTES.min(self.options.max_bytes.unwrap_or(0) / 2);
        sink.writer.bytes_if_closed(BLOCK) + closing + sink.stacks.frames() as u64 * NAME_BYTES
    }
}
