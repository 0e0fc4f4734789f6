//! Looks at rows on their way to the writer for faults and calls that took too long.

use std::any::Any;
use std::time::Duration;

use mtrace_formats::capture::TriggerFired;
use mtrace_formats::table::Row;
use mtrace_formats::tables::{Fault, FaultRun, MemoryCall};

use crate::triggers::{Condition, Trigger};

/// The limits, each with its trigger; and what went beyond one.
#[derive(Debug, Default)]
pub(crate) struct SlowWatch {
    faults: Option<(i64, String)>,
    calls: Option<(i64, String)>,
    fired: Vec<TriggerFired>,
    /// Beyond what is kept in `fired`.
    more: u64,
}

/// Rows kept between two looks; a storm of them says nothing more.
const MAX_FIRED: usize = 16;

impl SlowWatch {
    /// `None` if no trigger asks for rows.
    pub(crate) fn new(triggers: &[Trigger]) -> Option<Self> {
        let mut watch = Self::default();
        for t in triggers {
            let (limit, slot) = match t.condition() {
                Condition::SlowFault(d) => (d, &mut watch.faults),
                Condition::SlowCall(d) => (d, &mut watch.calls),
                _ => continue,
            };
            let limit = super::nanoseconds(*limit);
            // The lower one fires for both.
            if slot.as_ref().is_none_or(|(known, _)| limit < *known) {
                *slot = Some((limit, t.text().to_owned()));
            }
        }
        (watch.faults.is_some() || watch.calls.is_some()).then_some(watch)
    }

    /// The lowest limit of faults: slower ones need rows of their own.
    pub(crate) fn fault_limit(&self) -> Option<Duration> {
        self.faults.as_ref().map(|(ns, _)| Duration::from_nanos(ns.unsigned_abs()))
    }

    /// Looks at a row.
    pub(crate) fn see<R: Row>(&mut self, row: &R) {
        let row = row as &dyn Any;
        if let Some(f) = row.downcast_ref::<Fault>() {
            self.fault(f.dur, f.ts, f.tid, f.addr);
        } else if let Some(r) = row.downcast_ref::<FaultRun>() {
            self.fault(Some(r.dur_max), r.ts, r.tid, r.addr);
        } else if let Some(c) = row.downcast_ref::<MemoryCall>() {
            let Some((limit, trigger)) = &self.calls else { return };
            if c.dur >= *limit {
                let what = format!("{} of thread {} took {}", c.call.name(), c.tid, ms(c.dur));
                let fired = TriggerFired { trigger: trigger.clone(), ts: c.ts + c.dur, what };
                self.add(fired);
            }
        }
    }

    fn fault(&mut self, dur: Option<i64>, ts: i64, tid: u32, addr: u64) {
        let (Some((limit, trigger)), Some(dur)) = (&self.faults, dur) else { return };
        if dur >= *limit {
            let what = format!("a page fault of thread {tid} at {addr:#x} took {}", ms(dur));
            let fired = TriggerFired { trigger: trigger.clone(), ts: ts + dur, what };
            self.add(fired);
        }
    }

    fn add(&mut self, fired: TriggerFired) {
        match self.fired.len() < MAX_FIRED {
            true => self.fired.push(fired),
            false => self.more += 1,
        }
    }

    /// What went beyond a limit since the last call, and how many more did.
    pub(crate) fn take(&mut self) -> (Vec<TriggerFired>, u64) {
        (std::mem::take(&mut self.fired), std::mem::take(&mut self.more))
    }
}

fn ms(ns: i64) -> String {
    format!("{:.1} ms", ns as f64 / 1e6)
}
