use serde::Serialize;

use super::ledger::LedgerRow;

/// The requests of a process.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct RequestTable {
    /// Process.
    pub pid: u32,
    /// Requests that were answered: what the durations below are of.
    pub answered: u64,
    /// Requests that were not: the recording ended first, or the connection was closed.
    pub unanswered: u64,
    /// Connections that carried them.
    pub connections: u64,
    /// Median duration, from the first byte of the request to the last byte of the response.
    pub p50_ns: Option<i64>,
    /// 90 % were not longer; null if there are fewer than ten.
    pub p90_ns: Option<i64>,
    /// 99 % were not longer; null if there are fewer than a hundred.
    pub p99_ns: Option<i64>,
    /// The longest.
    pub max_ns: Option<i64>,
    /// The longest ones, answered or not, longest first; at most five.
    pub slowest: Vec<SlowRequest>,
    /// True if the process listens, accepts, or has connections that came in.
    pub serves: bool,
    /// Why there may have been requests that were not seen; empty if all were.
    pub unseen: Vec<String>,
}

/// One of the slowest requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlowRequest {
    /// Which one, in order of their begin, from 1.
    pub number: u64,
    /// The read that brought its first byte returned.
    pub start_ns: i64,
    /// Wall-clock time of that, ns since 1970; null if no clock pair was recorded.
    pub start_realtime_ns: Option<i64>,
    /// Its last byte was written, or nobody waited any more.
    pub end_ns: i64,
    /// False if there was no answer.
    pub answered: bool,
    /// Thread that answered; without an answer the one that read the request.
    pub tid: u32,
    /// Where its time went: the largest rows of its ledger.
    pub largest: Vec<LedgerRow>,
}
