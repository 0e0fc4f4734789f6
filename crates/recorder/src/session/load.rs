//! Loads one probe's object with the shared maps, and attaches its programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Mutex;

use libbpf_rs::{Link, MapCore as _, MapFlags, Object, ObjectBuilder, PrintLevel, ProgramInput, ProgramMut};
use mtrace_formats::capture::{BpfCost, ProbeReport, ProbeStatus};

use crate::FaultMode;
use crate::accounts::{COUNTERS, Counters};
use crate::cost::run_stats;
use crate::probes::{Attach, Probe, Variant, prologue};
use crate::ring::SharedMaps;
use crate::symbols::gopclntab::{self, GoBinary};
use crate::symbols::kallsyms;

/// A probe whose programs are in the kernel.
pub(crate) struct Loaded {
    pub(crate) probe: &'static dyn Probe,
    variant: &'static Variant,
    object: Object,
    links: Vec<Link>,
    go: GoAttached,
}

/// What was found among the executables that were looked at.
#[derive(Default)]
struct GoAttached {
    /// By device and inode; `None` for one that is not a Go binary.
    known: BTreeMap<(u64, u64), Option<GoKnown>>,
    problems: BTreeSet<String>,
}

/// A Go binary that the programs are attached to.
#[derive(Clone)]
struct GoKnown {
    version: Option<String>,
    /// True if a target has run it.
    ran: bool,
}

/// What [`Loaded::attach_go`] found in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoProgram {
    pub(crate) version: Option<String>,
    /// True if its probes were attached now, not before.
    pub(crate) new: bool,
}

impl Loaded {
    /// Loads the first variant that this kernel takes. Nothing is attached yet.
    ///
    /// # Errors
    /// In plain words, why no variant could be loaded.
    pub(crate) fn load(probe: &'static dyn Probe, faults: FaultMode, shared: &SharedMaps) -> Result<Self, String> {
        let mut reasons = Vec::new();
        let only = wanted_variant(probe.name());
        for variant in probe.variants(faults).iter().filter(|v| only.as_ref().is_none_or(|name| v.name == name)) {
            match load_variant(probe, variant, shared) {
                Ok(object) => {
                    return Ok(Self { probe, variant, object, links: Vec::new(), go: GoAttached::default() });
                }
                Err(e) => reasons.push(format!("{}: {e}", variant.name)),
            }
        }
        Err(reasons.join("; "))
    }

    /// Attaches all programs, except those that wait for a Go binary.
    ///
    /// # Errors
    /// In plain words; what had been attached is detached again.
    pub(crate) fn attach(&mut self) -> Result<(), String> {
        let said = LibbpfWords::begin();
        for program in self.variant.programs {
            let attached = match program.attach {
                Attach::GoEntry(_) | Attach::Flush => continue,
                Attach::BySection | Attach::OnTrial | Attach::WithFunction(_) => find(&self.object, program.name)
                    .and_then(|p| p.attach().map(|l| vec![l]).map_err(|e| format!("{e:#}"))),
                Attach::SoftwareEvent(config) => {
                    find(&self.object, program.name).and_then(|p| attach_everywhere(&p, config))
                }
            };
            match attached {
                Ok(links) => self.links.extend(links),
                Err(e) => {
                    self.links.clear();
                    return Err(format!("failed to attach `{}`: {e}{}", program.name, said.end()));
                }
            }
        }
        Ok(())
    }

    /// Makes the probe send what it holds back on any CPU.
    ///
    /// # Errors
    /// In plain words, if the kernel does not run the program (BPF_PROG_TEST_RUN for raw tracepoints: 5.10).
    pub(crate) fn flush(&self) -> Result<(), String> {
        const BPF_F_TEST_RUN_ON_CPU: u32 = 1;
        let Some(program) = self.variant.programs.iter().find(|p| p.attach == Attach::Flush) else { return Ok(()) };
        let found = find(&self.object, program.name)?;
        for cpu in online_cpus()? {
            let mut busy = 1;
            // Busy: a program of the probe was interrupted; it is through in no time.
            for _ in 0..100 {
                let input =
                    ProgramInput { cpu: cpu.unsigned_abs(), flags: BPF_F_TEST_RUN_ON_CPU, ..ProgramInput::default() };
                busy = found.test_run(input).map_err(|e| format!("`{}` on CPU {cpu}: {e}", program.name))?.return_value;
                if busy == 0 {
                    break;
                }
            }
            if busy != 0 {
                return Err(format!("`{}` on CPU {cpu}: a fault is in progress there", program.name));
            }
        }
        Ok(())
    }

