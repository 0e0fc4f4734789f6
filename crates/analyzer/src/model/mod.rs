//! What an analysis consists of: plain data, produced by the joins and rules, shown by the report, written as JSON.
//!
//! Times are CLOCK_MONOTONIC ns unless a field says otherwise; `*_ns` are durations. Null is "not measured".

mod address_space;
mod faults;
mod finding;
mod gc;
mod ledger;
mod overview;
mod requests;
mod resident;
mod runtimes;
mod stalls;
mod timeline;
mod trigger;

pub use address_space::{AddressSpace, GapClass, GapHistogram, GapPoint, GrowthByOwner};
pub use faults::{
    Churn, ChurnGroup, EnomemGroup, FaultGroup, FaultKindTotals, FaultTables, LatencyHistogram, RefusalFacts, TouchKind,
};
pub use finding::{
    CodeLocation, Confidence, Cost, Evidence, Finding, Fix, LookAlike, NamedStack, RuledOut, StackFrame, Verdict,
    VerdictKind,
};
pub use gc::{GcCycle, GcPhase, GcPhaseRow, GcTable, StackBytes};
pub use ledger::{Ledger, LedgerCategory, LedgerRow, LedgerWindow, WindowRequest};
pub use overview::{
    Analysis, CaptureFacts, Facts, FidelityFact, FlameGraph, ProbeFact, ProcessFact, REPORT_VERSION, ReplayCertificate,
    Trust,
};
pub use requests::{RequestTable, SlowRequest};
pub use resident::{CollapseTable, ResidentGroup, ResidentMemory, ResidentSums};
pub use runtimes::{RuntimeFacts, RuntimeValue, RuntimeWork, Runtimes};
pub use stalls::{ForkGroup, LockHolder, LockWaitGroup, OomVictim, ReclaimGroup, Stalls, ThrottleGroup};
pub use timeline::{Band, Envelope, Series, Timeline};
pub use trigger::TriggerFact;
