//! Rows for tests.

use mtrace_formats::tables::{
    Fault, FaultKind, Frame, GcEvent, GcEventKind, IoCall, IoCallKind, MapRow, MemoryCall, MemoryCallKind, OffCpu,
    OffCpuState, ProcessEvent, ProcessEventKind, SmapsMoment, SmapsRow, SnapshotReason, SymbolRow, SymbolSource,
};

pub(crate) const PAGE: u64 = 4096;

pub(crate) fn call(ts: i64, dur: i64, pid: u32, call: MemoryCallKind, addr: u64, len_bytes: u64) -> MemoryCall {
    MemoryCall {
        ts,
        dur,
        pid,
        tid: pid,
        call,
        addr,
        len_bytes,
        prot_or_advice: None,
        flags: None,
        new_len_bytes: None,
        new_addr: None,
        offset_bytes: None,
        file_id: None,
        result: Some(0),
        errno: None,
        stack_id: Some(1),
    }
}

/// A private anonymous mapping at `at`.
pub(crate) fn mmap(ts: i64, pid: u32, at: u64, len: u64, prot: u32, stack: u32) -> MemoryCall {
    MemoryCall {
        prot_or_advice: Some(prot),
        flags: Some(0x22),
        result: Some(at),
        stack_id: Some(stack),
        ..call(ts, 2, pid, MemoryCallKind::Mmap, 0, len)
    }
}

pub(crate) fn munmap(ts: i64, pid: u32, at: u64, len: u64) -> MemoryCall {
    call(ts, 2, pid, MemoryCallKind::Munmap, at, len)
}

pub(crate) fn dontneed(ts: i64, pid: u32, at: u64, len: u64, stack: u32) -> MemoryCall {
    MemoryCall { prot_or_advice: Some(4), stack_id: Some(stack), ..call(ts, 2, pid, MemoryCallKind::Madvise, at, len) }
}

pub(crate) fn fault(ts: i64, pid: u32, addr: u64, code: u32, stack: u32) -> Fault {
    Fault {
        ts,
        dur: Some(1000),
        pid,
        tid: pid,
        addr,
        ip: 0x40_1000,
        error_code: Some(code),
        kind: FaultKind::Minor,
        stack_id: Some(stack),
        weight: Some(1),
    }
}

pub(crate) fn event(ts: i64, pid: u32, tid: u32, event: ProcessEventKind, parent: Option<u32>) -> ProcessEvent {
    ProcessEvent {
        ts,
        pid,
        tid,
        event,
        parent,
        comm: Some("service".to_owned()),
        path: None,
        ns_pid: None,
        ns_tid: None,
        cgroup: None,
        status: None,
    }
}

pub(crate) fn map(
    reason: SnapshotReason,
    ts: (i64, i64),
    pid: u32,
    range: (u64, u64),
    perms: &str,
    path: &str,
) -> MapRow {
    MapRow {
        ts: ts.0,
        ts_end: ts.1,
        reason,
        pid,
        start_addr: range.0,
        end_addr: range.1,
        perms: perms.to_owned(),
        offset_bytes: 0,
        dev: if path.starts_with('/') { 0x801 } else { 0 },
        inode: if path.starts_with('/') { 42 } else { 0 },
        path: (!path.is_empty()).then(|| path.to_owned()),
    }
}

pub(crate) fn io(ts: i64, dur: i64, tid: u32, call: IoCallKind, fd: i32, result: Option<u64>, first: u32) -> IoCall {
    IoCall {
        ts,
        dur,
        pid: 10,
        tid,
        call,
        fd: Some(fd),
        socket: Some(true),
        result,
        errno: result.is_none().then_some(11),
        first_byte: Some(first),
    }
}

pub(crate) fn off_cpu(ts: i64, dur: i64, tid: u32, state: OffCpuState) -> OffCpu {
    OffCpu::bare(ts, dur, 10, tid, state)
}

pub(crate) fn gc(ts: i64, event: GcEventKind, reason: Option<u32>) -> GcEvent {
    GcEvent { ts, pid: 10, tid: 10, event, reason }
}

/// A stack of Go functions, innermost first, with its frames and symbols.
pub(crate) fn stack(stack_id: u32, functions: &[&str]) -> (Vec<Frame>, Vec<SymbolRow>) {
    let frame = |(depth, _): (usize, &&str)| Frame { stack_id, depth: depth as u32, pid: 10, ip: 0x40_0000 };
    let symbol = |(depth, function): (usize, &&str)| SymbolRow {
        stack_id,
        depth: depth as u32,
        inline_depth: 0,
        function: Some((*function).to_owned()),
        file: Some("/src/store.go".to_owned()),
        line: Some(80 + depth as u32),
        module: Some("/srv/service".to_owned()),
        module_offset_bytes: Some(0x1000),
        source: SymbolSource::Pclntab,
    };
    (functions.iter().enumerate().map(frame).collect(), functions.iter().enumerate().map(symbol).collect())
}

/// A mapping without a name of which nothing is resident.
pub(crate) fn smaps(ts: i64, pid: u32, range: (u64, u64)) -> SmapsRow {
    SmapsRow {
        ts,
        ts_end: ts + 1,
        moment: SmapsMoment::Periodic,
        pid,
        start_addr: range.0,
        end_addr: range.1,
        perms: "rw-p".to_owned(),
        path: None,
        rss_bytes: Some(0),
        pss_bytes: None,
        private_dirty_bytes: None,
        anon_bytes: None,
        anon_huge_bytes: None,
        swap_bytes: None,
        locked_bytes: None,
        referenced_bytes: None,
    }
}
