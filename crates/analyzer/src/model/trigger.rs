use serde::Serialize;

/// Why a flight recorder wrote this capture out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct TriggerFact {
    /// As it was given to the recorder.
    pub trigger: String,
    /// What was found, in the recorder's words.
    pub what: String,
    /// When.
    pub ts: i64,
    /// Wall-clock time of that, ns since 1970; null if no clock pair was recorded.
    pub realtime_ns: Option<i64>,
    /// Recorded before it, ns.
    pub before_ns: i64,
    /// Recorded after it, ns.
    pub after_ns: i64,
    /// More was wanted before it; the bound of the size did not leave it.
    pub cut_by_size: bool,
    /// Triggers that fired besides before this capture was written.
    pub also: u64,
    /// Triggers since the capture before this one that wrote nothing, because dumps are rate-limited.
    pub suppressed: u64,
}
