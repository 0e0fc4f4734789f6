//! What a process waited for while none of its threads was active, from what its sockets did at the end of the wait.

use std::collections::HashMap;

use mtrace_formats::tables::{IoCall, IoCallKind, SocketRole, SocketRow};

use super::critical_path::Stretch;
use crate::model::LedgerCategory;

/// How soon after a wake-up the call is through that the process was woken for, whichever thread makes it. On a busy host
/// the thread waits for a CPU first.
const WOKEN_BY_NS: i64 = 20_000_000;
/// Calls looked at before and after the end of a wait.
const NEIGHBOURS: usize = 512;

const EAGAIN: i32 = 11;
const EINPROGRESS: i32 = 115;

/// A call on a socket.
struct Call {
    start: i64,
    end: i64,
    kind: IoCallKind,
    succeeded: bool,
    /// The call of its kind before it on the same descriptor said "not yet", or it is the first read after the accept.
    was_awaited: bool,
    /// Number in the table.
    row: u32,
}

/// The calls of a process on sockets, in order of their entry.
pub(crate) struct Waits {
    calls: Vec<Call>,
    first_listen: Option<i64>,
    first_accept: Option<i64>,
}

impl Waits {
    /// `network`: sorted by entry; `sockets`: what was open when the recording began.
    pub(crate) fn new(network: &[(u32, &IoCall)], sockets: &[&SocketRow]) -> Self {
        // By descriptor: somebody waits until it can be read, until it can be written. On connections that are older
        // than the recording "not yet" was said before it.
        let is_connection = |s: &&&SocketRow| matches!(s.role, SocketRole::Accepted | SocketRole::Connected);
        let mut awaited: HashMap<i32, (bool, bool)> =
            sockets.iter().filter(is_connection).map(|s| (s.fd, (true, false))).collect();
        let mut calls = Vec::with_capacity(network.len());
        for (row, c) in network {
            let not_yet = matches!(c.errno, Some(EAGAIN | EINPROGRESS));
            let mut was_awaited = false;
            if let Some(state) = c.fd.map(|fd| awaited.entry(fd).or_default()) {
                match c.call {
                    IoCallKind::Read => was_awaited = std::mem::replace(&mut state.0, not_yet),
                    IoCallKind::Write | IoCallKind::Connect => was_awaited = std::mem::replace(&mut state.1, not_yet),
                    IoCallKind::Close => *state = (false, false),
                    _ => {}
                }
            }
            // The other side of a new connection is expected to say something.
            if let (IoCallKind::Accept, Some(Ok(fd))) = (c.call, c.result.map(i32::try_from)) {
                awaited.insert(fd, (true, false));
            }
            calls.push(Call {
                start: c.ts,
                end: c.ts + c.dur,
                kind: c.call,
                succeeded: c.result.is_some(),
                was_awaited,
                row: *row,
            });
        }
        let first = |kind: IoCallKind| calls.iter().find(|c| c.kind == kind && c.succeeded).map(|c| c.start);
        Self { first_listen: first(IoCallKind::Listen), first_accept: first(IoCallKind::Accept), calls }
    }

    /// Why nothing moved, and the call that ended it.
    pub(crate) fn reason(&self, wait: &Stretch) -> (LedgerCategory, Option<u32>) {
        // A call that spans the wait began before it.
        let at = self.calls.partition_point(|c| c.start < wait.end);
        let near = &self.calls[at.saturating_sub(NEIGHBOURS)..(at + NEIGHBOURS).min(self.calls.len())];
        let ended_by = near
            .iter()
            .filter(|c| c.succeeded && (wait.end..=wait.end + WOKEN_BY_NS).contains(&c.end))
            .filter_map(|c| Some((c.end, category(c, wait)?, c.row)))
            .min_by_key(|(end, _, row)| (*end, *row));
        match ended_by {
            Some((_, category, row)) => (category, Some(row)),
            None if self.is_before_first_client(wait) => (LedgerCategory::WaitingForClient, None),
            None => (LedgerCategory::Unexplained, None),
        }
    }

