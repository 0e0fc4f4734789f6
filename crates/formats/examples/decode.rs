//! Reads every row of a capture and nothing else: the floor under `mtrace analyze`, printed by `scripts/bench`.
//!
//! `decode CAPTURE` prints one JSON line: rows, and seconds to decode them on one thread.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use mtrace_formats::capture::Capture;
use mtrace_formats::tables::{
    Fault, Frame, GcEvent, IoCall, MapRow, MemoryCall, OffCpu, ProcessEvent, Sample, SymbolRow,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: decode CAPTURE")?;
    let capture = Capture::open(path.as_ref())?;
    let start = Instant::now();
    let rows = capture.read::<Fault>().0.len()
        + capture.read::<MemoryCall>().0.len()
        + capture.read::<GcEvent>().0.len()
        + capture.read::<IoCall>().0.len()
        + capture.read::<OffCpu>().0.len()
        + capture.read::<ProcessEvent>().0.len()
        + capture.read::<Sample>().0.len()
        + capture.read::<MapRow>().0.len()
        + capture.read::<Frame>().0.len()
        + capture.read::<SymbolRow>().0.len();
    println!("{{\"rows\": {rows}, \"seconds\": {:.6}}}", start.elapsed().as_secs_f64());
    Ok(())
}
