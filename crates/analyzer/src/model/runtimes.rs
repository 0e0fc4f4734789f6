use serde::Serialize;

use super::finding::{CodeLocation, StackFrame};

/// The language runtimes of the targets.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Runtimes {
    /// By process.
    pub processes: Vec<RuntimeFacts>,
    /// Go's assists that were too short for a row, of all processes: number, and time in all; null if not measured.
    pub short_assists: Option<(u64, i64)>,
}

/// The runtime of one process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuntimeFacts {
    /// Process.
    pub pid: u32,
    /// "go" or "jvm".
    pub kind: String,
    /// Its version; null if not known.
    pub version: Option<String>,
    /// Settings at the program's start, and what the program changed later, in order.
    pub settings: Vec<RuntimeValue>,
    /// True if the recording saw all that the program set by itself: it was there from its start.
    pub settings_complete: bool,
    /// What the runtime did, most time first.
    pub work: Vec<RuntimeWork>,
}

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeValue {
    /// "GOGC", "debug.SetGCPercent", …
    pub key: String,
    /// The value; null if it is not set.
    pub value: Option<String>,
    /// False if it could not be read: then nothing is known of it.
    pub known: bool,
    /// When the program set it; null for what was there at its start.
    pub set_ns: Option<i64>,
}

/// One kind of work of a runtime.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuntimeWork {
    /// "mark assist", "G1 Young Generation", "safepoint", …
    pub what: String,
    /// How often.
    pub count: u64,
    /// Time in all, all threads.
    pub sum_ns: i64,
    /// The longest.
    pub max_ns: i64,
    /// Bytes: growth, given back, freed by collections; null where there are none.
    pub bytes: Option<u64>,
    /// Whose code it fell to, the one with most time; null if unknown.
    pub who: Option<CodeLocation>,
    /// Wall time of it on the critical path of each ledger of the process, by window name; mark assists only.
    pub in_windows: Vec<(String, i64)>,
    /// Stack of the longest, innermost first.
    pub stack: Vec<StackFrame>,
}
