//! Which calls belong to which connection: descriptors are used again and again.
//!
//! One pass over the calls of a process in order of time, whatever the number of connections.

use std::collections::{HashMap, HashSet};

use mtrace_formats::tables::{IoCall, IoCallKind, SocketRole, SocketRow};

use super::connection::Transfer;

/// An accepted connection.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Connection {
    /// What moved bytes, in order of time.
    pub(crate) transfers: Vec<Transfer>,
    /// When it was closed; null if it was not.
    pub(crate) closed_ns: Option<i64>,
}

/// The server side of a process.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) connections: Vec<Connection>,
    /// Sockets with traffic in both directions of which it is not known which side they are.
    pub(crate) unknown: usize,
    /// It listens, accepts, or has connections that came in.
    pub(crate) serves: bool,
    /// True if what was open before the recording was looked at.
    pub(crate) looked_at: bool,
}

/// Sorts the calls of a process, which are in order of their entry, and what was open when the recording began.
pub(crate) fn accepted(io: &[&IoCall], sockets: &[&SocketRow]) -> Accepted {
    let steps = steps(io);
    let mut table = Table::default();
    for s in sockets {
        table.serves |= matches!(s.role, SocketRole::Listening | SocketRole::Accepted);
    }
    // A connection is as old as the recording unless its descriptor was opened or closed before it was looked at.
    let mut first_change: HashMap<i32, i64> = HashMap::new();
    for s in &steps {
        if let Some(fd) = s.changes() {
            first_change.entry(fd).or_insert(s.ts);
        }
    }
    let (mut late, mut early) = (Vec::new(), Vec::new());
    for s in sockets {
        let old = first_change.get(&s.fd).is_none_or(|ts| *ts > s.ts);
        if old { early.push(*s) } else { late.push(*s) }
    }
    early.iter().for_each(|s| table.found(s));
    late.sort_by_key(|s| s.ts);
    let mut late = late.into_iter().peekable();
    for step in &steps {
        while let Some(s) = late.next_if(|s| s.ts <= step.ts) {
            table.found(s);
        }
        table.step(step);
    }
    late.for_each(|s| table.found(s));
    table.finish(!sockets.is_empty())
}

/// A call at the moment at which it matters.
struct Step<'a> {
    ts: i64,
    call: &'a IoCall,
}

impl Step<'_> {
    /// The descriptor that becomes another one.
    fn changes(&self) -> Option<i32> {
        match self.call.call {
            IoCallKind::Accept | IoCallKind::Open => i32::try_from(self.call.result?).ok(),
            IoCallKind::Close | IoCallKind::Connect => self.call.fd,
            _ => None,
        }
    }
}

/// The calls in the order in which they take effect: what makes a descriptor at its exit, the rest at its entry.
fn steps<'a>(io: &[&'a IoCall]) -> Vec<Step<'a>> {
    let mut steps: Vec<Step<'a>> = io
        .iter()
        .map(|c| {
            let makes = matches!(c.call, IoCallKind::Accept | IoCallKind::Open);
            Step { ts: if makes { c.ts + c.dur } else { c.ts }, call: c }
        })
        .collect();
    steps.sort_by_key(|s| s.ts);
    steps
}

/// What a descriptor is at the moment.
enum Now {
    /// Its connection.
    Accepted(Connection),
    /// A client's side, a listener, a file.
    Else,
}

#[derive(Default)]
struct Table {
    now: HashMap<i32, Now>,
    done: Vec<Connection>,
    /// Of the sockets of unknown side: read from, written to.
    unknown: HashMap<i32, (bool, bool)>,
    serves: bool,
}

impl Table {
    fn found(&mut self, s: &SocketRow) {
        match s.role {
            SocketRole::Accepted => {
                self.now.entry(s.fd).or_insert_with(|| Now::Accepted(Connection::default()));
            }
            _ => {
                self.now.entry(s.fd).or_insert(Now::Else);
            }
        }
    }

    fn step(&mut self, step: &Step<'_>) {
        let call = step.call;
        match call.call {
            IoCallKind::Accept => {
                self.serves = true;
                if let Some(fd) = step.changes() {
                    self.replace(fd, step.ts, Some(Now::Accepted(Connection::default())));
                }
            }
            IoCallKind::Listen => self.serves = true,
            IoCallKind::Open | IoCallKind::Connect => {
                if let Some(fd) = step.changes() {
                    self.replace(fd, step.ts, Some(Now::Else));
                }
            }
            IoCallKind::Close => {
                if let Some(fd) = call.fd {
                    self.replace(fd, step.ts, None);
                }
            }
            IoCallKind::Read | IoCallKind::Write => self.transfer(call),
            IoCallKind::Sync => {}
        }
    }

