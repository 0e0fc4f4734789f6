//! Requests on a connection and their responses, from sizes and first bytes alone: no payload is recorded.
//!
//! A request begins with the first read after a response, and its response ends with the last write before the next
//! request. What is neither is left out. HTTP/1: short reads and writes (chunk ends, `100 Continue`). TLS: the
//! handshake. HTTP/2: control frames (settings, acknowledgements, window updates). Sizes are those of RFC 8446 (a TLS
//! 1.3 record adds 22 bytes) and RFC 9113 (a frame header has 9).

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

/// A request and its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// The read that brought the request's first byte returned.
    pub(crate) request_ns: i64,
    /// The last write of the response returned; null if there was none.
    pub(crate) response_ns: Option<i64>,
    /// Thread that wrote it; without a response the one that read the request.
    pub(crate) tid: u32,
    /// Thread that read the request.
    pub(crate) reader: u32,
    /// What it was taken for.
    pub(crate) protocol: Protocol,
}

/// What a connection seems to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// HTTP/1 in the open.
    Http1,
    /// HTTP/2 in the open, or something else.
    Frames,
    /// Something in TLS, one request at a time.
    Tls,
    /// HTTP/2 in TLS.
    TlsHttp2,
}

impl Protocol {
    /// What has to be assumed to see requests in it.
    pub(crate) fn assumptions(self) -> Vec<String> {
        const ONE_BY_ONE: &str =
            "the connection carries one request at a time: the response ends with the last write before the next read";
        const TLS: &str = "TLS: the handshake was told from data by first bytes and record sizes (RFC 8446)";
        const HTTP2: &str = "HTTP/2: frames are encrypted; settings, window updates and pings were told from requests and responses by their sizes; concurrent streams on one connection cannot be told apart";
        const FRAMES: &str = "not HTTP/1: what is read after a write is taken for a request; concurrent requests on one connection (HTTP/2) cannot be told apart";
        let texts: &[&str] = match self {
            Self::Http1 => &[ONE_BY_ONE],
            Self::Frames => &[FRAMES],
            Self::Tls => &[TLS, ONE_BY_ONE],
            Self::TlsHttp2 => &[TLS, HTTP2],
        };
        texts.iter().map(|t| (*t).to_owned()).collect()
    }
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
/// Transfers in which the protocol shows.
const OPENING: usize = 16;

/// Finds the exchanges in the transfers of one accepted connection, which are in order of time. Only the last one can be
/// without a response.
pub(crate) fn exchanges(transfers: &[Transfer]) -> Vec<Exchange> {
    match transfers.iter().find(|t| t.read).and_then(|t| t.first_byte) {
        Some(HANDSHAKE) => tls(transfers),
        Some(APPLICATION_DATA) => tls_from_the_middle(transfers),
        Some(byte) => plain(transfers, byte),
        None => plain(transfers, 0),
    }
}

fn plain(transfers: &[Transfer], first_byte: u32) -> Vec<Exchange> {
    let is_frame = |t: &Transfer| t.first_byte == Some(0) && control_frame(t.bytes);
    // HTTP/2 begins with a text, too: its preface.
    let letter = (u32::from(b'A')..=u32::from(b'Z')).contains(&first_byte);
    if letter && !transfers.iter().take(OPENING).any(|t| t.read && is_frame(t)) {
        let mut first = true;
        let is_control = |t: &Transfer| {
            let is_first = t.read && std::mem::take(&mut first);
            if t.read { t.bytes < SHORTEST_REQUEST && !is_first } else { t.bytes == CONTINUE || t.bytes < 13 }
        };
        return fold(transfers, is_control, Protocol::Http1);
    }
    // Only a connection whose preface was seen has the server's settings yet to come.
    let mut writes = if letter { 0 } else { u32::MAX };
    let is_control = |t: &Transfer| {
        writes = writes.saturating_add(u32::from(!t.read));
        is_frame(t) || t.first_byte == Some(0) && !t.read && writes <= 3 && settings(t.bytes)
    };
    let mut found = fold(transfers, is_control, Protocol::Frames);
    // What never answers on a connection may be a protocol that does not answer.
    if found.len() == 1 {
        found.retain(|e| e.response_ns.is_some());
    }
    found
}

fn tls(transfers: &[Transfer]) -> Vec<Exchange> {
    let records = whole_records(transfers);
    let Some(at) = tls_request(&records) else { return Vec::new() };
    // A client acknowledges the server's SETTINGS with a frame of 9 bytes; no HTTP/1 request is that short.
    let h2 = records[at + 1..].iter().take(OPENING).any(|t| t.read && t.bytes == RECORD + 9);
    let mut writes = 0;
    let mut first = true;
    let is_control = |t: &Transfer| {
        writes += u32::from(!t.read);
        !std::mem::take(&mut first) && control_record(t, h2, writes)
    };
    fold(&records[at..], is_control, if h2 { Protocol::TlsHttp2 } else { Protocol::Tls })
}

/// The connection is older than the recording: its handshake is over.
fn tls_from_the_middle(transfers: &[Transfer]) -> Vec<Exchange> {
    let records = whole_records(transfers);
    let h2 = records.iter().any(|t| t.read && [9, 13, 17].iter().any(|n| t.bytes == RECORD + n));
    let is_control = |t: &Transfer| control_record(t, h2, u32::MAX);
    fold(&records, is_control, if h2 { Protocol::TlsHttp2 } else { Protocol::Tls })
}

/// A request that waits for its response, or for the rest of it.
struct Open {
    request_ns: i64,
    reader: u32,
    last: Option<Transfer>,
}

fn fold(transfers: &[Transfer], mut is_control: impl FnMut(&Transfer) -> bool, protocol: Protocol) -> Vec<Exchange> {
    let close = |o: Open| Exchange {
        request_ns: o.request_ns,
        response_ns: o.last.map(|l| l.end),
        tid: o.last.map_or(o.reader, |l| l.tid),
        reader: o.reader,
        protocol,
    };
    let mut out = Vec::new();
    let mut open: Option<Open> = None;
    for t in transfers {
        if is_control(t) {
            continue;
        }
        let answered = open.as_ref().is_some_and(|o| o.last.is_some());
        if t.read {
            if open.is_none() || answered {
                out.extend(open.take().map(close));
                open = Some(Open { request_ns: t.end, reader: t.tid, last: None });
            }
        } else if let Some(o) = &mut open {
            match o.last {
                // Something that the server says by itself, later.
                Some(l) if t.start.saturating_sub(l.end) > IDLE_NS => out.extend(open.take().map(close)),
                _ => o.last = Some(*t),
            }
        }
    }
    out.extend(open.map(close));
    out
}

/// OpenSSL reads a record as its 5-byte header and then its body: puts both together.
fn whole_records(transfers: &[Transfer]) -> Vec<Transfer> {
    let mut out: Vec<Transfer> = Vec::with_capacity(transfers.len());
    let mut header = false;
    for t in transfers {
        match out.last_mut() {
            Some(last) if header && t.read => {
                last.end = t.end;
                last.bytes = last.bytes.saturating_add(t.bytes);
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
    let answers = answers(records);
    let mut finished = false;
    for (i, t) in records.iter().enumerate().skip(server_flight).filter(|(_, t)| t.read) {
        // What the server answers with handshake records is still handshake (hello retry, TLS 1.2).
        let in_handshake = matches!(answers[i], Some(HANDSHAKE | CHANGE_CIPHER_SPEC));
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

/// First byte of the next write after each record.
fn answers(records: &[Transfer]) -> Vec<Option<u32>> {
    let mut next = None;
    let mut out: Vec<Option<u32>> = records
        .iter()
        .rev()
        .map(|t| {
            let answer = next;
            if !t.read {
                next = t.first_byte;
            }
            answer
        })
        .collect();
    out.reverse();
    out
}

/// SETTINGS or PING acknowledgement, WINDOW_UPDATE, PING, GOAWAY, and an acknowledgement with a window update.
fn control_frame(bytes: u64) -> bool {
    matches!(bytes, 9 | 13 | 17 | 22 | 26)
}

/// The server's own SETTINGS (6 bytes each), which it sends before any response, alone or with a window update.
fn settings(bytes: u64) -> bool {
    let alone = |n: u64| n > 9 && (n - 9).is_multiple_of(6) && n <= 9 + 8 * 6;
    alone(bytes) || bytes > 13 && alone(bytes - 13)
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
        // Too short for a request.
        return t.read && t.bytes < RECORD + SHORTEST_REQUEST;
    }
    let payload = t.bytes - RECORD;
    control_frame(payload) || t.bytes == 2 * (RECORD + 13) || !t.read && writes <= 3 && settings(payload)
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

    /// Positions of each request and of the last write of its response.
    fn all(list: &[(i64, u32)]) -> Vec<(i64, u32)> {
        let found = exchanges(&transfers(list)).into_iter();
        found.filter(|e| e.response_ns.is_some()).map(|e| (e.request_ns / 1000, e.tid)).collect()
    }

    fn found(list: &[(i64, u32)]) -> Option<(i64, u32)> {
        all(list).first().copied()
    }

    #[test]
    fn every_request_of_a_connection_that_is_kept_open_is_found() {
        let (get, http) = (0x47, 0x48);
        // Go's server reads ahead by one byte while it answers.
        let seq = [(78, get), (-132, http), (1, get), (77, 0x45), (-132, http), (-4096, 0), (78, get)];
        assert_eq!(all(&seq), [(0, 1), (3, 5)]);
        let last = *exchanges(&transfers(&seq)).last().unwrap();
        assert_eq!((last.request_ns / 1000, last.response_ns, last.tid), (6, None, 6));
        let tls = [(576, 0x16), (-1794, 0x16), (64, 0x14), (133, 0x17), (-254, 0x17), (133, 0x17), (-254, 0x17)];
        assert_eq!(all(&tls), [(3, 4), (5, 6)]);
    }

    #[test]
    fn connections_older_than_the_recording_begin_anywhere() {
        // The response to a request that nobody saw comes first.
        assert_eq!(all(&[(-300, 0x48), (78, 0x47), (-132, 0x48)]), [(1, 2)]);
        assert_eq!(all(&[(-254, 0x17), (133, 0x17), (-254, 0x17), (133, 0x17), (-254, 0x17)]), [(1, 2), (3, 4)]);
        // HTTP/2 in TLS and in the open: window updates and pings are no requests.
        let h2 = [(35, 0x17), (60, 0x17), (-104, 0x17), (35, 0x17), (39, 0x17), (-39, 0x17), (40, 0x17), (-59, 0x17)];
        assert_eq!(all(&h2), [(1, 2), (6, 7)]);
        assert_eq!(exchanges(&transfers(&h2))[0].protocol, Protocol::TlsHttp2);
        let h2c = [(13, 0), (60, 0), (-104, 0), (13, 0), (17, 0), (-17, 0), (19, 0), (-40, 0)];
        assert_eq!(all(&h2c), [(1, 2), (6, 7)]);
        assert_eq!(exchanges(&transfers(&h2c))[0].protocol, Protocol::Frames);
    }

    #[test]
    fn what_is_never_answered_is_a_request_only_where_requests_are_answered() {
        let lone = |list: &[(i64, u32)]| exchanges(&transfers(list)).len();
        assert_eq!(lone(&[(78, 0x47)]), 1);
        assert_eq!(lone(&[(78, 0x01), (90, 0x01)]), 0);
        assert_eq!(lone(&[(78, 0x01), (-10, 0x01), (90, 0x01)]), 2);
    }

    #[test]
    fn many_records_without_an_answer_take_linear_time() {
        let mut list = vec![(517, 0x16), (-784, 0x16)];
        list.extend(std::iter::repeat_n((10, 0x16), 300_000));
        assert!(found(&list).is_none());
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
        assert_eq!(exchanges(&t)[0].tid, 1);
    }
}
