//! Go binaries: where the runtime's functions begin and return.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use mtrace_formats::tables::RuntimeKind;

use super::{Found, Key, Known, Runtimes, open};
use crate::probes::prologue;
use crate::session::Loaded;
use crate::symbols::gopclntab::{self, GoBinary};

/// Where probes on a function belong, as offsets into the file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// After the stack check; `None` if the program has no such function.
    pub(crate) entry: Option<u64>,
    /// Its return instructions.
    pub(crate) returns: Vec<u64>,
}

/// The places of all functions that the probes ask for.
pub(crate) type GoPlaces = BTreeMap<&'static str, Places>;

impl Runtimes {
    /// Attaches to the executable of a process if it is a Go binary.
    pub(super) fn go_program(&mut self, probes: &mut [Loaded], pid: u32) -> Option<Found> {
        let (key, new) = self.attach_go(probes, Path::new(&format!("/proc/{pid}/exe")))?;
        let known = self.known.get(&key)?.as_ref().filter(|k| k.kind == RuntimeKind::Go)?;
        Some(Found { kind: RuntimeKind::Go, version: known.version.clone(), library: None, new })
    }

    /// The file's key, and whether it is attached to since this call.
    pub(super) fn attach_go(&mut self, probes: &mut [Loaded], path: &Path) -> Option<(Key, bool)> {
        let (file, key) = open(path)?;
        if self.known.contains_key(&key) {
            return Some((key, false));
        }
        let code = file.try_clone().ok()?;
        let binary = match GoBinary::from_file(file) {
            Ok(binary) => binary,
            // Named on the command line and no program: a configuration file, a script.
            Err(gopclntab::Error::NotElf) => None,
            Err(e) => {
                self.cannot_read(RuntimeKind::Go, format!("`{}`: {e}", path.display()));
                None
            }
        };
        let version = binary.as_ref().and_then(GoBinary::go_version);
        self.known.insert(key, binary.as_ref().map(|_| Known { kind: RuntimeKind::Go, version: version.clone() }));
        if let Some(binary) = &binary {
            let functions: Vec<&'static str> = probes.iter().flat_map(Loaded::go_functions).collect();
            let places = places(binary, &code, &functions);
            let has_register_abi = version.as_deref().is_none_or(|v| at_least(v, 17) != Some(false));
            probes.iter_mut().for_each(|p| p.attach_go(path, &places, has_register_abi));
        }
        Some((key, true))
    }
}

/// One pass over the function table for all probes.
fn places(binary: &GoBinary, code: &File, functions: &[&'static str]) -> GoPlaces {
    let mut places = GoPlaces::new();
    for (function, address) in functions.iter().zip(binary.entries_of(functions)) {
        let offset = |vaddr: u64| binary.file_offset(vaddr);
        let entry = address.and_then(offset).map(|at| at + stack_check_bytes(binary, code, at));
        let returns = address.map(|a| binary.returns_of(a)).unwrap_or_default();
        places.insert(*function, Places { entry, returns: returns.into_iter().filter_map(offset).collect() });
    }
    places
}

/// How far into the function at this file offset the probe belongs, see [`prologue`].
fn stack_check_bytes(binary: &GoBinary, code: &File, offset: u64) -> u64 {
    let mut bytes = [0; prologue::BYTES];
    code.read_exact_at(&mut bytes, offset).map_or(0, |()| prologue::after_stack_check(binary.machine(), &bytes))
}

/// stopTheWorldWithSema takes its reason as the first argument since Go 1.21 (runtime/proc.go).
pub(in crate::session) fn has_stw_reason(version: &str) -> bool {
    at_least(version, 21) == Some(true)
}

/// Whether this is Go 1.`minor` or later; `None` for a version that is not a release's.
fn at_least(version: &str, minor: u32) -> Option<bool> {
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let (major, rest) = version.trim_start_matches("go").split_once('.')?;
    match (digits(major)?, digits(rest)?) {
        (1, found) => Some(found >= minor),
        (major, _) => Some(major > 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_known_since_go_1_21() {
        for (version, expected) in
            [("go1.20.14", false), ("go1.21.0", true), ("go1.27rc1", true), ("go2.0", true), ("devel", false)]
        {
            assert_eq!(has_stw_reason(version), expected, "{version}");
        }
    }

    #[test]
    fn what_is_no_release_is_not_known() {
        assert_eq!(at_least("go1.16.15", 17), Some(false));
        assert_eq!(at_least("go1.17", 17), Some(true));
        assert_eq!(at_least("devel +abc", 17), None);
    }
}
