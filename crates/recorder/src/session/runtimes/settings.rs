//! Settings of a runtime: of a process's environment the few variables that are named here, and nothing else.

use std::io::Read as _;

use mtrace_formats::tables::{RuntimeKind, RuntimeSetting, SettingState};

use super::Found;
use crate::host::monotonic_ns;

/// All that is ever looked for in an environment.
const GO_VARIABLES: [&str; 3] = ["GOGC", "GOMEMLIMIT", "GODEBUG"];
/// More than the kernel lets an exec pass by default.
const MAX_ENVIRONMENT_BYTES: u64 = 8 << 20;
const MAX_VALUE_BYTES: usize = 1024;

/// The rows of a runtime that was found in a process.
pub(in crate::session) fn rows(pid: u32, found: &Found) -> Vec<RuntimeSetting> {
    let row = |key: &str, state, value| RuntimeSetting {
        ts: monotonic_ns(),
        pid,
        kind: found.kind,
        version: found.version.clone(),
        key: key.to_owned(),
        state,
        value,
    };
    match found.kind {
        RuntimeKind::Jvm => vec![row("libjvm", SettingState::Set, found.library.clone())],
        RuntimeKind::Go => {
            let environment = read_environment(pid);
            let rows = GO_VARIABLES.iter().map(|name| match &environment {
                None => row(name, SettingState::Unreadable, None),
                Some(bytes) => match variable(bytes, name) {
                    Some(value) => row(name, SettingState::Set, Some(value)),
                    None => row(name, SettingState::NotSet, None),
                },
            });
            rows.collect()
        }
    }
}

fn read_environment(pid: u32) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut bytes).ok()?;
    // A process that is on its way out reads as empty; one without any variable is not worth telling apart.
    (!bytes.is_empty()).then_some(bytes)
}

/// The first of this name, as the runtimes take it.
fn variable(environment: &[u8], name: &str) -> Option<String> {
    let value = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    let value = &value[..value.len().min(MAX_VALUE_BYTES)];
    Some(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_name_is_a_match() {
        let environment = b"MYGOGC=1\0GOGCX=2\0PASSWORD=secret GOGC=3\0GOGC=50\0GOGC=60\0GODEBUG=\0";
        assert_eq!(variable(environment, "GOGC").as_deref(), Some("50"));
        assert_eq!(variable(environment, "GODEBUG").as_deref(), Some(""));
        assert_eq!(variable(environment, "GOMEMLIMIT"), None);
    }

    #[test]
    fn a_long_value_is_cut() {
        let environment = [b"GODEBUG=".as_slice(), &[b'x'; 5000]].concat();
        assert_eq!(variable(&environment, "GODEBUG").map(|v| v.len()), Some(MAX_VALUE_BYTES));
    }

    #[test]
    fn a_process_that_is_gone_has_unreadable_settings() {
        let found = Found { kind: RuntimeKind::Go, version: Some("go1.25".to_owned()), library: None, new: true };
        let rows = rows(u32::MAX, &found);
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|r| r.state == SettingState::Unreadable && r.value.is_none()));
    }
}
