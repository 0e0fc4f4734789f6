//! The JVMs that run here, and whether their USDT probes were compiled in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Check, CheckStatus};
use crate::symbols::elf::ElfFile;
use crate::symbols::open_regular;
use crate::symbols::source::Source;

/// Longest section of notes that is looked at; OpenJDK 17 has 50 KiB.
const MAX_NOTES_BYTES: u64 = 4 << 20;

/// Judges the libraries of all JVMs that run here and may be looked at; `None` if there is none.
pub fn check_jvms() -> Option<Check> {
    let mut libraries: BTreeMap<(u64, u64), (String, bool)> = BTreeMap::new();
    for pid in fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        let Some(path) = library_in(&fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default()) else {
            continue;
        };
        let live = Path::new(&format!("/proc/{pid}/root")).join(path.trim_start_matches('/'));
        let Ok(m) = fs::metadata(&live) else { continue };
        libraries.entry((m.dev(), m.ino())).or_insert_with(|| (path, has_probes(&live)));
    }
    (!libraries.is_empty()).then(|| judge(&libraries.into_values().collect::<Vec<_>>()))
}

fn judge(libraries: &[(String, bool)]) -> Check {
    let without: Vec<&str> = libraries.iter().filter(|l| !l.1).map(|l| l.0.as_str()).collect();
    if without.is_empty() {
        let paths: Vec<&str> = libraries.iter().map(|l| l.0.as_str()).collect();
        return Check::ok("JVMs", paths.join(", "), "collections, pools and safepoints can be recorded");
    }
    Check::bad(
        "JVMs",
        CheckStatus::Degraded,
        format!("no USDT probes in {}", without.join(", ")),
        "collections, pools and safepoints of these JVMs stay invisible; everything else is recorded",
        "run a JDK that was built with --enable-dtrace (Debian's and Fedora's are)",
    )
}

/// The library of the JVM among the lines of /proc/PID/maps.
fn library_in(maps: &str) -> Option<String> {
    let mut paths = maps.lines().filter_map(|l| l.split_once('/').map(|(_, path)| format!("/{path}")));
    paths.find(|p| p.ends_with("/libjvm.so"))
}

fn has_probes(library: &Path) -> bool {
    let notes = || -> Option<Vec<u8>> {
        let elf = ElfFile::parse(Source::from_file(open_regular(library).ok()?).ok()?)?;
        let section = elf.section(".note.stapsdt")?;
        let mut bytes = vec![0; section.size_bytes.min(MAX_NOTES_BYTES) as usize];
        elf.source().read(section.offset, &mut bytes)?;
        Some(bytes)
    };
    const PROBE: &[u8] = b"hotspot\0gc__begin\0";
    notes().is_some_and(|bytes| bytes.windows(PROBE.len()).any(|w| w == PROBE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_among_the_mappings() {
        let maps = "55-56 r--p 00000000 08:01 12   /usr/bin/java\n\
                    7f-80 r-xp 00001000 08:01 99   /usr/lib/jvm/x/lib/server/libjvm.so\n";
        assert_eq!(library_in(maps).as_deref(), Some("/usr/lib/jvm/x/lib/server/libjvm.so"));
        assert_eq!(library_in("7f-80 r-xp 0 08:01 9 /tmp/libjvm.so.bak\n"), None);
        assert_eq!(library_in(""), None);
    }

    #[test]
    fn one_library_without_probes_is_named() {
        let good = ("/a/libjvm.so".to_owned(), true);
        assert_eq!(judge(std::slice::from_ref(&good)).status, CheckStatus::Ok);
        let check = judge(&[good, ("/b/libjvm.so".to_owned(), false)]);
        assert_eq!(check.status, CheckStatus::Degraded);
        assert!(check.found.contains("/b/") && !check.found.contains("/a/"), "{}", check.found);
    }

    #[test]
    fn a_program_without_notes_has_no_probes() {
        assert!(!has_probes(Path::new("/proc/self/exe")));
        assert!(!has_probes(Path::new("/no/such/file")));
    }
}
