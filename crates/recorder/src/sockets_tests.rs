use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// Roles of this process's descriptors, which are as real as any other's.
fn mine() -> BTreeMap<i32, (SocketRole, SocketFamily)> {
    of_process(std::process::id()).into_iter().map(|r| (r.fd, (r.role, r.family))).collect()
}

#[test]
fn tcp_sockets_have_the_side_that_they_are() {
    for (address, family) in [("127.0.0.1:0", SocketFamily::Inet), ("[::1]:0", SocketFamily::Inet6)] {
        // A host without IPv6 has nothing to look at.
        let Ok(listener) = TcpListener::bind(address) else { continue };
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let found = mine();
        assert_eq!(found[&listener.as_raw_fd()], (SocketRole::Listening, family));
        assert_eq!(found[&server.as_raw_fd()], (SocketRole::Accepted, family));
        assert_eq!(found[&client.as_raw_fd()], (SocketRole::Connected, family));
        // The other side has hung up and waits for the answer all the same.
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let found = mine();
        assert_eq!(found[&server.as_raw_fd()].0, SocketRole::Accepted);
        assert_eq!(found[&client.as_raw_fd()].0, SocketRole::Connected);
    }
}

#[test]
fn unix_sockets_have_the_side_that_they_are_whatever_their_path_is() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["plain", "with a blank ", "line\nbreak"] {
        let path = dir.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (left, _right) = UnixStream::pair().unwrap();
        let found = mine();
        assert_eq!(found[&listener.as_raw_fd()], (SocketRole::Listening, SocketFamily::Unix), "{name:?}");
        assert_eq!(found[&server.as_raw_fd()], (SocketRole::Accepted, SocketFamily::Unix), "{name:?}");
        assert_eq!(found[&client.as_raw_fd()], (SocketRole::Connected, SocketFamily::Unix), "{name:?}");
        assert_eq!(found[&left.as_raw_fd()], (SocketRole::Connected, SocketFamily::Unix), "{name:?}");
    }
}

#[test]
fn what_is_no_connection_is_other_and_what_is_no_socket_is_not_there() {
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let found = mine();
    assert_eq!(found[&datagrams.as_raw_fd()], (SocketRole::Other, SocketFamily::Other));
    assert!(!found.contains_key(&file.as_raw_fd()));
    assert!(of_process(u32::MAX - 1).is_empty());
}

#[test]
fn a_line_that_is_none_costs_itself() {
    let tcp = b"  sl  local_address rem_address   st\n garbage\n\
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 536 1 0\n\
        1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 537 1 0\n\
        2: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000 0 0 538 1 0\n\
        3: 0100007F:1F90 0100007F:C351 06 00000000:00000000 00:00000000 00000000 0 0 0 1 0\n";
    let unix = b"Num RefCount Protocol Flags Type St Inode Path\n\xff\xfe\n\
        0000: 00000002 00000000 00010000 0001 01 70 @\xff\xff\n0000: 00000003 00000000 00000000 0001 03 71 @\xff\xff\n\
        0000: 00000003 00000000 00000000 0002 03 72 @\xff\xff\n";
    let entries = entries(tcp, b"", unix);
    let open = [(3, 536), (4, 537), (5, 538), (6, 70), (7, 71), (8, 72), (9, 999)];
    let roles: Vec<SocketRole> = rows(&open, &entries, 1, 2).into_iter().map(|r| r.role).collect();
    use SocketRole::{Accepted, Connected, Listening, Other};
    assert_eq!(roles, [Listening, Accepted, Connected, Listening, Accepted, Other, Other]);
}
