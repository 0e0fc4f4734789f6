//! Line formats of /proc that several readers share. Total functions: what does not parse is left out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// `Key:   123 kB` lines (meminfo, smaps_rollup) in bytes; lines without the unit are left out.
pub(crate) fn parse_kb_lines(text: &str) -> BTreeMap<String, u64> {
    let line = |l: &str| {
        let (key, rest) = l.split_once(':')?;
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some((key.to_owned(), kib.checked_mul(1024)?))
    };
    text.lines().filter_map(line).collect()
}

/// `some … total=123` and `full … total=123` of a pressure file, in microseconds.
///
/// By hand: procfs-core wants both lines, and cpu pressure has no `full` before 5.13.
pub(super) fn pressure_totals(text: &str) -> Vec<(&str, u64)> {
    let line = |l| {
        let mut words = str::split_whitespace(l);
        let kind = words.next()?;
        let total = words.find_map(|w| w.strip_prefix("total="))?;
        Some((kind, total.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// `key 123` lines (memory.stat, memory.events, memory.oom_control).
pub(super) fn flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|l| {
        let (key, value) = l.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// One line of mountinfo, as far as it is needed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The folder of the filesystem that is mounted.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) mount_point: PathBuf,
    /// Type.
    pub(crate) fs_type: String,
    /// Options of the filesystem: for cgroup v1 its controllers.
    pub(crate) super_options: Vec<String>,
}

/// The mounts of this process's mount namespace; empty if they cannot be read.
///
/// By hand: procfs-core leaves the octal escapes (blank, tab, newline, backslash) in the paths.
pub(crate) fn mountinfo() -> Vec<Mount> {
    let bytes = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    parse_mountinfo(&bytes)
}

pub(super) fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    // A variable number of optional fields stands before the separator.
    let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
    let text = |i: usize| Some(String::from_utf8_lossy(fields.get(i)?).into_owned());
    Some(Mount {
        root: unescape(fields.get(3)?),
        mount_point: unescape(fields.get(4)?),
        fs_type: text(dash + 1)?,
        super_options: text(dash + 3)?.split(',').map(str::to_owned).collect(),
    })
}

/// `\040` and its like back to bytes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = field.get(i + 1..i + 4).filter(|d| field[i] == b'\\' && d.iter().all(|b| matches!(b, b'0'..=b'7')));
        let value = octal.and_then(|d| d.iter().try_fold(0u8, |v, b| v.checked_mul(8)?.checked_add(b - b'0')));
        match value {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(field[i]);
                i += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}