    /// True if the probe has programs for Go binaries.
    pub(crate) fn wants_go(&self) -> bool {
        self.variant.programs.iter().any(|p| matches!(p.attach, Attach::GoEntry(_)))
    }

    /// Attaches to the executable of a process if it is a Go binary; `None` if it is not.
    pub(crate) fn attach_go(&mut self, pid: u32) -> Option<GoProgram> {
        let (key, new) = self.attach_file(Path::new(&format!("/proc/{pid}/exe")))?;
        let known = self.go.known.get_mut(&key)?.as_mut()?;
        known.ran = true;
        Some(GoProgram { version: known.version.clone(), new })
    }

    /// Attaches to a file that will perhaps be executed, if it is a Go binary.
    pub(crate) fn attach_go_ahead(&mut self, path: &Path) {
        self.attach_file(path);
    }

    /// The file's key, and whether it is attached to since this call.
    fn attach_file(&mut self, path: &Path) -> Option<((u64, u64), bool)> {
        let file = File::open(path).ok()?;
        let key = file.metadata().ok().filter(|m| m.is_file()).map(|m| (m.dev(), m.ino()))?;
        if self.go.known.contains_key(&key) {
            return Some((key, false));
        }
        let binary = match GoBinary::from_file(file) {
            Ok(binary) => binary,
            // Named on the command line and no program: a configuration file, a script.
            Err(gopclntab::Error::NotElf) => None,
            Err(e) => {
                self.go.problems.insert(format!("`{}`: {e}", path.display()));
                None
            }
        };
        let known = binary.as_ref().map(|b| GoKnown { version: b.go_version(), ran: false });
        self.go.known.insert(key, known);
        if let Some(binary) = &binary {
            self.attach_entries(binary, path);
        }
        Some((key, true))
    }

    fn attach_entries(&mut self, binary: &GoBinary, path: &Path) {
        let entries: Vec<_> = self
            .variant
            .programs
            .iter()
            .filter_map(|p| match p.attach {
                Attach::GoEntry(function) => Some((p.name, function)),
                _ => None,
            })
            .collect();
        let functions: Vec<&str> = entries.iter().map(|(_, f)| *f).collect();
        let found = binary.entries_of(&functions);
        for ((name, function), address) in entries.into_iter().zip(found) {
            let Some(offset) = address.and_then(|a| binary.file_offset(a)).map(|o| o + stack_check_bytes(path, o))
            else {
                self.go.problems.insert(format!("`{function}` is not in the function table of a Go binary"));
                continue;
            };
            // All processes: the program itself knows the targets, and children need no attaching of their own.
            let attached = find(&self.object, name)
                .and_then(|p| p.attach_uprobe(false, -1, path, offset as usize).map_err(|e| refused_uprobe(&e)));
            match attached {
                Ok(link) => self.links.push(link),
                Err(e) => {
                    self.go.problems.insert(format!("failed to attach to `{function}`: {e}"));
                }
            }
        }
    }

    /// Detaches everything. The counters can still be read.
    pub(crate) fn detach(&mut self) {
        self.links.clear();
    }

