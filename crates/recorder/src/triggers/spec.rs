//! Triggers as they are given on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A trigger, as it was given and as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    text: String,
    condition: Condition,
}

/// When a trigger fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Tasks stalled for so much of a time window.
    Psi(Psi),
    /// The kernel killed a process for want of memory.
    Oom(Scope),
    /// A cgroup went over its memory.high and was throttled.
    MemoryHigh(Scope),
    /// A cgroup came to its memory.max.
    MemoryMax(Scope),
    /// A page fault took at least so long.
    SlowFault(Duration),
    /// A memory call took at least so long.
    SlowCall(Duration),
    /// A target ended; with `failed_only` by a signal or with a status other than 0.
    Exit {
        /// Whether a good end does not count.
        failed_only: bool,
    },
    /// A shell command that is run again and again began to fail.
    Command {
        /// For `sh -c`.
        line: String,
        /// From one end to the next start.
        every: Duration,
    },
    /// SIGUSR1 to the recorder.
    Signal,
}

/// Which cgroups' counters are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The counters of the whole host.
    Host,
    /// The memory cgroups that the targets are in.
    Targets,
    /// This one.
    Path(PathBuf),
}

/// A threshold of pressure stall information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Psi {
    /// What is short.
    pub resource: PsiResource,
    /// "full": all tasks stalled; else "some".
    pub full: bool,
    /// Share of the window, 1 to 100.
    pub percent: u32,
    /// At least 500 ms.
    pub window: Duration,
    /// Of this cgroup instead of the host.
    pub cgroup: Option<PathBuf>,
}

/// What pressure is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PsiResource {
    /// Memory.
    Memory,
    /// Block I/O.
    Io,
    /// CPU.
    Cpu,
}

impl PsiResource {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Io => "io",
            Self::Cpu => "cpu",
        }
    }
}

/// What `--trigger` takes, for help and messages.
pub(crate) const FORMS: &str = "psi:memory.some>80%/30s[@CGROUP], oom, oom:cgroup, oom:CGROUP, memory.high[:CGROUP], \
                                memory.max[:CGROUP], slow-fault>50ms, slow-call>100ms, exit, exit!=0, \
                                cmd:COMMAND[/10s], signal";

const COMMAND_INTERVAL: Duration = Duration::from_secs(10);

impl Trigger {
    /// As it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When it fires.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// A word for it in a file's name.
    pub(crate) fn word(text: &str) -> &'static str {
        match text.parse::<Self>().map(|t| t.condition) {
            Ok(Condition::Psi(p)) => match p.resource {
                PsiResource::Memory => "psi-memory",
                PsiResource::Io => "psi-io",
                PsiResource::Cpu => "psi-cpu",
            },
            Ok(Condition::Oom(_)) => "oom",
            Ok(Condition::MemoryHigh(_)) => "memory-high",
            Ok(Condition::MemoryMax(_)) => "memory-max",
            Ok(Condition::SlowFault(_)) => "slow-fault",
            Ok(Condition::SlowCall(_)) => "slow-call",
            Ok(Condition::Exit { .. }) => "exit",
            Ok(Condition::Command { .. }) => "cmd",
            Ok(Condition::Signal) => "signal",
            Err(_) => "end",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Trigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let slow = |rest: &str| {
            duration(rest.trim_start_matches('=')).map_err(|e| format!("`{text}`: {e}")).and_then(|d| match d {
                Duration::ZERO => Err(format!("`{text}`: expected a time above 0")),
                d => Ok(d),
            })
        };
        let condition = if let Some(rest) = text.strip_prefix("psi:") {
            Condition::Psi(psi(rest).map_err(|e| format!("`{text}`: {e}"))?)
        } else if let Some(rest) = text.strip_prefix("slow-fault>") {
            Condition::SlowFault(slow(rest)?)
        } else if let Some(rest) = text.strip_prefix("slow-call>") {
            Condition::SlowCall(slow(rest)?)
        } else if let Some(rest) = text.strip_prefix("cmd:") {
            command(rest)?
        } else {
            counted(text)?
        };
        Ok(Self { text: text.to_owned(), condition })
    }
}

/// The triggers of one word, some with a cgroup behind it.
fn counted(text: &str) -> Result<Condition, String> {
    let (word, cgroup) = match text.split_once(':') {
        Some((word, path)) => (word, Some(path)),
        None => (text, None),
    };
    let scope = |default| match cgroup {
        None => Ok(default),
        Some("cgroup") => Ok(Scope::Targets),
        Some(path) => cgroup_path(path).map(Scope::Path).map_err(|e| format!("`{text}`: {e}")),
    };
    match word {
        "oom" => scope(Scope::Host).map(Condition::Oom),
        "memory.high" => scope(Scope::Targets).map(Condition::MemoryHigh),
        "memory.max" => scope(Scope::Targets).map(Condition::MemoryMax),
        "exit" if cgroup.is_none() => Ok(Condition::Exit { failed_only: false }),
        "exit!=0" if cgroup.is_none() => Ok(Condition::Exit { failed_only: true }),
        "signal" if cgroup.is_none() => Ok(Condition::Signal),
        _ => Err(format!("there is no trigger `{text}`; there are: {FORMS}")),
    }
}

/// `COMMAND` or `COMMAND/10s`; what follows the last slash is a part of the command unless it is a time.
fn command(text: &str) -> Result<Condition, String> {
    let timed = text.rsplit_once('/').and_then(|(line, time)| Some((line, duration(time).ok()?)));
    let (line, every) = timed.unwrap_or((text, COMMAND_INTERVAL));
    if line.trim().is_empty() || every < Duration::from_millis(100) {
        return Err(format!("`cmd:{text}`: expected a command, and 100ms at least from one run to the next"));
    }
    Ok(Condition::Command { line: line.to_owned(), every })
}

