//! The requests that a process answered, and the stretches of time that somebody waited for.
//!
//! Calls → connections → exchanges → windows; and what of it could not be seen. Cost is that of sorting the calls.

mod connection;
mod descriptors;
mod unseen;
mod windows;

use mtrace_formats::tables::{IoCall, SocketRow};

use connection::{Exchange, Protocol};
pub(crate) use unseen::{Limits, unseen};
pub use windows::{COLD_START, FIRST_REQUEST, SLOWEST_REQUEST, UNANSWERED_REQUEST, WHOLE_CAPTURE};
pub(crate) use windows::{Placed, Traces, of_request, place, whole};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The last byte of its response was written.
    Answered,
    /// The connection was closed without a response.
    Closed,
    /// The recording ended first.
    Open,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) start_ns: i64,
    pub(crate) end_ns: i64,
    /// Thread that wrote the response; without one the thread that read the request.
    pub(crate) tid: u32,
    /// Thread that read it.
    pub(crate) reader: u32,
    pub(crate) ending: Ending,
    /// Position among all requests of the process, from 1.
    pub(crate) number: u64,
    protocol: Protocol,
}

impl Request {
    pub(crate) fn duration_ns(&self) -> i64 {
        self.end_ns - self.start_ns
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.ending == Ending::Answered
    }
}

/// All requests of a process.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// In order of their begin.
    pub(crate) all: Vec<Request>,
    /// Durations of the answered ones, ascending.
    durations: Vec<i64>,
    /// Connections that carried something.
    pub(crate) connections: u64,
    /// Sockets with traffic of which nobody knows whether they are accepted ones.
    unknown_sockets: usize,
    /// It listens, accepts, or has connections that came in.
    pub(crate) serves: bool,
    looked_at_sockets: bool,
}

impl Requests {
    /// Finds them in the calls of a process, sorted by entry, until the end of the recording.
    pub(crate) fn find(io: &[&IoCall], sockets: &[&SocketRow], end_ns: i64) -> Self {
        let accepted = descriptors::accepted(io, sockets);
        let mut all: Vec<Request> = Vec::new();
        for c in &accepted.connections {
            let found = connection::exchanges(&c.transfers).into_iter();
            all.extend(found.map(|e| request(&e, c.closed_ns, end_ns)));
        }
        all.sort_by_key(|r| (r.start_ns, r.end_ns, r.tid));
        for (number, r) in (1..).zip(&mut all) {
            r.number = number;
        }
        let mut durations: Vec<i64> = all.iter().filter(|r| r.is_answered()).map(Request::duration_ns).collect();
        durations.sort_unstable();
        Self {
            all,
            durations,
            connections: accepted.connections.len() as u64,
            unknown_sockets: accepted.unknown,
            serves: accepted.serves,
            looked_at_sockets: accepted.looked_at,
        }
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.durations.len() as u64
    }

    /// The duration that this part of the answered ones do not exceed; null if there are too few to say: a 99th
    /// percentile of 50 requests is the longest one under another name.
    pub(crate) fn quantile_ns(&self, part: f64) -> Option<i64> {
        let n = self.durations.len() as f64;
        if part < 1.0 && n * (1.0 - part) < 1.0 - 1e-9 {
            return None;
        }
        let rank = (part * n).ceil() as usize;
        self.durations.get(rank.max(1) - 1).copied()
    }

    /// The longest ones, longest first; those without an answer only if that is known.
    pub(crate) fn slowest(&self, n: usize, endings_are_known: bool) -> Vec<Request> {
        let mut sorted: Vec<&Request> = self.all.iter().filter(|r| r.is_answered() || endings_are_known).collect();
        sorted.sort_by_key(|r| (std::cmp::Reverse(r.duration_ns()), r.number));
        sorted.into_iter().take(n).copied().collect()
    }
}

fn request(e: &Exchange, closed_ns: Option<i64>, end_ns: i64) -> Request {
    let (end, ending) = match (e.response_ns, closed_ns) {
        (Some(end), _) => (end, Ending::Answered),
        (None, Some(closed)) => (closed, Ending::Closed),
        (None, None) => (end_ns, Ending::Open),
    };
    Request {
        start_ns: e.request_ns,
        end_ns: end.max(e.request_ns),
        tid: e.tid,
        reader: e.reader,
        ending,
        number: 0,
        protocol: e.protocol,
    }
}
