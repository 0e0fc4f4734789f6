//! Capture tables → rows in time order.
//!
//! Segments are decoded in parallel; one that cannot be read costs its rows and a line in `damage`, nothing else.
//! Rows lie in a capture in the order in which their events *ended*; here they are sorted by their start.
//!
//! A table whose rows are taken as they are is one line in `tables!`; faults and symbols are made compact on the way in.

mod faults;
mod read;
mod weights;

use std::collections::BTreeMap;

use mtrace_formats::capture::Capture;
use mtrace_formats::tables::{
    Collapse, Fault, FaultCount, FaultRun, Fidelity, FileRow, Frame, GcEvent, GoMemory, IoCall, JvmEvent, LockWait,
    Loss, MapRow, MemoryCall, OffCpu, OomKill, ProcessEvent, Reclaim, Refusal, RuntimeSetting, Sample, SmapsRow,
    SocketRow, Throttle,
};

use crate::symbols::SymbolTable;
pub use faults::{FaultRow, Shape};
use read::{Notes, Read, clamp, describe, read};
pub(crate) use weights::apply as apply_weights;

/// "No stack", "no release", "no mapping" in the compact rows.
pub const NONE: u32 = u32::MAX;

/// The struct of all tables and how the plain ones are read: `field: Row [columns of time] by order`.
///
/// The columns of time are `at` (a moment), `span` (`ts` and `dur`), `maybe` (the
/// same, with a `dur` that may be null), `until` (`ts` and `ts_end`) or `none`; whatever they
/// hold, sums of them stay inside i64.
macro_rules! tables {
    ($($(#[$doc:meta])* $field:ident: $row:ident [$time:ident] by |$r:ident| $order:expr;)*) => {
        /// Everything in a capture that the joins need, sorted by time.
        #[derive(Debug, Default)]
        pub struct Tables {
            /// Faults, those of runs too.
            pub faults: Vec<FaultRow>,
            /// Service times of the runs.
            pub shapes: Vec<Shape>,
            $($(#[$doc])* pub $field: Vec<$row>,)*
            /// Stacks and their names.
            pub symbols: SymbolTable,
            /// What could not be read, in plain words.
            pub damage: Vec<String>,
            /// Rows read, by table; of `faults`: faults, those added up in `fault_runs` included.
            pub rows: Vec<(String, u64)>,
        }

        /// The plain tables as they were read, side by side with what else there is to read.
        #[derive(Default)]
        struct Plain {
            $($field: Read<$row>,)*
        }

        impl Plain {
            fn read(capture: &Capture) -> Self {
                let mut plain = Self::default();
                rayon::scope(|s| {
                    $(s.spawn(|_| {
                        plain.$field = read(capture, |mut r: $row| { fit!($time r); r });
                        plain.$field.rows.sort_by_key(|$r| $order);
                    });)*
                });
                plain
            }

            fn put(self, t: &mut Tables, notes: &mut Notes) {
                $(t.$field = notes.take::<$row, _>(self.$field);)*
            }
        }
    };
}

/// Keeps a hostile or damaged time inside what later sums can hold.
macro_rules! fit {
    (at $r:ident) => {
        $r.ts = clamp($r.ts, 0).0;
    };
    (span $r:ident) => {
        ($r.ts, $r.dur) = clamp($r.ts, $r.dur);
    };
    (maybe $r:ident) => {
        let (ts, dur) = clamp($r.ts, $r.dur.unwrap_or(0));
        ($r.ts, $r.dur) = (ts, $r.dur.map(|_| dur));
    };
    (until $r:ident) => {
        let (ts, dur) = clamp($r.ts, $r.ts_end.saturating_sub($r.ts));
        ($r.ts, $r.ts_end) = (ts, ts + dur);
    };
    (none $r:ident) => {
        let _ = &mut $r;
    };
}

tables! {
    /// Calls of the mmap family.
    calls: MemoryCall [span] by |r| r.ts;
    /// Steps of Go's GC.
    gc: GcEvent [at] by |r| r.ts;
    /// What Go's memory management did.
    go_memory: GoMemory [maybe] by |r| r.ts;
    /// Collections, pools and safepoints of JVMs.
    jvm: JvmEvent [maybe] by |r| r.ts;
    /// Settings of the language runtimes.
    runtimes: RuntimeSetting [at] by |r| r.ts;
    /// Life of processes and threads.
    process_events: ProcessEvent [at] by |r| r.ts;
    /// File and network calls.
    io: IoCall [span] by |r| r.ts;
    /// Intervals off the CPU.
    off_cpu: OffCpu [span] by |r| r.ts;
    /// Sockets that were open when the recording began.
    sockets: SocketRow [at] by |r| (r.ts, r.pid, r.fd);
    /// Lines of /proc/PID/maps; in the order of (ts, pid, start_addr).
    maps: MapRow [until] by |r| (r.ts, r.pid, r.start_addr);
    /// What of each mapping was resident; a reading is a stretch of the same (ts, pid).
    smaps: SmapsRow [until] by |r| (r.ts, r.pid, r.start_addr);
    /// Mapped files.
    files: FileRow [none] by |_r| 0_u8;
    /// Reclaim and compaction by the targets' threads.
    reclaims: Reclaim [span] by |r| r.ts;
    /// Sleeps that the kernel imposed on the targets' threads.
    throttles: Throttle [span] by |r| r.ts;
    /// Waits for the lock of an address space.
    lock_waits: LockWait [span] by |r| r.ts;
    /// Victims of the OOM killer.
    oom_kills: OomKill [at] by |r| r.ts;
    /// Small pages that were replaced by huge ones.
    collapses: Collapse [at] by |r| r.ts;
    /// What the kernel counted when it refused a mapping.
    refusals: Refusal [at] by |r| (r.tid, r.ts);
    /// Periodic samples.
    samples: Sample [at] by |r| r.ts;
    /// Losses.
    losses: Loss [span] by |r| r.ts;
    /// How faults were recorded.
    fidelity: Fidelity [span] by |r| r.ts;
    /// The kernel's own counts of faults.
    fault_counts: FaultCount [at] by |r| (r.pid, r.ts);
}

impl Tables {
    /// First and last moment of any event; null if there is none.
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let mut range: Option<(i64, i64)> = None;
        let mut add = |start: i64, end: i64| {
            let r = range.get_or_insert((start, end));
            *r = (r.0.min(start), r.1.max(end));
        };
        self.faults.iter().for_each(|f| add(f.ts, f.ts + f.wall_ns().max(i64::from(f.span))));
        self.calls.iter().for_each(|c| add(c.ts, c.ts + c.dur));
        self.io.iter().for_each(|c| add(c.ts, c.ts + c.dur));
        self.gc.iter().for_each(|g| add(g.ts, g.ts));
        self.go_memory.iter().for_each(|g| add(g.ts, g.ts + g.dur.unwrap_or(0)));
        self.jvm.iter().for_each(|j| add(j.ts, j.ts + j.dur.unwrap_or(0)));
        self.process_events.iter().for_each(|p| add(p.ts, p.ts));
        range
    }
}

/// Reads a capture.
pub fn load(capture: &Capture) -> Tables {
    let mut t = Tables { damage: capture.problems.clone(), ..Tables::default() };
    t.damage.extend(capture.missing_segments().iter().map(describe));
    let ((single, plain), (runs, frames)) = rayon::join(
        || rayon::join(|| read::<Fault, _>(capture, FaultRow::from), || Plain::read(capture)),
        || rayon::join(|| read::<FaultRun, _>(capture, |r| faults::run_row(&r)), || read::<Frame, _>(capture, |f| f)),
    );
    let mut notes = Notes { rows: BTreeMap::new(), damage: std::mem::take(&mut t.damage) };
    t.faults = notes.take::<Fault, _>(single);
    plain.put(&mut t, &mut notes);
    let mut symbols = SymbolTable::builder(notes.take::<Frame, _>(frames));
    notes.symbols(capture, |rows| symbols.add(rows));
    let runs = notes.take::<FaultRun, _>(runs);
    t.damage = notes.damage;
    t.rows = notes.rows.into_iter().map(|(table, rows)| (table.to_owned(), rows)).collect();
    t.symbols = symbols.finish(&t.maps);
    faults::take_runs(&mut t, runs);
    t.faults.sort_by_key(|f| f.ts);
    t
}
