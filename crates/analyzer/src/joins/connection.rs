//! The first request on a connection and its response, from sizes and first bytes alone: no payload is recorded.
//!
//! Plain HTTP: the request is the first read, the response ends with the last write before the next read. TLS: the
//! handshake is skipped. HTTP/2: control frames (settings, acknowledgements, window updates) are neither requests nor
//! responses. Sizes are those of RFC 8446 (a TLS 1.3 record adds 22 bytes) and RFC 9113 (a frame header has 9).

/// A read or write on a connection that moved bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) tid: u32,
    pub(crate) read: bool,
    pub(crate) bytes: u64,
    pub(crate) first_byte: Option<u32>,
}

/// The first request and its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// The read that brought the request's first byte returned.
    pub(crate) request_ns: i64,
    /// The last write of the response returned.
    pub(crate) response_ns: i64,
    /// Thread that wrote it.
    pub(crate) tid: u32,
    /// What had to be assumed.
    pub(crate) assumptions: Vec<String>,
}

const CHANGE_CIPHER_SPEC: u32 = 0x14;
const HANDSHAKE: u32 = 0x16;
const APPLICATION_DATA: u32 = 0x17;
/// Header, content type and tag of a TLS 1.3 record.
const RECORD: u64 = 22;
/// Writes further apart than this are not one response.
const IDLE_NS: i64 = 1_000_000_000;
/// Client Finished in TLS 1.3 with a 32-byte and a 48-byte hash.
const FINISHED: [u64; 2] = [58, 74];
/// `HTTP/1.1 100 Continue` and two line ends.
const CONTINUE: u64 = 25;
/// Shortest request: `GET / HTTP/1.0` and two line ends.
const SHORTEST_REQUEST: u64 = 18;

/// Finds the first exchange in the transfers of one accepted connection, in order of time.
pub(crate) fn first_exchange(transfers: &[Transfer]) -> Option<Exchange> {
    let first_read = transfers.iter().find(|t| t.read)?;
    if first_read.first_byte == Some(HANDSHAKE) { tls(transfers) } else { plain(transfers) }
}

fn plain(transfers: &[Transfer]) -> Option<Exchange> {
    let at = transfers.iter().position(|t| t.read)?;
    let request = transfers[at];
    let is_control = |t: &Transfer| {
        if t.read { t.bytes < SHORTEST_REQUEST } else { t.bytes == CONTINUE || t.bytes < 13 }
    };
    let response = response(&transfers[at + 1..], is_control)?;
    Some(Exchange {
        request_ns: request.end,
        response_ns: response.end,
        tid: response.tid,
        assumptions: vec![
            "the connection carries one request at a time: the response ends with the last write before the next read"
                .to_owned(),
        ],
    })
}

fn tls(transfers: &[Transfer]) -> Option<Exchange> {
    let records = whole_records(transfers);
    let at = tls_request(&records)?;
    let rest = &records[at + 1..];
    // A client acknowledges the server's SETTINGS with a frame of 9 bytes; no HTTP/1 request is that short.
    let h2 = rest.iter().take(16).any(|t| t.read && t.bytes == RECORD + 9);
    let mut writes = 0;
    let is_control = |t: &Transfer| {
        if !t.read {
            writes += 1;
        }
        control_record(t, h2, writes)
    };
    let response = response(rest, is_control)?;
    let mut assumptions =
        vec!["TLS: the handshake was told from data by first bytes and record sizes (RFC 8446)".to_owned()];
    if h2 {
        assumptions.push(
            "HTTP/2: frames are encrypted; settings, window updates and pings were told from requests and responses by their sizes"
                .to_owned(),
        );
    }
    Some(Exchange { request_ns: records[at].end, response_ns: response.end, tid: response.tid, assumptions })
}

