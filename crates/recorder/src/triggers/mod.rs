//! What makes a flight recorder write out what it has: conditions that are looked at while recording goes on.
//!
//! A trigger is a file of its own here; [`spec`] parses them all. Rows that are slow and targets that exit are seen by
//! the session, which asks [`Trigger`] about them.

mod command;
mod counters;
mod exit;
mod psi;
mod spec;

use std::time::Duration;

use mtrace_formats::capture::TriggerFired;

pub use spec::{Condition, Psi, PsiResource, Scope, Trigger, duration};

use crate::error::Error;

/// How often files are read for a trigger.
const READ_INTERVAL_NS: i64 = 250_000_000;

/// A process of the recording that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) ts: i64,
    pub(crate) pid: u32,
    /// As wait(2) encodes it; `None` if nobody said.
    pub(crate) status: Option<i32>,
    /// A target by itself and not as the child of one.
    pub(crate) asked_for: bool,
}

/// One trigger at work.
enum Watch {
    Psi(psi::Watch),
    Counters(counters::Watch),
    Command(command::Watch),
    Exit(exit::Watch),
}

/// All triggers of a recording that somebody has to look at.
pub(crate) struct Watches {
    watches: Vec<(String, Watch)>,
    read: i64,
}

impl Watches {
    /// Opens what the triggers need.
    ///
    /// # Errors
    /// If one of them can never fire on this host.
    pub(crate) fn open(triggers: &[Trigger]) -> Result<Self, Error> {
        let mut watches = Vec::new();
        for t in triggers {
            let refuse = |(what, next)| Error::Trigger { trigger: t.text().to_owned(), what, next };
            let watch = match t.condition() {
                Condition::Psi(psi) => Watch::Psi(psi::Watch::open(psi).map_err(refuse)?),
                Condition::Oom(scope) => Watch::Counters(counters::Watch::oom(scope).map_err(refuse)?),
                Condition::MemoryHigh(scope) => Watch::Counters(counters::Watch::high(scope).map_err(refuse)?),
                Condition::MemoryMax(scope) => Watch::Counters(counters::Watch::max(scope).map_err(refuse)?),
                Condition::Command { line, every } => Watch::Command(command::Watch::new(line, *every)),
                Condition::Exit { failed_only } => Watch::Exit(exit::Watch::new(*failed_only)),
                Condition::SlowFault(_) | Condition::SlowCall(_) | Condition::Signal => continue,
            };
            watches.push((t.text().to_owned(), watch));
        }
        Ok(Self { watches, read: 0 })
    }

    /// Looks at all of them; what fired since the last time. With `last` also at those whose time has not come.
    pub(crate) fn poll(&mut self, now: i64, targets: &dyn Fn() -> Vec<u32>, last: bool) -> Vec<TriggerFired> {
        let read = last || now >= self.read;
        if read {
            self.read = now + READ_INTERVAL_NS;
        }
        let counted = read && self.watches.iter().any(|(_, w)| matches!(w, Watch::Counters(_)));
        let targets = if counted { targets() } else { Vec::new() };
        let mut fired = Vec::new();
        for (trigger, watch) in &mut self.watches {
            let what = match watch {
                Watch::Psi(w) => w.poll(now, read),
                Watch::Counters(w) if read => w.poll(&targets),
                Watch::Command(w) if read && !last => w.poll(now),
                Watch::Exit(w) => {
                    fired.extend(w.take().map(|(ts, what)| TriggerFired { trigger: trigger.clone(), ts, what }));
                    None
                }
                Watch::Counters(_) | Watch::Command(_) => None,
            };
            fired.extend(what.map(|what| TriggerFired { trigger: trigger.clone(), ts: now, what }));
        }
        fired
    }

    /// A process of the recording ended.
    pub(crate) fn ended(&mut self, ended: Ended) {
        for (_, watch) in &mut self.watches {
            if let Watch::Exit(w) = watch {
                w.ended(ended);
            }
        }
    }

    /// What about them a reader should know, in plain words.
    pub(crate) fn notes(&self) -> Vec<String> {
        let note = |(trigger, w): &(String, Watch)| match w {
            Watch::Psi(w) => w.note().map(|n| format!("trigger `{trigger}`: {n}")),
            Watch::Counters(w) => w.note().map(|n| format!("trigger `{trigger}`: {n}")),
            _ => None,
        };
        self.watches.iter().filter_map(note).collect()
    }
}

/// Per cent of `whole`.
fn percent_of(whole: Duration, percent: u32) -> Duration {
    whole * percent / 100
}
