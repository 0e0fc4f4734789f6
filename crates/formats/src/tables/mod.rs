//! One file per table. Adding a table is a new file here plus one line in [`ALL`].
//!
//! Conventions: `ts` is CLOCK_MONOTONIC in ns, `dur` is ns, every other unit is in the column's name; null is "not
//! measured" or "does not apply", zero is measured; pids and tids are those of the recorder's pid namespace.

mod collapses;
mod fault_counts;
mod fault_runs;
mod faults;
mod fidelity;
mod files;
mod frames;
mod gc_events;
mod go_memory;
mod io_calls;
mod jvm_events;
mod lock_waits;
mod losses;
mod maps;
mod memory_calls;
mod off_cpu;
mod oom_kills;
mod process_events;
mod reclaims;
mod refusals;
mod runtimes;
mod samples;
mod smaps;
mod sockets;
mod symbols;
mod throttles;

pub use collapses::{Collapse, CollapsedBy, CollapsedMemory};
pub use fault_counts::{FaultCount, FaultCountAt};
pub use fault_runs::{FAULT_BUCKETS, FaultRun};
pub use faults::{Fault, FaultKind, error_code};
pub use fidelity::{Fidelity, FidelityStep};
pub use files::FileRow;
pub use frames::Frame;
pub use gc_events::{GcEvent, GcEventKind};
pub use go_memory::{GoMemory, GoMemoryKind};
pub use io_calls::{IoCall, IoCallKind};
pub use jvm_events::{JvmEvent, JvmEventKind};
pub use lock_waits::{LockMode, LockWait};
pub use losses::{Loss, LossReason};
pub use maps::{MapRow, SnapshotReason};
pub use memory_calls::{MemoryCall, MemoryCallKind};
pub use off_cpu::{OffCpu, OffCpuState, WakerContext};
pub use oom_kills::{OomKill, OomScope};
pub use process_events::{ProcessEvent, ProcessEventKind};
pub use reclaims::{Reclaim, ReclaimKind};
pub use refusals::Refusal;
pub use runtimes::{RuntimeKind, RuntimeSetting, SettingState};
pub use samples::{Sample, SampleSource};
pub use smaps::{SmapsMoment, SmapsRow};
pub use sockets::{SocketFamily, SocketRole, SocketRow};
pub use symbols::{SymbolRow, SymbolSource};
pub use throttles::{Throttle, ThrottleKind, ThrottleReason};

use crate::table::{Column, Row};

/// A table as the registry knows it: enough to document it and to find its segments.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// Name of the table and of its folder in a capture.
    pub name: &'static str,
    /// Doc of the row struct.
    pub doc: &'static str,
    /// The columns in file order.
    pub columns: fn() -> Vec<Column>,
}

const fn info<R: Row>() -> TableInfo {
    TableInfo { name: R::NAME, doc: R::DOC, columns: R::columns }
}

/// The registry: every table, in the order of SCHEMA.md.
pub const ALL: &[TableInfo] = &[
    info::<MemoryCall>(),
    info::<Refusal>(),
    info::<Fault>(),
    info::<FaultRun>(),
    info::<FaultCount>(),
    info::<Fidelity>(),
    info::<Reclaim>(),
    info::<Throttle>(),
    info::<LockWait>(),
    info::<OomKill>(),
    info::<Collapse>(),
    info::<GcEvent>(),
    info::<GoMemory>(),
    info::<JvmEvent>(),
    info::<RuntimeSetting>(),
    info::<ProcessEvent>(),
    info::<IoCall>(),
    info::<OffCpu>(),
    info::<SocketRow>(),
    info::<MapRow>(),
    info::<SmapsRow>(),
    info::<FileRow>(),
    info::<Sample>(),
    info::<Frame>(),
    info::<SymbolRow>(),
    info::<Loss>(),
];
