use crate::{name_enum, table};

name_enum! {
    /// Which call.
    pub enum IoCallKind {
        /// openat(2), open(2).
        Open = "open",
        /// read(2), readv(2), pread64(2), recvfrom(2), recvmsg(2).
        Read = "read",
        /// write(2), writev(2), pwrite64(2), sendto(2), sendmsg(2).
        Write = "write",
        /// accept(2), accept4(2).
        Accept = "accept",
        /// connect(2).
        Connect = "connect",
        /// fsync(2), fdatasync(2).
        Sync = "sync",
        /// close(2).
        Close = "close",
        /// listen(2).
        Listen = "listen",
    }
}

table! {
    /// One file or network call of a target, written when it returned: what the cold-start ledger needs.
    ///
    /// Bounded: after the first `io_calls_per_process` calls of a process (a knob in the manifest) the rest is counted
    /// in `losses` as `over_limit`. No payload is recorded, only the first byte, which tells a TLS handshake (0x16)
    /// from data.
    ///
    /// An accept or read that was under way when the recording reached its thread has a row, too: its `ts` is its exit
    /// and its `dur` is 0 (counted as `no_start`).
    pub struct IoCall("io_calls") {
        /// Entry; exit where the entry was before the recording.
        ts: i64 = Delta,
        /// Entry to exit; 0 where the entry was before the recording.
        dur: i64 = Delta,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// Thread.
        tid: u32 = Dictionary,
        /// Which call.
        call: IoCallKind = Dictionary,
        /// File descriptor argument; null for `open`.
        fd: Option<i32> = Dictionary,
        /// True if the descriptor is a socket; null if it could not be read.
        socket: Option<bool> = Dictionary,
        /// Value returned on success: bytes, or the new descriptor (`open`, `accept`); null on failure.
        result: Option<u64> = Plain,
        /// errno on failure (11 EAGAIN: nothing there yet); null on success.
        errno: Option<i32> = Dictionary,
        /// Read and write on a socket: first byte of the data; null elsewhere.
        first_byte: Option<u32> = Dictionary,
    }
}
