//! The manifest's part on a flight recorder: a window of the past that was written out when a trigger fired.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a flight recorder kept and why it wrote it out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlightRecorder {
    /// Time before the trigger that was to be kept, ns.
    pub window_ns: i64,
    /// Bound of the bytes kept on disk.
    pub size_bytes: u64,
    /// Time after the trigger that was recorded still, ns.
    pub post_ns: i64,
    /// True if the bound of the size, and not the window, decided how far back this capture goes.
    pub cut_by_size: bool,
    /// Which dump of the recorder this is, from 1; 0 for the recorder's own ring, which a killed recorder leaves.
    pub dump: u32,
    /// Why it was written out; null for the ring of a killed recorder.
    pub trigger: Option<TriggerFired>,
    /// Triggers that fired again or besides before the dump was written; the first one is not counted.
    pub also: Vec<TriggerCount>,
    /// Triggers that fired since the dump before this one and wrote nothing, because dumps are rate-limited.
    pub suppressed: Vec<TriggerCount>,
    /// Rows that left the ring since the recorder began, by table.
    pub dropped_rows: BTreeMap<String, u64>,
    /// Ties the accounts of this window to what the probes have counted since the recorder began.
    pub accounts: Vec<RingAccount>,
}

/// A trigger that fired.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TriggerFired {
    /// As it was given: "psi:memory.some>80%/30s".
    pub trigger: String,
    /// When, CLOCK_MONOTONIC ns: of the event itself where that is known, else when the recorder saw it.
    pub ts: i64,
    /// What was found, in plain words.
    pub what: String,
}

/// How often a trigger fired without a dump of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TriggerCount {
    /// As it was given.
    pub trigger: String,
    /// How often.
    pub count: u64,
    /// When first, CLOCK_MONOTONIC ns.
    pub first_ts: i64,
    /// When last.
    pub last_ts: i64,
}

/// Events of one probe since the recorder began: `seen = in_window + before_window + lost_before + in_flight`, where
/// `in_window` is the account's `seen`, that is, written plus lost within the window.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RingAccount {
    /// Probe.
    pub probe: String,
    /// Events that the probe saw in the kernel since it was attached.
    pub seen: u64,
    /// Events of this capture, written or lost.
    pub in_window: u64,
    /// Events in rows that are not in this capture: they left the ring, lie before the window, or say again which
    /// processes there are.
    pub before_window: u64,
    /// Events whose row was lost before the window.
    pub lost_before: u64,
    /// Events on their way from the kernel when the books of this capture were closed; the next dump has them.
    pub in_flight: u64,
}
