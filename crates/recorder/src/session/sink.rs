//! Where records become rows.

use std::collections::{BTreeMap, BTreeSet};

use mtrace_formats::capture::CaptureWriter;
use mtrace_formats::table::Row;
use mtrace_formats::tables::Frame;

use super::files::Files;
use super::slow::SlowWatch;
use super::stacks::Stacks;
use crate::accounts::UserCounts;
use crate::probes::wire::{FileRecord, Reader, StackRecord, Undecodable, event};
use crate::probes::{self, Life, NewCode, Probe};

/// Takes the records of the ring buffer in order. What needs /proc is left for the session.
pub(crate) struct Sink {
    pub(crate) writer: CaptureWriter,
    pub(crate) stacks: Stacks,
    pub(crate) files: Files,
    /// Processes that came, changed or went.
    pub(crate) life: Vec<Life>,
    /// Files that were mapped executable.
    pub(crate) new_code: Vec<NewCode>,
    /// Processes whose Go runtime passes a reason to stopTheWorldWithSema.
    pub(crate) has_stw_reason: BTreeSet<u32>,
    /// Looks at the rows for the slow ones.
    pub(crate) slow: Option<SlowWatch>,
    /// Records since the last [`Sink::take_bytes`], in bytes.
    bytes: usize,
    /// Records in this round.
    round: usize,
    undecodable: BTreeMap<u16, u64>,
    stack_lost: BTreeMap<&'static str, u64>,
    added: BTreeMap<&'static str, u64>,
    failure: Option<mtrace_formats::Error>,
}

impl Sink {
    pub(crate) fn new(writer: CaptureWriter) -> Self {
        Self {
            writer,
            stacks: Stacks::default(),
            files: Files::default(),
            life: Vec::new(),
            new_code: Vec::new(),
            has_stw_reason: BTreeSet::new(),
            slow: None,
            bytes: 0,
            round: 0,
            undecodable: BTreeMap::new(),
            stack_lost: BTreeMap::new(),
            added: BTreeMap::new(),
            failure: None,
        }
    }

    /// A round of reading begins.
    pub(crate) fn begin_round(&mut self) {
        self.round = 0;
    }

    /// True when so many bytes were taken in this round: more than the ring holds was not there when it began. Without
    /// an end to the round, targets that are faster than the reader would keep it in there for ever.
    pub(crate) fn round_is_over(&self, ring_bytes: u32) -> bool {
        self.round > ring_bytes as usize
    }

    /// Takes one record of the ring buffer.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.round += bytes.len();
        let event = Reader::new(bytes).u16().unwrap_or(0);
        let result = match event {
            event::STACK => self.take_stack(bytes),
            event::FILE => self.take_file(bytes),
            _ => match probes::ALL.iter().find(|p| p.events().contains(&event)) {
                Some(probe) => probe.record(bytes, self),
                None => Err(Undecodable),
            },
        };
        if result.is_err() {
            *self.undecodable.entry(event).or_default() += 1;
        }
    }

    fn take_stack(&mut self, bytes: &[u8]) -> Result<(), Undecodable> {
        self.stacks.define(StackRecord::decode(bytes)?);
        Ok(())
    }

    /// Writes the frames of the new stacks. `has_caller_on_top` says whether the word on top of the stack is a frame.
    pub(crate) fn settle_stacks(&mut self, mut has_caller_on_top: impl FnMut(&StackRecord) -> bool) {
        for (stack_id, mut record) in self.stacks.take_new() {
            if record.top != 0 && has_caller_on_top(&record) {
                record.ips.insert(1, record.top);
            }
            self.stacks.keep(stack_id, record.pid, record.image, &record.ips);
            for (depth, ip) in (0..).zip(record.ips) {
                self.push(Frame { stack_id, depth, pid: record.pid, ip });
            }
        }
    }

    fn take_file(&mut self, bytes: &[u8]) -> Result<(), Undecodable> {
        let f = FileRecord::decode(bytes)?;
        self.files.name(f.dev, f.inode, f.pid, f.name);
        Ok(())
    }

    /// The number of the stack with this hash, for a record of so many events; 0 and 1 are "no stack"
    /// (`enum mt_no_stack`), which the kernel side has counted.
    pub(crate) fn stack_id(&mut self, hash: u64, probe: &dyn Probe, events: u64) -> Option<u32> {
        if hash <= 1 {
            return None;
        }
        let id = self.stacks.id(hash);
        if id.is_none() {
            *self.stack_lost.entry(probe.name()).or_default() += events;
        }
        id
    }

    /// Writes a row. A failure is counted by the writer; the first one is kept and ends the recording.
    pub(crate) fn push<R: Row>(&mut self, row: R) {
        if let Some(slow) = &mut self.slow {
            slow.see(&row);
        }
        if let Err(e) = self.writer.push(row) {
            self.fail(e);
        }
    }

    /// Writes a row of a probe's table that no event in the kernel stands behind.
    pub(crate) fn push_added<R: Row>(&mut self, row: R) {
        *self.added.entry(R::NAME).or_default() += 1;
        self.push(row);
    }

    pub(crate) fn fail(&mut self, e: mtrace_formats::Error) {
        self.failure.get_or_insert(e);
    }

    /// The first failure to write.
    pub(crate) fn failure(&self) -> Option<&mtrace_formats::Error> {
        self.failure.as_ref()
    }

    /// Bytes taken since the last call.
    pub(crate) fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }

    /// What was counted here for a probe.
    pub(crate) fn counts(&self, probe: &dyn Probe) -> UserCounts {
        let of = |counts: BTreeMap<&'static str, u64>| probe.tables().iter().filter_map(|t| counts.get(t)).sum();
        UserCounts {
            written: of(self.writer.events_written()),
            write_failed: of(self.writer.events_failed()),
            added: probe.tables().iter().filter_map(|t| self.added.get(t)).sum(),
            undecodable: probe.events().iter().filter_map(|e| self.undecodable.get(e)).sum(),
            stack_lost: self.stack_lost.get(probe.name()).copied().unwrap_or(0),
        }
    }
}