/// OpenSSL reads a record as its 5-byte header and then its body: puts both together.
fn whole_records(transfers: &[Transfer]) -> Vec<Transfer> {
    let mut out: Vec<Transfer> = Vec::with_capacity(transfers.len());
    let mut header = false;
    for t in transfers {
        match out.last_mut() {
            Some(last) if header && t.read => {
                last.end = t.end;
                last.bytes += t.bytes;
                last.tid = t.tid;
                header = false;
            }
            _ => {
                header = t.read && t.bytes == 5;
                out.push(*t);
            }
        }
    }
    out
}

/// The read that brings the first data of the client after the handshake.
fn tls_request(records: &[Transfer]) -> Option<usize> {
    let server_flight = records.iter().position(|t| !t.read)?;
    let mut finished = false;
    for (i, t) in records.iter().enumerate().skip(server_flight).filter(|(_, t)| t.read) {
        // What the server answers with handshake records is still handshake (hello retry, TLS 1.2).
        let answer = records[i + 1..].iter().find(|t| !t.read).and_then(|t| t.first_byte);
        let in_handshake = matches!(answer, Some(HANDSHAKE | CHANGE_CIPHER_SPEC));
        match t.first_byte {
            _ if in_handshake => finished |= t.first_byte == Some(HANDSHAKE),
            Some(CHANGE_CIPHER_SPEC) => {
                let with_finished = FINISHED.map(|n| n + 6);
                finished |= t.bytes >= with_finished[0];
                if t.bytes > with_finished[1] {
                    return Some(i);
                }
            }
            Some(APPLICATION_DATA) if !finished && FINISHED.contains(&t.bytes) => finished = true,
            Some(APPLICATION_DATA) if t.bytes > RECORD + 2 => return Some(i),
            // The middle of a longer flight of the client, such as its certificate.
            _ => {}
        }
    }
    None
}

/// Records that are neither requests nor parts of responses.
fn control_record(t: &Transfer, h2: bool, writes: u32) -> bool {
    // An alert (close_notify), or nothing at all.
    if t.bytes <= RECORD + 2 {
        return true;
    }
    if !t.read && t.bytes == RECORD + CONTINUE {
        return true;
    }
    if !h2 {
        return false;
    }
    let payload = t.bytes - RECORD;
    // SETTINGS or PING acknowledgement, WINDOW_UPDATE, PING, GOAWAY, and an acknowledgement with a window update.
    let frame = matches!(payload, 9 | 13 | 17 | 22 | 26) || t.bytes == 2 * (RECORD + 13);
    // The server's own SETTINGS (6 bytes each), which it sends before any response.
    let settings = |n: u64| n > 9 && (n - 9).is_multiple_of(6) && n <= 9 + 8 * 6;
    let preface = !t.read && writes <= 3 && (settings(payload) || payload > 13 && settings(payload - 13));
    frame || preface
}