    /// Between listen and the first accept a server that sleeps (in a poll with a timeout, say) waits for a client.
    fn is_before_first_client(&self, wait: &Stretch) -> bool {
        self.first_listen.is_some_and(|ts| ts <= wait.start) && self.first_accept.is_none_or(|ts| ts >= wait.end)
    }
}

fn category(c: &Call, wait: &Stretch) -> Option<LedgerCategory> {
    let spans = c.start <= wait.start;
    match c.kind {
        IoCallKind::Accept => Some(LedgerCategory::WaitingForClient),
        IoCallKind::Connect => spans.then_some(LedgerCategory::Network),
        // Of a connect in progress the first write shows that it is through.
        IoCallKind::Read | IoCallKind::Write => (spans || c.was_awaited).then_some(LedgerCategory::Network),
        IoCallKind::Open | IoCallKind::Sync | IoCallKind::Close | IoCallKind::Listen => None,
    }
}

#[cfg(test)]
mod tests {
    use mtrace_formats::tables::SocketFamily;

    use super::super::sleeps::Waker;
    use super::*;
    use crate::test_rows::io;

    const MS: i64 = 1_000_000;

    fn wait(start: i64, end: i64) -> Stretch {
        Stretch { start, end, tid: 10, waiting: true, waker: Waker::Unknown, measured: false }
    }

    fn reason(calls: &[IoCall], from: i64, to: i64) -> (LedgerCategory, Option<u32>) {
        let numbered: Vec<(u32, &IoCall)> = calls.iter().enumerate().map(|(i, c)| (i as u32, c)).collect();
        let wait = wait(from * MS, to * MS);
        Waits::new(&numbered, &[]).reason(&wait)
    }

    #[test]
    fn an_answer_after_a_sleep_was_not_waited_for_though_the_connection_is_being_read() {
        use IoCallKind::{Accept, Read, Write};
        // Go reads in the background while a handler sleeps.
        let calls = [
            io(MS, 1000, 10, Accept, 3, Some(7), 0),
            io(2 * MS, 1000, 10, Read, 7, Some(90), 0x47),
            io(3 * MS, 1000, 10, Read, 7, None, 0),
            io(60 * MS, 1000, 10, Write, 7, Some(90), 0x48),
        ];
        assert_eq!(reason(&calls, 4, 59), (LedgerCategory::Unexplained, None));
    }

    #[test]
    fn a_connection_from_before_the_recording_is_being_read() {
        let call = io(90 * MS, 1000, 10, IoCallKind::Read, 9, Some(30), 0);
        let wait = wait(MS, 89 * MS);
        let socket = |role| SocketRow { ts: 0, pid: 10, fd: 9, role, family: SocketFamily::Inet };
        let reason = |role| Waits::new(&[(0, &call)], &[&socket(role)]).reason(&wait).0;
        assert_eq!(reason(SocketRole::Connected), LedgerCategory::Network);
        assert_eq!(reason(SocketRole::Other), LedgerCategory::Unexplained);
    }

    #[test]
    fn a_backend_that_answers_late_is_the_network() {
        use IoCallKind::{Connect, Read, Write};
        let mut calls = vec![
            IoCall { errno: Some(EINPROGRESS), ..io(MS, 1000, 10, Connect, 9, None, 0) },
            io(20 * MS, 1000, 10, Write, 9, Some(30), 0),
            io(21 * MS, 1000, 10, Read, 9, None, 0),
            io(90 * MS, 1000, 10, Read, 9, Some(30), 0),
        ];
        assert_eq!(reason(&calls, 2, 19), (LedgerCategory::Network, Some(1)));
        assert_eq!(reason(&calls, 22, 89), (LedgerCategory::Network, Some(3)));
        // A blocking read that spans the wait.
        calls[2] = io(21 * MS, 69 * MS, 10, Read, 9, Some(30), 0);
        calls.truncate(3);
        assert_eq!(reason(&calls, 22, 89), (LedgerCategory::Network, Some(2)));
    }
}
