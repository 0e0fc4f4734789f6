//! The sockets that a process has open, and which side of each conversation it is: rows of `sockets`.
//!
//! The kernel's lists are parsed here and not by procfs-core: that crate drops the whole list for one path that is not
//! UTF-8 or holds a line break, and anybody may bind such a name. A line that does not parse costs that line.

use std::collections::{HashMap, HashSet};
use std::fs;

use mtrace_formats::tables::{SocketFamily, SocketRole, SocketRow};

use crate::host::monotonic_ns;

/// States of include/net/tcp_states.h in which two sides are, or were, connected.
const ESTABLISHED: u8 = 1;
const FIN_WAIT: [u8; 2] = [4, 5];
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
/// States of include/uapi/linux/net.h.
const SS_CONNECTED: u8 = 3;
const SS_DISCONNECTING: u8 = 4;
/// `__SO_ACCEPTCON`: a Unix socket that listens.
const ACCEPTS: u32 = 1 << 16;
const STREAM: u16 = 1;
const SEQPACKET: u16 = 5;

/// A socket of the network namespace.
struct Entry {
    family: SocketFamily,
    state: State,
    /// Where it is bound to.
    at: Option<Address>,
}

#[derive(PartialEq, Eq)]
enum State {
    Listening,
    Connected,
    Neither,
}

/// Local address, as far as it tells listeners apart. IPv6 sockets take IPv4 connections: one port for both.
#[derive(PartialEq, Eq, Hash, Clone)]
enum Address {
    Port(u16),
    Path(Vec<u8>),
}

/// The open sockets of `pid`, in order of their descriptors; empty if it is gone or none may be read.
pub fn of_process(pid: u32) -> Vec<SocketRow> {
    let ts = monotonic_ns();
    let open = descriptors(pid);
    if open.is_empty() {
        return Vec::new();
    }
    let read = |name: &str| fs::read(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let entries = entries(&read("tcp"), &read("tcp6"), &read("unix"));
    rows(&open, &entries, ts, pid)
}

/// Descriptors that are sockets, with their inodes.
fn descriptors(pid: u32) -> Vec<(i32, u64)> {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut open: Vec<(i32, u64)> = dir
        .flatten()
        .filter_map(|e| {
            let fd = e.file_name().to_str()?.parse().ok()?;
            let link = fs::read_link(e.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
            Some((fd, inode))
        })
        .collect();
    open.sort_unstable();
    open
}

fn entries(tcp: &[u8], tcp6: &[u8], unix: &[u8]) -> HashMap<u64, Entry> {
    let of = |text: &[u8], family| -> Vec<(u64, Entry)> {
        text.split(|b| *b == b'\n').filter_map(|line| tcp_line(line, family)).collect()
    };
    let mut out: HashMap<u64, Entry> = HashMap::new();
    out.extend(of(tcp, SocketFamily::Inet));
    out.extend(of(tcp6, SocketFamily::Inet6));
    out.extend(unix.split(|b| *b == b'\n').filter_map(unix_line));
    out
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`
fn tcp_line(line: &[u8], family: SocketFamily) -> Option<(u64, Entry)> {
    let text = std::str::from_utf8(line).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().take(10).collect();
    let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    let state = match u8::from_str_radix(fields.get(3)?, 16).ok()? {
        LISTEN => State::Listening,
        ESTABLISHED | CLOSE_WAIT => State::Connected,
        s if FIN_WAIT.contains(&s) => State::Connected,
        _ => State::Neither,
    };
    let inode = fields.get(9)?.parse().ok()?;
    Some((inode, Entry { family, state, at: Some(Address::Port(port)) }))
}

/// `Num RefCount Protocol Flags Type St Inode Path`
fn unix_line(line: &[u8]) -> Option<(u64, Entry)> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|b| *b != b' ')?;
        let end = rest[start..].iter().position(|b| *b == b' ').map_or(rest.len(), |n| start + n);
        let (word, tail) = (&rest[start..end], &rest[end..]);
        rest = tail;
        std::str::from_utf8(word).ok()
    };
    let (_, _, _) = (field()?, field()?, field()?);
    let flags = u32::from_str_radix(field()?, 16).ok()?;
    let kind = u16::from_str_radix(field()?, 16).ok()?;
    let state = u8::from_str_radix(field()?, 16).ok()?;
    let inode = field()?.parse().ok()?;
    let path = rest.strip_prefix(b" ").filter(|p| !p.is_empty()).map(<[u8]>::to_vec);
    let state = match state {
        _ if !matches!(kind, STREAM | SEQPACKET) => State::Neither,
        _ if flags & ACCEPTS != 0 => State::Listening,
        SS_CONNECTED | SS_DISCONNECTING => State::Connected,
        _ => State::Neither,
    };
    Some((inode, Entry { family: SocketFamily::Unix, state, at: path.map(Address::Path) }))
}

fn rows(open: &[(i32, u64)], entries: &HashMap<u64, Entry>, ts: i64, pid: u32) -> Vec<SocketRow> {
    let listened: HashSet<&Address> =
        entries.values().filter(|e| e.state == State::Listening).filter_map(|e| e.at.as_ref()).collect();
    open.iter()
        .map(|(fd, inode)| {
            let entry = entries.get(inode);
            let role = match entry {
                Some(Entry { state: State::Listening, .. }) => SocketRole::Listening,
                Some(Entry { state: State::Connected, at, .. }) => match at {
                    Some(at) if listened.contains(at) => SocketRole::Accepted,
                    _ => SocketRole::Connected,
                },
                _ => SocketRole::Other,
            };
            SocketRow { ts, pid, fd: *fd, role, family: entry.map_or(SocketFamily::Other, |e| e.family) }
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "sockets_tests.rs"]
mod tests;