    fn replace(&mut self, fd: i32, ts: i64, next: Option<Now>) {
        let before = match next {
            Some(next) => self.now.insert(fd, next),
            None => self.now.remove(&fd),
        };
        if let Some(Now::Accepted(mut connection)) = before {
            connection.closed_ns = Some(ts);
            self.close(connection);
        }
    }

    fn close(&mut self, mut connection: Connection) {
        if !connection.transfers.is_empty() {
            // A read that waits begins before the write that another thread makes meanwhile.
            connection.transfers.sort_by_key(|t| if t.read { t.end } else { t.start });
            self.done.push(connection);
        }
    }

    fn transfer(&mut self, c: &IoCall) {
        let (Some(fd), Some(bytes)) = (c.fd, c.result.filter(|n| *n > 0)) else { return };
        let read = c.call == IoCallKind::Read;
        match self.now.get_mut(&fd) {
            Some(Now::Accepted(connection)) => connection.transfers.push(Transfer {
                start: c.ts,
                end: c.ts + c.dur,
                tid: c.tid,
                read,
                bytes,
                first_byte: c.first_byte,
            }),
            Some(Now::Else) => {}
            None if c.socket == Some(true) => {
                let seen = self.unknown.entry(fd).or_default();
                if read { seen.0 = true } else { seen.1 = true }
            }
            None => {}
        }
    }

    fn finish(mut self, looked_at: bool) -> Accepted {
        let open: HashSet<i32> = self.now.keys().copied().collect();
        for fd in open {
            if let Some(Now::Accepted(connection)) = self.now.remove(&fd) {
                self.close(connection);
            }
        }
        // The order of a hash map is none.
        self.done.sort_by_key(|c| c.transfers.first().map(|t| (t.start, t.tid)));
        Accepted {
            unknown: self.unknown.values().filter(|seen| **seen == (true, true)).count(),
            connections: self.done,
            serves: self.serves,
            looked_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use IoCallKind::{Accept, Close, Connect, Read, Write};
    use mtrace_formats::tables::SocketFamily;

    use super::*;
    use crate::test_rows::io;

    fn socket(ts: i64, fd: i32, role: SocketRole) -> SocketRow {
        SocketRow { ts, pid: 10, fd, role, family: SocketFamily::Inet }
    }

    fn sizes(io: &[IoCall], sockets: &[SocketRow]) -> Vec<Vec<u64>> {
        let found = accepted(&io.iter().collect::<Vec<_>>(), &sockets.iter().collect::<Vec<_>>());
        found.connections.iter().map(|c| c.transfers.iter().map(|t| t.bytes).collect()).collect()
    }

    #[test]
    fn a_descriptor_is_one_connection_after_another() {
        let calls = [
            // It returns after the old connection on its descriptor was closed.
            io(50, 200, 10, Accept, 3, Some(7), 0),
            io(100, 5, 10, Accept, 3, Some(7), 0),
            io(110, 5, 10, Read, 7, Some(1), 0),
            io(120, 5, 10, Write, 7, Some(2), 0),
            io(200, 5, 10, Close, 7, Some(0), 0),
            io(260, 5, 10, Read, 7, Some(3), 0),
            io(270, 5, 10, Read, 7, None, 0),
            io(280, 5, 10, Read, 7, Some(0), 0),
            io(290, 5, 10, Close, 7, Some(0), 0),
            // A client's connection is nobody's request.
            io(300, 5, 10, Connect, 7, Some(0), 0),
            io(310, 5, 10, Write, 7, Some(4), 0),
            io(320, 5, 10, Read, 7, Some(5), 0),
        ];
        assert_eq!(sizes(&calls, &[]), [vec![1, 2], vec![3]]);
    }

    #[test]
    fn what_was_open_before_is_what_the_look_at_it_says() {
        let calls = [
            io(10, 1, 10, Read, 7, Some(1), 0),
            io(11, 1, 10, Read, 8, Some(2), 0),
            io(12, 1, 10, Write, 9, Some(9), 0),
            io(13, 1, 10, Read, 9, Some(9), 0),
            io(20, 1, 10, Close, 7, Some(0), 0),
            io(60, 1, 10, Read, 7, Some(3), 0),
        ];
        let roles = [socket(15, 7, SocketRole::Accepted), socket(15, 8, SocketRole::Connected)];
        assert_eq!(sizes(&calls, &roles), [vec![1]]);
        let found = accepted(&calls.iter().collect::<Vec<_>>(), &roles.iter().collect::<Vec<_>>());
        assert_eq!((found.unknown, found.serves, found.looked_at), (1, true, true));
        assert_eq!(found.connections[0].closed_ns, Some(20));
        // Looked at after the descriptor had become another one.
        assert_eq!(sizes(&calls, &[socket(50, 7, SocketRole::Accepted)]), [vec![3]]);
        let nothing = accepted(&calls.iter().collect::<Vec<_>>(), &[]);
        assert!(nothing.connections.is_empty() && !nothing.serves && !nothing.looked_at);
    }
}
