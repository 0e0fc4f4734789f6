//! `/proc/PID/maps` as rows, and the executable files in it for the symboliser.
//!
//! The file is parsed here and not by procfs-core: that crate drops the whole file for one name that is not UTF-8,
//! trims names that end in a blank, and does not keep the text between the brackets apart from a path. A test holds
//! both parsers against each other on real files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use mtrace_formats::tables::{MapRow, SnapshotReason};

use crate::host::monotonic_ns;

/// How often a snapshot is read again because an exec replaced the address space during the reading.
const ATTEMPTS: u32 = 3;

/// Reads the maps of `pid`, a process that runs: `ts` and `ts_end` are around the reading.
///
/// `None` if it has no address space (any more): it does not exist, ended before the reading ended, is a zombie or a
/// kernel thread, or may not be read.
pub fn take(pid: u32, reason: SnapshotReason) -> Option<Vec<MapRow>> {
    for _ in 0..ATTEMPTS {
        let before = Image::of(pid)?;
        let ts = monotonic_ns();
        let text = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
        let ts_end = monotonic_ns();
        // The kernel ends the file early, without an error, when the address space goes away under the reader.
        if text.is_empty() || Image::of(pid)? != before {
            continue;
        }
        return Some(parse(&text, Stamp { ts, ts_end, reason, pid }));
    }
    None
}

/// Reads the maps of `pid`, which is stopped at its exec: exact, so `ts_end` equals `ts`.
///
/// `None` as for [`take`].
pub fn take_stopped(pid: u32) -> Option<Vec<MapRow>> {
    let ts = monotonic_ns();
    let text = std::fs::read(format!("/proc/{pid}/maps")).ok().filter(|t| !t.is_empty())?;
    Some(parse(&text, Stamp { ts, ts_end: ts, reason: SnapshotReason::Exec, pid }))
}

/// Tells the address space of a process from the next one under the same pid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Start of the process since boot, in clock ticks: differs when the pid was reused.
    start_time: u64,
    /// Randomised at each exec; 0 where it may not be read.
    stack_start: u64,
}

impl Image {
    /// `None` if the process has no address space.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = crate::sampler::read_stat(pid)?;
        (stat.vsize > 0).then_some(Self { start_time: stat.starttime, stack_start: stat.startstack })
    }
}

#[derive(Clone, Copy)]
struct Stamp {
    ts: i64,
    ts_end: i64,
    reason: SnapshotReason,
    pid: u32,
}

/// One row per line; a line that is not one of a maps file is left out.
fn parse(text: &[u8], stamp: Stamp) -> Vec<MapRow> {
    text.split(|&b| b == b'\n').filter_map(|line| parse_line(line, stamp)).collect()
}

fn parse_line(line: &[u8], stamp: Stamp) -> Option<MapRow> {
    let m = mapping(line)?;
    Some(MapRow {
        ts: stamp.ts,
        ts_end: stamp.ts_end,
        reason: stamp.reason,
        pid: stamp.pid,
        start_addr: m.start_addr,
        end_addr: m.end_addr,
        perms: m.perms,
        offset_bytes: m.offset_bytes,
        dev: m.dev,
        inode: m.inode,
        path: m.path,
    })
}

/// What a line of `/proc/PID/maps`, or the first one about a mapping in `smaps`, says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start_addr: u64,
    pub(crate) end_addr: u64,
    pub(crate) perms: String,
    offset_bytes: u64,
    dev: u64,
    inode: u64,
    pub(crate) path: Option<String>,
}

/// `None` if it is no such line.
pub(crate) fn mapping(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        let (head, tail) = rest.split_at(end);
        rest = tail.get(1..).unwrap_or_default();
        std::str::from_utf8(head).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let perms = field()?;
    let offset = field()?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let dev = libc::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    // The kernel pads with blanks up to the name; a name never begins with one, but may end with one.
    let name = &rest[rest.iter().position(|&b| b != b' ').unwrap_or(rest.len())..];
    Some(Mapping {
        start_addr: hex(start)?,
        end_addr: hex(end)?,
        perms: perms.to_owned(),
        offset_bytes: hex(offset)?,
        dev,
        inode: inode.parse().ok()?,
        path: (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()),
    })
}

/// An executable mapping: what the symboliser needs to open the file that an address lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutableMapping {
    /// First address.
    pub start_addr: u64,
    /// First address after it.
    pub end_addr: u64,
    /// Offset in the file of `start_addr`.
    pub offset_bytes: u64,
    /// Device as `st_dev` of stat(2) encodes it; 0 for `[vdso]`.
    pub dev: u64,
    /// Inode; 0 for `[vdso]`.
    pub inode: u64,
    /// Path as the target saw it, without ` (deleted)`, newlines as they are; `[vdso]` for the kernel's page.
    pub path: PathBuf,
    /// True if the file was removed or replaced since it was mapped.
    pub deleted: bool,
}

impl ExecutableMapping {
    /// A path that leads to the mapped file itself even if it was deleted or lies in another mount namespace, as long
    /// as the process lives. Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
    pub fn live_path(&self, pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", self.start_addr, self.end_addr))
    }

    /// The file as seen through the root of the process: right for a process in a container.
    pub fn path_in_root(&self, pid: u32) -> PathBuf {
        let relative = self.path.strip_prefix("/").unwrap_or(&self.path);
        Path::new(&format!("/proc/{pid}/root")).join(relative)
    }
}

/// The executable mappings of files, and `[vdso]`, in a snapshot.
///
/// Anonymous executable memory (a JIT's) is left out: there is no file to ask.
pub fn executable_mappings(rows: &[MapRow]) -> Vec<ExecutableMapping> {
    rows.iter().filter(|r| r.perms.as_bytes().get(2) == Some(&b'x')).filter_map(executable_mapping).collect()
}

fn executable_mapping(row: &MapRow) -> Option<ExecutableMapping> {
    let name = row.path.as_deref()?;
    if name != "[vdso]" && (row.inode == 0 || !name.starts_with('/')) {
        return None;
    }
    let (name, deleted) = match name.strip_suffix(" (deleted)") {
        Some(name) => (name, true),
        None => (name, false),
    };
    // The kernel escapes the newline and nothing else.
    let path = PathBuf::from(OsStr::from_bytes(name.replace("\\012", "\n").as_bytes()));
    Some(ExecutableMapping {
        start_addr: row.start_addr,
        end_addr: row.end_addr,
        offset_bytes: row.offset_bytes,
        dev: row.dev,
        inode: row.inode,
        path,
        deleted,
    })
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