/// `memory.some>80%/30s`, perhaps with `@CGROUP`.
fn psi(text: &str) -> Result<Psi, String> {
    const FORM: &str = "expected RESOURCE.some>SHARE%/TIME, such as memory.some>80%/30s";
    let (what, cgroup) = match text.split_once('@') {
        Some((what, path)) => (what, Some(cgroup_path(path)?)),
        None => (text, None),
    };
    let (name, limit) = what.split_once('>').ok_or(FORM)?;
    let (resource, kind) = name.split_once('.').ok_or(FORM)?;
    let resource = match resource {
        "memory" => PsiResource::Memory,
        "io" => PsiResource::Io,
        "cpu" => PsiResource::Cpu,
        other => return Err(format!("resource `{other}`: expected memory, io or cpu")),
    };
    let full = match kind {
        "some" => false,
        "full" => true,
        other => return Err(format!("`{other}`: expected some or full")),
    };
    let (percent, window) = limit.split_once("%/").ok_or(FORM)?;
    let percent = percent.parse().ok().filter(|p| (1..=100).contains(p)).ok_or("expected 1% to 100%")?;
    let window = duration(window)?;
    if !(Duration::from_millis(500)..=Duration::from_secs(3600)).contains(&window) {
        return Err("expected a window between 500ms and 1h".to_owned());
    }
    Ok(Psi { resource, full, percent, window, cgroup })
}

fn cgroup_path(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') {
        true => Ok(PathBuf::from(text)),
        false => Err(format!("cgroup `{text}`: expected its folder, such as /sys/fs/cgroup/system.slice/x.service")),
    }
}

/// Parses `30s`, `5m`, `500ms`, `20us`; a unit is required.
///
/// # Errors
/// What was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a number and a unit, such as 30s".to_owned())?;
    match unit {
        "us" | "µs" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" | "min" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
        "h" => number.checked_mul(3600).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
        "" => Err(format!("a unit is missing: expected for example {number}s or {number}ms")),
        _ => Err(format!("unit `{unit}`: expected us, ms, s, m or h")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Condition {
        text.parse::<Trigger>().unwrap().condition
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("20us"), Ok(Duration::from_micros(20)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "30", "30x", "-1s", "99999999999999999999s", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration(&format!("{}h", u64::MAX)).is_err());
    }

    #[test]
    fn every_form_is_understood() {
        let psi = |resource, full, percent, secs, cgroup: Option<&str>| {
            let window = Duration::from_secs(secs);
            Condition::Psi(Psi { resource, full, percent, window, cgroup: cgroup.map(PathBuf::from) })
        };
        assert_eq!(parse("psi:memory.some>80%/30s"), psi(PsiResource::Memory, false, 80, 30, None));
        assert_eq!(
            parse("psi:io.full>5%/2s@/sys/fs/cgroup/a"),
            psi(PsiResource::Io, true, 5, 2, Some("/sys/fs/cgroup/a"))
        );
        assert_eq!(parse("oom"), Condition::Oom(Scope::Host));
        assert_eq!(parse("oom:cgroup"), Condition::Oom(Scope::Targets));
        assert_eq!(parse("memory.high"), Condition::MemoryHigh(Scope::Targets));
        assert_eq!(parse("memory.max:/x"), Condition::MemoryMax(Scope::Path("/x".into())));
        assert_eq!(parse("slow-fault>50ms"), Condition::SlowFault(Duration::from_millis(50)));
        assert_eq!(parse("slow-call>=100us"), Condition::SlowCall(Duration::from_micros(100)));
        assert_eq!(parse("exit"), Condition::Exit { failed_only: false });
        assert_eq!(parse("exit!=0"), Condition::Exit { failed_only: true });
        assert_eq!(parse("signal"), Condition::Signal);
        let command = |line: &str, secs| Condition::Command { line: line.to_owned(), every: Duration::from_secs(secs) };
        assert_eq!(parse("cmd:curl -f localhost/health"), command("curl -f localhost/health", 10));
        assert_eq!(parse("cmd:/usr/bin/check -x/3s"), command("/usr/bin/check -x", 3));
    }

    #[test]
    fn what_is_no_trigger_is_told_what_would_be() {
        for bad in [
            "",
            "psi",
            "psi:",
            "psi:memory",
            "psi:memory.some",
            "psi:memory.some>80/30s",
            "psi:memory.some>0%/2s",
            "psi:memory.some>101%/2s",
            "psi:memory.some>80%/100ms",
            "psi:memory.any>80%/2s",
            "psi:disk.some>80%/2s",
            "psi:memory.some>80%/2s@relative",
            "slow-fault",
            "slow-fault>",
            "slow-fault>0ms",
            "slow-call>x",
            "exit:3",
            "memory.high:x",
            "cmd:",
            "cmd: /5s",
            "cmd:true/1ms",
            "oom-kill",
        ] {
            let e = bad.parse::<Trigger>().unwrap_err();
            assert!(e.contains("expected") || e.contains("there are"), "{bad}: {e}");
        }
    }

    #[test]
    fn words_are_fit_for_a_name() {
        for text in ["psi:memory.some>80%/30s", "memory.high:/a b", "cmd:rm -rf '/'", "exit!=0", "SIGUSR1"] {
            let word = Trigger::word(text);
            assert!(!word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{text}: {word}");
        }
    }
}