    /// The counters, summed over the CPUs.
    pub(crate) fn counters(&self) -> Counters {
        let mut sum = [0; COUNTERS];
        let Some(map) = self.object.maps().find(|m| m.name() == "counters") else { return sum };
        let Ok(Some(cpus)) = map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY) else { return sum };
        for cpu in cpus {
            for (total, bytes) in sum.iter_mut().zip(cpu.chunks_exact(8)) {
                *total += bytes.try_into().map_or(0, u64::from_ne_bytes);
            }
        }
        sum
    }

    /// Adds an entry to one of the object's own maps, unless the key is there already.
    pub(crate) fn add_to_map(&self, map: &str, key: &[u8], value: &[u8]) {
        if let Some(map) = self.object.maps().find(|m| m.name() == map) {
            // That the key is there, or that the map is full, is not worth a word: the entry is one of thousands.
            let _ = map.update(key, value, MapFlags::NO_EXIST);
        }
    }

    /// Time inside its programs, where the kernel measured it.
    pub(crate) fn costs(&self) -> Vec<BpfCost> {
        let programs = self.object.progs_mut().filter(|p| self.variant.programs.iter().any(|v| p.name() == v.name));
        programs
            .filter_map(|p| {
                let fd = p.as_fd();
                let (runs, run_ns) = run_stats(fd).ok().filter(|(runs, _)| *runs > 0)?;
                Some(BpfCost { program: p.name().to_string_lossy().into_owned(), runs, run_ns })
            })
            .collect()
    }

    /// What the manifest says about it.
    pub(crate) fn report(&self) -> ProbeReport {
        let mut problems: Vec<String> = self.go.problems.iter().cloned().collect();
        problems.extend(self.variant.lacks.map(str::to_owned));
        let nothing_to_observe = self.wants_go() && !self.go.known.values().flatten().any(|k| k.ran);
        let status = match (nothing_to_observe, problems.is_empty()) {
            (true, true) => ProbeStatus::NotApplicable,
            // One that could not be read may have been a Go binary.
            (true, false) => ProbeStatus::Absent,
            (false, true) => ProbeStatus::Ran,
            (false, false) => ProbeStatus::Partial,
        };
        if nothing_to_observe {
            problems.insert(0, "no Go binary among the targets".to_owned());
        }
        ProbeReport {
            name: self.probe.name().to_owned(),
            status,
            variant: Some(self.variant.name.to_owned()),
            reason: (!problems.is_empty()).then(|| problems.join("; ")),
            hides: matches!(status, ProbeStatus::Partial | ProbeStatus::Absent).then(|| self.probe.hides().to_owned()),
        }
    }
}

/// Name of the only variant of a probe to try, from `MTRACE_VARIANTS` (`probe=variant;…`): how the tests run the ones
/// that this kernel would never need.
fn wanted_variant(probe: &str) -> Option<String> {
    let wanted = std::env::var("MTRACE_VARIANTS").ok()?;
    wanted.split(';').find_map(|pair| pair.split_once('=').filter(|(p, _)| *p == probe)).map(|(_, v)| v.to_owned())
}

/// Why a uprobe was refused; the kernel asks for more there than for every other probe.
fn refused_uprobe(e: &libbpf_rs::Error) -> String {
    match e.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => format!("{e:#}; uprobes need CAP_SYS_ADMIN or root"),
        _ => format!("{e:#}"),
    }
}

/// How far into the function at this file offset the probe belongs, see [`prologue`].
fn stack_check_bytes(path: &Path, offset: u64) -> u64 {
    let mut code = [0; prologue::BYTES];
    let read = File::open(path).and_then(|f| f.read_exact_at(&mut code, offset));
    read.map_or(0, |()| prologue::after_stack_check(&code))
}

fn find<'a>(object: &'a Object, name: &str) -> Result<ProgramMut<'a>, String> {
    object.progs_mut().find(|p| p.name() == name).ok_or_else(|| format!("the object has no program `{name}`"))
}

fn load_variant(probe: &dyn Probe, variant: &Variant, shared: &SharedMaps) -> Result<Object, String> {
    let said = LibbpfWords::begin();
    let with_words = |e: libbpf_rs::Error, said: LibbpfWords| format!("{e:#}{}", said.end());
    let mut open = match ObjectBuilder::default().name(probe.name()).and_then(|b| b.open_memory(probe.object())) {
        Ok(open) => open,
        Err(e) => return Err(with_words(e, said)),
    };
    if let Err(e) = shared.share_with(&mut open) {
        return Err(with_words(e, said));
    }
    for mut program in open.progs_mut() {
        let wanted = variant.programs.iter().any(|p| program.name() == p.name);
        program.set_autoload(wanted);
    }
    let object = open.load().map_err(|e| with_words(e, said))?;
    try_attaching(&object, variant)?;
    for program in variant.programs {
        if let Attach::WithFunction(names) = program.attach {
            tell_function(&object, names)?;
        }
    }
    Ok(object)
}

