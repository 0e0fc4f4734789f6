//! Where a capture would be written.

use std::path::Path;

use super::{Check, CheckStatus};

/// Below this a recording of minutes may not fit.
const DISK_ENOUGH_BYTES: u64 = 1 << 30;
/// Below this nothing fits.
const DISK_LEAST_BYTES: u64 = 1 << 20;

/// Judges where a capture would be written: the nearest existing folder of `output`, its space and whether it can be
/// written to.
pub fn check_output(output: &Path) -> Check {
    let name = "output";
    // A relative name without a folder has the empty path as its parent.
    let here = |p: &Path| if p.as_os_str().is_empty() { Path::new(".").to_path_buf() } else { p.to_path_buf() };
    let Some(dir) = output.ancestors().map(here).find(|p| p.is_dir()) else {
        return Check::bad(
            name,
            CheckStatus::Missing,
            format!("no folder above `{}`", output.display()),
            "there is nowhere to write to",
            "name another path with -o",
        );
    };
    if let Err(e) = nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK) {
        return Check::bad(
            name,
            CheckStatus::Missing,
            format!("`{}`: {}", dir.display(), e.desc()),
            "a capture cannot be written there",
            "name another path with -o",
        );
    }
    let Some(free) = free_bytes(&dir) else {
        return Check::ok(name, dir.display().to_string(), "can be written to; its free space is not known");
    };
    let found = format!("`{}`: {} MiB free", dir.display(), free >> 20);
    if free >= DISK_ENOUGH_BYTES {
        return Check::ok(name, found, "enough for a recording of minutes");
    }
    if free < DISK_LEAST_BYTES {
        return Check::bad(
            name,
            CheckStatus::Missing,
            found,
            "full: not even a short recording fits",
            "write elsewhere with -o, or free some space",
        );
    }
    Check::bad(
        name,
        CheckStatus::Degraded,
        found,
        "a long recording may fill it; what was closed before stays readable",
        "write elsewhere with -o, or free some space",
    )
}

/// Space that this user may use on the filesystem of `path`.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}