/// The last write of the first response among what follows the request.
fn response(rest: &[Transfer], mut is_control: impl FnMut(&Transfer) -> bool) -> Option<Transfer> {
    let mut last: Option<Transfer> = None;
    for t in rest {
        let control = is_control(t);
        match last {
            Some(l) if t.start.saturating_sub(l.end) > IDLE_NS => break,
            Some(_) if t.read && !control => break,
            _ => {}
        }
        if !t.read && !control {
            last = Some(*t);
        }
    }
    last
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Reads are positive, writes negative; one every microsecond.
    fn transfers(list: &[(i64, u32)]) -> Vec<Transfer> {
        list.iter()
            .enumerate()
            .map(|(i, (bytes, first))| Transfer {
                start: i as i64 * 1000,
                end: i as i64 * 1000 + 10,
                tid: i as u32,
                read: *bytes > 0,
                bytes: bytes.unsigned_abs(),
                first_byte: Some(*first),
            })
            .collect()
    }

    /// Positions of the request and of the last write of the response.
    fn found(list: &[(i64, u32)]) -> Option<(i64, u32)> {
        first_exchange(&transfers(list)).map(|e| (e.request_ns / 1000, e.tid))
    }

    #[test]
    fn plain_http_with_a_response_in_several_writes() {
        let (get, http) = (0x47, 0x48);
        assert_eq!(found(&[(78, get), (-132, http), (-4096, 0), (-9, 0x30), (80, get), (-132, http)]), Some((0, 2)));
        assert_eq!(found(&[(78, get)]), None);
        assert_eq!(found(&[(-20, 0x32), (30, get), (-40, 0x32)]), Some((1, 2)));
    }

    #[test]
    fn a_request_with_a_body_and_100_continue() {
        assert_eq!(found(&[(200, 0x50), (-25, 0x48), (5000, 1), (-132, 0x48), (80, 0x50)]), Some((0, 3)));
    }

    // The sequences below were read with strace from Go 1.25 servers (net/http), bytes and first bytes.

    #[test]
    fn go_server_and_go_client_over_http_1() {
        let seq =
            [(576, 0x16), (903, 0xcb), (-1794, 0x16), (64, 0x14), (133, 0x17), (-254, 0x17), (133, 0x17), (-254, 0x17)];
        assert_eq!(found(&seq), Some((4, 5)));
    }

    #[test]
    fn go_server_and_curl_send_finished_and_request_together() {
        let seq = [(517, 0x16), (-784, 0x16), (165, 0x14), (-154, 0x17), (24, 0x17), (-24, 0x17)];
        assert_eq!(found(&seq), Some((2, 3)));
    }

    #[test]
    fn go_server_and_curl_over_http_2() {
        let seq = [
            (517, 0x16),
            (-779, 0x16),
            (212, 0x14),
            (-61, 0x17),
            (31, 0x17),
            (-44, 0x17),
            (-104, 0x17),
            (40, 0x17),
            (-59, 0x17),
            (-24, 0x17),
        ];
        assert_eq!(found(&seq), Some((2, 6)));
    }

    #[test]
    fn go_server_and_go_client_over_http_2() {
        let seq = [
            (576, 0x16),
            (921, 0x94),
            (-1724, 0x16),
            (156, 0x14),
            (67, 0x17),
            (-61, 0x17),
            (-44, 0x17),
            (31, 0x17),
            (-104, 0x17),
            (40, 0x17),
            (-59, 0x17),
        ];
        assert_eq!(found(&seq), Some((3, 8)));
    }

    #[test]
    fn openssl_reads_header_and_body_and_sends_tickets() {
        let seq = [
            (5, 0x16),
            (512, 1),
            (-1500, 0x16),
            (5, 0x14),
            (1, 1),
            (5, 0x17),
            (53, 9),
            (-510, 0x17),
            (5, 0x17),
            (90, 7),
            (-300, 0x17),
            (5, 0x17),
        ];
        assert_eq!(found(&seq), Some((9, 10)));
    }

    #[test]
    fn tls_1_2_and_hello_retry_are_handshakes_until_the_server_stops_answering_so() {
        let tls12 = [(517, 0x16), (-1200, 0x16), (126, 0x16), (-258, 0x16), (110, 0x17), (-300, 0x17)];
        assert_eq!(found(&tls12), Some((4, 5)));
        let retry = [(517, 0x16), (-99, 0x16), (523, 0x14), (-1200, 0x16), (74, 0x17), (120, 0x17), (-300, 0x17)];
        assert_eq!(found(&retry), Some((5, 6)));
    }

    #[test]
    fn a_connection_that_only_shakes_hands_has_no_request() {
        assert_eq!(found(&[(517, 0x16), (-784, 0x16), (64, 0x14), (24, 0x17), (-24, 0x17)]), None);
    }

    #[test]
    fn writes_far_apart_are_not_one_response() {
        let mut t = transfers(&[(78, 0x47), (-132, 0x48), (-50, 0x48)]);
        t[2].start += 2_000_000_000;
        t[2].end += 2_000_000_000;
        assert_eq!(first_exchange(&t).unwrap().tid, 1);
    }
}