/// Writes where a kernel function is into the object's map.
fn tell_function(object: &Object, names: &[&str]) -> Result<(), String> {
    let range = kallsyms::first_of(names).ok_or_else(|| {
        format!(
            "/proc/kallsyms shows no address of `{}` (kernel.kptr_restrict, or not in this kernel)",
            names.join("` or `")
        )
    })?;
    let value = [range.start.to_ne_bytes(), range.end.to_ne_bytes()].concat();
    let map = object.maps().find(|m| m.name() == "function").ok_or("the object has no map `function`")?;
    map.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY).map_err(|e| e.to_string())
}

/// Attaches what a kernel may load and yet refuse to attach, and detaches it again.
fn try_attaching(object: &Object, variant: &Variant) -> Result<(), String> {
    let said = LibbpfWords::begin();
    for program in variant.programs.iter().filter(|p| p.attach == Attach::OnTrial) {
        if let Err(e) = find(object, program.name)?.attach() {
            return Err(format!("failed to attach `{}`: {e}{}", program.name, said.end()));
        }
    }
    Ok(())
}

/// `struct perf_event_attr` up to `config2` (PERF_ATTR_SIZE_VER1).
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
}

/// Attaches a program to a software event on every CPU that is online.
fn attach_everywhere(program: &ProgramMut<'_>, config: u64) -> Result<Vec<Link>, String> {
    online_cpus()?.into_iter().map(|cpu| attach_on(program, config, cpu)).collect()
}

fn attach_on(program: &ProgramMut<'_>, config: u64, cpu: i32) -> Result<Link, String> {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    let attr = PerfEventAttr {
        kind: PERF_TYPE_SOFTWARE,
        size: size_of::<PerfEventAttr>() as u32,
        config,
        sample_period: 1,
        ..PerfEventAttr::default()
    };
    // SAFETY: `attr` has the size that it states; the kernel only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC) };
    if fd < 0 {
        return Err(format!("perf_event_open on CPU {cpu}: {}", io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let raw = fd.into_raw_fd();
    program.attach_perf_event(raw).map_err(|e| {
        // SAFETY: libbpf owns the descriptor only where it made a link of it.
        drop(unsafe { OwnedFd::from_raw_fd(raw) });
        format!("CPU {cpu}: {e:#}")
    })
}

/// CPUs that are online now. One that comes later is not observed.
fn online_cpus() -> Result<Vec<i32>, String> {
    const PATH: &str = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(PATH).map_err(|e| format!("failed to read `{PATH}`: {e}"))?;
    parse_cpus(text.trim()).ok_or_else(|| format!("`{PATH}`: expected a list of CPUs, found `{}`", text.trim()))
}

/// A list such as `0-3,8`.
fn parse_cpus(text: &str) -> Option<Vec<i32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(from.parse::<i32>().ok()?..=to.parse::<i32>().ok()?);
    }
    Some(cpus)
}

/// What libbpf prints while something is loaded: its errno alone rarely tells the cause.
struct LibbpfWords;

static WORDS: Mutex<String> = Mutex::new(String::new());
const MAX_WORDS: usize = 64 * 1024;
const SHOWN_WORDS: usize = 400;

impl LibbpfWords {
    fn begin() -> Self {
        if let Ok(mut words) = WORDS.lock() {
            words.clear();
        }
        libbpf_rs::set_print(Some((PrintLevel::Warn, |_, message| {
            if let Ok(mut words) = WORDS.lock()
                && words.len() < MAX_WORDS
            {
                words.push_str(&message);
            }
        })));
        Self
    }

    /// The last lines, in parentheses; empty if nothing was said.
    fn end(self) -> String {
        let words = WORDS.lock().map(|w| w.clone()).unwrap_or_default();
        let lines: Vec<&str> = words.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let text = lines.join(" | ");
        let skip = text.chars().count().saturating_sub(SHOWN_WORDS);
        let shown: String = text.chars().skip(skip).collect();
        if shown.is_empty() { shown } else { format!(" (libbpf: {shown})") }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(parse_cpus("0-1").unwrap(), [0, 1]);
        assert_eq!(parse_cpus("0,2-3,8").unwrap(), [0, 2, 3, 8]);
        assert_eq!(parse_cpus("many"), None);
    }
}
