//! `/proc/PID/smaps` as rows: what of each mapping is resident.
//!
//! The kernel walks the page tables under mmap_lock, for as many mappings at a time as fit into one answer (4 KiB: five or
//! six), so a reading can be given up in between, but not within a large one.

use std::fs::File;
use std::io::{self, BufReader};
use std::time::{Duration, Instant};

use mtrace_formats::tables::{SmapsMoment, SmapsRow};

use crate::host::monotonic_ns;
use crate::snapshots::{self, Image};

/// What came of a reading.
#[derive(Debug)]
pub enum Reading {
    /// All mappings.
    Rows(Vec<SmapsRow>),
    /// It took longer than it may, and was given up.
    TooLong,
    /// The process has no address space (any more), or another one than at the begin.
    Gone,
    /// It may not be read, or the kernel has no such file.
    Refused(io::Error),
}

/// Reads the mappings of `pid`, and gives up after `limit`.
pub fn take(pid: u32, moment: SmapsMoment, limit: Duration) -> Reading {
    let Some(before) = Image::of(pid) else { return Reading::Gone };
    let (began, ts) = (Instant::now(), monotonic_ns());
    let file = match File::open(format!("/proc/{pid}/smaps")) {
        Ok(file) => file,
        Err(e) => return refused(e),
    };
    let mut rows = match read(BufReader::new(file), moment, pid, || began.elapsed() > limit) {
        Ok(Some(rows)) => rows,
        Ok(None) => return Reading::TooLong,
        Err(e) => return refused(e),
    };
    let ts_end = monotonic_ns();
    // The kernel ends the file early, without an error, when the address space goes away under the reader.
    if rows.is_empty() || Image::of(pid) != Some(before) {
        return Reading::Gone;
    }
    rows.iter_mut().for_each(|r| (r.ts, r.ts_end) = (ts, ts_end));
    Reading::Rows(rows)
}

fn refused(e: io::Error) -> Reading {
    let gone = e.raw_os_error() == Some(libc::ESRCH) || e.kind() == io::ErrorKind::NotFound;
    // Before it is said that the process is gone: a kernel without CONFIG_PROC_PAGE_MONITOR has the file for nobody.
    if gone && std::path::Path::new("/proc/self/smaps").exists() { Reading::Gone } else { Reading::Refused(e) }
}

/// The rows of a text; `None` if it is too late in the middle of it.
fn read(
    mut text: impl io::BufRead,
    moment: SmapsMoment,
    pid: u32,
    is_late: impl Fn() -> bool,
) -> io::Result<Option<Vec<SmapsRow>>> {
    let (mut rows, mut line) = (Vec::new(), Vec::new());
    while text.read_until(b'\n', &mut line)? > 0 {
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some((key, bytes)) = quantity(content) {
            if let Some(field) = rows.last_mut().and_then(|row| field(row, key)) {
                *field = Some(bytes);
            }
        } else if let Some(map) = snapshots::mapping(content) {
            if is_late() {
                return Ok(None);
            }
            rows.push(begin(map, moment, pid));
        }
        line.clear();
    }
    Ok(Some(rows))
}

/// `Rss:    12 kB`. A mapping's first line has no colon before its first blank, whatever its name is.
fn quantity(line: &[u8]) -> Option<(&str, u64)> {
    let colon = line.iter().position(|b| matches!(b, b':' | b' ')).filter(|i| line[*i] == b':')?;
    let key = std::str::from_utf8(&line[..colon]).ok()?;
    let rest = std::str::from_utf8(&line[colon + 1..]).ok()?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((key, kib.checked_mul(1024)?))
}

fn field<'a>(row: &'a mut SmapsRow, key: &str) -> Option<&'a mut Option<u64>> {
    Some(match key {
        "Rss" => &mut row.rss_bytes,
        "Pss" => &mut row.pss_bytes,
        "Private_Dirty" => &mut row.private_dirty_bytes,
        "Anonymous" => &mut row.anon_bytes,
        "AnonHugePages" => &mut row.anon_huge_bytes,
        "Swap" => &mut row.swap_bytes,
        "Locked" => &mut row.locked_bytes,
        "Referenced" => &mut row.referenced_bytes,
        _ => return None,
    })
}

fn begin(map: snapshots::Mapping, moment: SmapsMoment, pid: u32) -> SmapsRow {
    SmapsRow {
        ts: 0,
        ts_end: 0,
        moment,
        pid,
        start_addr: map.start_addr,
        end_addr: map.end_addr,
        perms: map.perms,
        path: map.path,
        rss_bytes: None,
        pss_bytes: None,
        private_dirty_bytes: None,
        anon_bytes: None,
        anon_huge_bytes: None,
        swap_bytes: None,
        locked_bytes: None,
        referenced_bytes: None,
    }
}

#[cfg(test)]
#[path = "smaps_tests.rs"]
mod tests;
