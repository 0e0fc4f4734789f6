//! One sleep of a thread: until when, who ended it, and what kind of waiting it was.

use std::collections::HashMap;

use mtrace_formats::tables::{OffCpu, WakerContext};

use crate::symbols::SymbolTable;

/// Who woke a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Waker {
    /// Nobody saw it, or the capture is older than schema 2.1.
    #[default]
    Unknown,
    /// A thread of the same process.
    Thread(u32),
    /// A thread of this other process; those of the kernel count as such.
    Process(u32),
    /// A timer, a device, the network.
    Interrupt,
}

/// What a thread waits for, by the functions that it waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WaitKind {
    /// For any work: a thread of Go's scheduler that has nothing to run. What it runs next may come from anybody, also in
    /// the time between its wake-up and its running, and others may take what it was woken for.
    Idle,
    /// For a lock: it goes on with its own work.
    Lock,
    /// One of the two, or something else.
    #[default]
    Other,
}

/// A sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sleep {
    pub(crate) start: i64,
    /// When it was woken; when it was on a CPU again, if nobody saw that or if it had no work of its own.
    pub(crate) until: i64,
    pub(crate) waker: Waker,
    pub(crate) kind: WaitKind,
}

impl Sleep {
    pub(crate) fn new(o: &OffCpu, woken: i64, kind: WaitKind) -> Self {
        let waker = match (o.waker_context, o.waker_pid, o.waker_tid) {
            (Some(WakerContext::Interrupt), ..) => Waker::Interrupt,
            (Some(WakerContext::Thread), Some(pid), Some(tid)) if pid == o.pid => Waker::Thread(tid),
            (Some(WakerContext::Thread), Some(pid), _) => Waker::Process(pid),
            _ => Waker::Unknown,
        };
        Self { start: o.ts, until: if kind == WaitKind::Idle { o.ts + o.dur } else { woken }, waker, kind }
    }
}

/// The kinds of the stacks that threads of a process wait in.
pub(crate) struct Kinds<'a> {
    symbols: &'a SymbolTable,
    known: HashMap<u32, WaitKind>,
    /// Of a sleep without a stack: it began before the recording.
    without_stack: WaitKind,
}

/// Functions of Go's scheduler in which a thread without work waits (proc.go, Go 1.19 to 1.27).
const IDLE: [&str; 4] = ["runtime.stopm", "runtime.findRunnable", "runtime.findrunnable", "runtime.netpoll"];
/// Parts of the names of the C library's functions that wait for a lock, and Go's own.
const LOCK: [&str; 4] = ["lll_lock_wait", "pthread_mutex_lock", "pthread_rwlock_", "runtime.lock2"];

impl<'a> Kinds<'a> {
    pub(crate) fn new(symbols: &'a SymbolTable, rows: &[&OffCpu]) -> Self {
        let mut kinds = Self { symbols, known: HashMap::new(), without_stack: WaitKind::Other };
        if rows.iter().any(|o| kinds.of(o) == WaitKind::Idle) {
            kinds.without_stack = WaitKind::Idle;
        }
        kinds
    }

    pub(crate) fn of(&mut self, o: &OffCpu) -> WaitKind {
        let Some(stack) = o.stack_id else { return self.without_stack };
        *self.known.entry(stack).or_insert_with(|| {
            let has = |test: &dyn Fn(&str) -> bool| self.symbols.functions(stack).any(test);
            if has(&|f| IDLE.contains(&f)) {
                WaitKind::Idle
            } else if has(&|f| LOCK.iter().any(|l| f.contains(l))) {
                WaitKind::Lock
            } else {
                WaitKind::Other
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use mtrace_formats::tables::OffCpuState;

    use super::*;

    #[test]
    fn wakers_are_told_apart() {
        let of = |context, pid, tid| {
            let bare = OffCpu::bare(0, 10, 7, 8, OffCpuState::Sleeping);
            let row = OffCpu { waker_context: context, waker_pid: pid, waker_tid: tid, ..bare };
            Sleep::new(&row, 9, WaitKind::Other).waker
        };
        let thread = Some(WakerContext::Thread);
        assert_eq!(of(thread, Some(7), Some(9)), Waker::Thread(9));
        assert_eq!(of(thread, Some(6), Some(9)), Waker::Process(6));
        assert_eq!(of(Some(WakerContext::Interrupt), Some(7), Some(9)), Waker::Interrupt);
        assert_eq!(of(None, None, None), Waker::Unknown);
    }
}
