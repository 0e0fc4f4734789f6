//! The rows of each process.

use std::collections::BTreeMap;

use mtrace_formats::tables::{GcEvent, IoCall, JvmEvent, OffCpu, ProcessEvent, SocketRow};

use super::activity::Rows;
use super::overlays::{self, ByOverlay, Stall};
use crate::load::Tables;

/// Rows of one process; faults and calls are looked up by number.
#[derive(Default)]
pub(super) struct OfProcess<'a> {
    pub(super) faults: Vec<u32>,
    /// Faults in these rows.
    pub(super) fault_count: u64,
    pub(super) calls: Vec<u32>,
    pub(super) io: Vec<u32>,
    pub(super) io_rows: Vec<&'a IoCall>,
    pub(super) sockets: Vec<&'a SocketRow>,
    pub(super) overlays: ByOverlay<Vec<Stall>>,
    pub(super) off_cpu: Vec<&'a OffCpu>,
    pub(super) events: Vec<&'a ProcessEvent>,
    pub(super) gc: Vec<&'a GcEvent>,
    pub(super) jvm: Vec<&'a JvmEvent>,
    /// End of the last event that shows a thread at work, and the thread.
    pub(super) last: Option<(i64, u32)>,
}

impl<'a> OfProcess<'a> {
    fn see(&mut self, end: i64, tid: u32) {
        if self.last.is_none_or(|l| end >= l.0) {
            self.last = Some((end, tid));
        }
    }

    /// Weight by which the process of interest is chosen if none was asked anything.
    pub(super) fn weight(&self) -> u64 {
        self.fault_count + (self.calls.len() + self.io.len()) as u64
    }

    /// When the last file or network call ended.
    pub(super) fn last_io_ns(&self) -> Option<i64> {
        self.io_rows.iter().map(|c| c.ts + c.dur).max()
    }

    /// With their numbers in the tables.
    pub(super) fn rows<'b>(&'b self, tables: &'b Tables) -> Rows<'b> {
        Rows {
            faults: self.faults.iter().map(|i| (*i, &tables.faults[*i as usize])).collect(),
            calls: self.calls.iter().map(|i| (*i, &tables.calls[*i as usize])).collect(),
            io: self.io.iter().copied().zip(self.io_rows.iter().copied()).collect(),
            overlays: &self.overlays,
            off_cpu: self.off_cpu.clone(),
            events: self.events.clone(),
            symbols: &tables.symbols,
        }
    }
}

pub(super) type Processes<'a> = BTreeMap<u32, OfProcess<'a>>;

pub(super) fn by_process(t: &Tables) -> Processes<'_> {
    let mut out = Processes::new();
    for (i, f) in t.faults.iter().enumerate() {
        let p = out.entry(f.pid).or_default();
        p.faults.push(i as u32);
        p.fault_count += u64::from(f.count);
        p.see(f.ts + f.wall_ns(), f.tid);
    }
    for (i, c) in t.calls.iter().enumerate() {
        let p = out.entry(c.pid).or_default();
        p.calls.push(i as u32);
        p.see(c.ts + c.dur, c.tid);
    }
    for (i, c) in t.io.iter().enumerate() {
        let p = out.entry(c.pid).or_default();
        p.io.push(i as u32);
        p.io_rows.push(c);
        p.see(c.ts + c.dur, c.tid);
    }
    for s in &t.sockets {
        out.entry(s.pid).or_default().sockets.push(s);
    }
    for (pid, stalls) in overlays::by_process(t) {
        out.entry(pid).or_default().overlays = stalls;
    }
    for o in &t.off_cpu {
        out.entry(o.pid).or_default().off_cpu.push(o);
    }
    for e in &t.process_events {
        let p = out.entry(e.pid).or_default();
        p.events.push(e);
        p.see(e.ts, e.tid);
    }
    for g in &t.gc {
        out.entry(g.pid).or_default().gc.push(g);
    }
    for e in &t.jvm {
        out.entry(e.pid).or_default().jvm.push(e);
    }
    out
}
