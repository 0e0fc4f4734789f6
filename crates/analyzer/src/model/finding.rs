use serde::Serialize;

/// How sure a claim is. Always comes with its reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Other readings of the capture are as good.
    Low,
    /// The capture supports it; something that could contradict it was not recorded.
    Medium,
    /// Counted, nothing lost, the look-alikes are excluded by what was recorded.
    High,
}

/// What kind of answer the verdict is. All are proper answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// Memory is the cause.
    Memory,
    /// Memory takes a good part of the time, but something else takes more, or no single cause is behind it.
    MemoryInPart,
    /// Memory was watched and is not the cause.
    NotMemory,
    /// The time was spent on something that the capture does not show.
    Unexplained,
    /// There was nothing to explain: no window of interest, or nothing slow.
    NothingFound,
}

/// The first thing that the reader sees.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What kind of answer it is.
    pub kind: VerdictKind,
    /// One or two sentences in plain words: what happened, who, what it cost.
    pub sentence: String,
    /// What to do; null if there is nothing to recommend.
    pub action: Option<String>,
    /// How sure.
    pub confidence: Confidence,
    /// Why so sure and not surer.
    pub confidence_reasons: Vec<String>,
    /// Code of the finding behind it; null for "not memory" without a finding and for "unexplained".
    pub finding: Option<String>,
}

/// A cause that the capture supports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Stable code, the name of the rule: `first-touch-storm`.
    pub code: String,
    /// Title in the words of the field.
    pub title: String,
    /// One sentence with the numbers.
    pub claim: String,
    /// Process.
    pub pid: u32,
    /// What it cost; null if it cannot be put in time (then `claim` says what it cost otherwise).
    pub cost: Option<Cost>,
    /// How sure.
    pub confidence: Confidence,
    /// Why so sure and not surer.
    pub confidence_reasons: Vec<String>,
    /// The line of code to change.
    pub location: Option<CodeLocation>,
    /// Numbers that support it.
    pub evidence: Vec<Evidence>,
    /// What speaks against it; empty if nothing does.
    pub against: Vec<String>,
    /// What it could be mistaken for, and what separates them here.
    pub look_alikes: Vec<LookAlike>,
    /// The stacks: who mapped, who touched, who called.
    pub stacks: Vec<NamedStack>,
    /// What to do.
    pub fix: Fix,
}

/// Time lost, as a part of a window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Wall time charged to the cause in the window.
    pub wall_ns: i64,
    /// The window's wall time.
    pub window_ns: i64,
    /// Which window: "first request".
    pub window: String,
    /// Part of the window that is the recording itself: it goes away without any fix.
    pub recording_ns: i64,
}

impl Cost {
    /// What the window keeps when it gets shorter by `gain_ns` and nobody records.
    pub fn left_ns(&self, gain_ns: i64) -> i64 {
        self.window_ns.saturating_sub(self.recording_ns).saturating_sub(gain_ns).max(0)
    }

    /// Part of the window, 0 to 1.
    pub fn share(&self) -> f64 {
        if self.window_ns > 0 { self.wall_ns as f64 / self.window_ns as f64 } else { 0.0 }
    }
}

/// A line of code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct CodeLocation {
    /// Function as the runtime names it.
    pub function: String,
    /// Source file; null if unknown.
    pub file: Option<String>,
    /// Line; null if unknown.
    pub line: Option<u32>,
    /// Path of the binary.
    pub module: Option<String>,
}

/// One number behind a finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    /// What was counted.
    pub what: String,
    /// The number with its unit, for people.
    pub value: String,
    /// SQL over the capture's Parquet files that reproduces it; null if it takes the replay.
    pub query: Option<String>,
}

/// A cause that looks alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LookAlike {
    /// The other cause.
    pub cause: String,
    /// The observation that separates them in this capture, or why it could not be made.
    pub observation: String,
    /// True if the observation excludes it; false if it stays possible.
    pub excluded: bool,
}

/// A stack with a caption.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedStack {
    /// "touched by", "mapped by".
    pub title: String,
    /// What it weighs: "54,301 faults, 212 ms".
    pub weight: String,
    /// Innermost first.
    pub frames: Vec<StackFrame>,
}

/// A frame for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackFrame {
    /// Function, or `module+0xoffset` if it has no name.
    pub function: String,
    /// Source file; null if unknown.
    pub file: Option<String>,
    /// Line; null if unknown.
    pub line: Option<u32>,
    /// True if it was inlined into the next one.
    pub inlined: bool,
}

/// What to do about a finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fix {
    /// The change, in plain words.
    pub what: String,
    /// Least time that the window gets shorter by; null if it cannot be bounded.
    pub gain_low_ns: Option<i64>,
    /// Most time that the window gets shorter by; null if it cannot be bounded.
    pub gain_high_ns: Option<i64>,
    /// What it costs elsewhere, what to look out for.
    pub caution: Option<String>,
}

/// A cause that was looked for and is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuledOut {
    /// Code of the rule.
    pub code: String,
    /// The cause, in plain words.
    pub cause: String,
    /// The observation that rules it out; or what was not recorded, so that it could not be ruled out.
    pub why: String,
    /// False if it could not be checked.
    pub checked: bool,
}
