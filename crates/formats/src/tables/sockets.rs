use crate::{name_enum, table};

name_enum! {
    /// Which side of a conversation a socket is.
    pub enum SocketRole {
        /// It waits for connections.
        Listening = "listening",
        /// A connection that came in: its local port, or its path, is one that its network namespace listens on.
        Accepted = "accepted",
        /// A connection that is not an accepted one: the process called somebody, or made a pair.
        Connected = "connected",
        /// Neither: not connected, datagrams, another family.
        Other = "other",
    }
}

name_enum! {
    /// Address family, as far as it was looked up.
    pub enum SocketFamily {
        /// TCP over IPv4.
        Inet = "inet",
        /// TCP over IPv6.
        Inet6 = "inet6",
        /// A Unix socket.
        Unix = "unix",
        /// Another one (UDP, netlink, …), or not in the kernel's lists.
        Other = "other",
    }
}

table! {
    /// One socket that a target had open when the recording reached it: who is the server of connections that are
    /// older than the recording, for which no accept is in `io_calls`.
    ///
    /// From `/proc/PID/fd` and `/proc/PID/net/{tcp,tcp6,unix}`. No address, port or path is stored.
    pub struct SocketRow("sockets") {
        /// When it was looked at.
        ts: i64 = Dictionary,
        /// Process (thread group).
        pid: u32 = Dictionary,
        /// File descriptor.
        fd: i32 = Plain,
        /// Which side it is.
        role: SocketRole = Dictionary,
        /// Address family.
        family: SocketFamily = Dictionary,
    }
}
