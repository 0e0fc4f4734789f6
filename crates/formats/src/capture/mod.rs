//! A capture: a directory `NAME.mtrace/` with `manifest.json` and `TABLE/NNNNNN.parquet`, or one packed file of it.
//!
//! Whatever kills the recorder, every closed segment stays readable: a segment is written as `*.parquet.tmp` and takes
//! its final name only when its footer is on disk, and the manifest is replaced atomically.

mod flight;
mod manifest;
mod pack;
mod place;
mod private;
mod reader;
mod table_writer;
mod writer;

pub use flight::{FlightRecorder, RingAccount, TriggerCount, TriggerFired};
pub use manifest::{
    Account, BpfCost, ClockPair, FaultCost, Host, MANIFEST_FILE, Manifest, ProbeReport, ProbeStatus, Problem,
    RecorderCost, SCHEMA, SchemaVersion, SegmentInfo, State, Target, Window,
};
pub use pack::{is_packed, pack};
pub use place::Place;
pub use reader::{Capture, SegmentRef, Skipped};
pub use table_writer::TableWriter;
pub use writer::CaptureWriter;
