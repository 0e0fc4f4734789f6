//! Loads one probe's object with the shared maps, and attaches its programs.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use libbpf_rs::{Link, MapCore as _, MapFlags, Object, ObjectBuilder, PrintLevel, ProgramInput, ProgramMut};
use mtrace_formats::capture::{BpfCost, ProbeReport, ProbeStatus};
use mtrace_formats::tables::RuntimeKind;

use super::runtimes::{GoPlaces, Runtimes};
use crate::FaultMode;
use crate::accounts::{COUNTERS, Counters};
use crate::cost::{RunStats, run_stats};
use crate::probes::{Attach, KernelRule, Probe, Variant};
use crate::ring::SharedMaps;
use crate::symbols::kallsyms;
use crate::target::group::main_hierarchy;

/// A probe whose programs are in the kernel.
pub(crate) struct Loaded {
    pub(crate) probe: &'static dyn Probe,
    variant: &'static Variant,
    object: Object,
    links: Vec<Link>,
    /// Why the kernel refused better variants.
    refused: Vec<String>,
    /// What could not be attached to a runtime's binary, in plain words.
    problems: BTreeSet<String>,
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
                    return Ok(Self {
                        probe,
                        variant,
                        object,
                        links: Vec::new(),
                        problems: BTreeSet::new(),
                        refused: reasons,
                    });
                }
                Err(e) => reasons.push(format!("{}: {e}", variant.name)),
            }
        }
        Err(reasons.join("; "))
    }

    /// Attaches all programs, except those that wait for a runtime's binary.
    ///
    /// # Errors
    /// In plain words; what had been attached is detached again.
    pub(crate) fn attach(&mut self) -> Result<(), String> {
        let said = LibbpfWords::begin();
        for program in self.variant.programs {
            let attached = match program.attach {
                Attach::Flush
                | Attach::GoEntry(_)
                | Attach::GoEntryIfLinked(_)
                | Attach::GoReturns(_)
                | Attach::JvmProbe { .. } => continue,
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

    /// The functions of the Go runtime that its programs are about.
    pub(crate) fn go_functions(&self) -> impl Iterator<Item = &'static str> {
        self.variant.programs.iter().filter_map(|p| p.attach.go_function())
    }

    /// Attaches its programs for Go binaries to one.
    pub(crate) fn attach_go(&mut self, path: &Path, places: &GoPlaces, has_register_abi: bool) {
        for program in self.variant.programs {
            let Some(function) = program.attach.go_function() else { continue };
            let at = places.get(function);
            let entry = at.and_then(|p| p.entry);
            let offsets = match program.attach {
                Attach::GoReturns(_) if !has_register_abi => {
                    self.problems.insert(format!("`{function}`: Go before 1.17 keeps no goroutine in a register"));
                    continue;
                }
                Attach::GoReturns(_) => at.map(|p| p.returns.clone()).unwrap_or_default(),
                _ => Vec::from_iter(entry),
            };
            if offsets.is_empty() && !matches!(program.attach, Attach::GoEntryIfLinked(_)) {
                self.problems.insert(match entry {
                    None => format!("`{function}` is not in the function table of a Go binary"),
                    Some(_) => format!("`{function}` has no return instruction in a known form"),
                });
            }
            for offset in offsets {
                // All processes: the program itself knows the targets, and children need no attaching of their own.
                let attached = find(&self.object, program.name)
                    .and_then(|p| p.attach_uprobe(false, -1, path, offset as usize).map_err(|e| refused_uprobe(&e)));
                match attached {
                    Ok(link) => self.links.push(link),
                    Err(e) => {
                        self.problems.insert(format!("failed to attach to `{function}`: {e}"));
                    }
                }
            }
        }
    }

    /// Attaches its programs for JVMs to the library of one.
    pub(crate) fn attach_jvm(&mut self, library: &Path) {
        for program in self.variant.programs {
            let Attach::JvmProbe { provider, probe } = program.attach else { continue };
            let said = LibbpfWords::begin();
            // All processes, as above.
            let attached = find(&self.object, program.name)
                .map(|p| p.attach_usdt(-1, library, provider, probe).map_err(|e| (e.kind(), refused_uprobe(&e))));
            let problem = match attached {
                Ok(Ok(link)) => {
                    self.links.push(link);
                    continue;
                }
                Ok(Err((libbpf_rs::ErrorKind::NotFound, _))) => {
                    "a JVM has no USDT probes (built with --disable-dtrace)".to_owned()
                }
                Ok(Err((_, e))) => format!("failed to attach to `{provider}:{probe}`: {e}{}", said.end()),
                Err(e) => e,
            };
            self.problems.insert(problem);
        }
    }

    /// Detaches everything, what was attached last first: ends before begins. The counters can still be read.
    pub(crate) fn detach(&mut self) {
        while self.links.pop().is_some() {}
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

    /// Tells the probe that decides who is a target by which rule; before it is attached.
    ///
    /// # Errors
    /// In plain words.
    pub(crate) fn set_rule(&self, rule: &KernelRule) -> Result<(), String> {
        let map = |name| self.object.maps().find(|m| m.name() == name);
        let (Some(place), Some(groups)) = (map("rule"), map("groups")) else { return Ok(()) };
        let failed = |e: libbpf_rs::Error| format!("failed to write the rule for targets: {e}");
        place.update(&0u32.to_ne_bytes(), &rule.to_bytes(main_hierarchy()), MapFlags::ANY).map_err(failed)?;
        let one = 1u32.to_ne_bytes();
        rule.group_keys().iter().try_for_each(|key| groups.update(key, &one, MapFlags::ANY)).map_err(failed)
    }

    /// Adds an entry to one of the object's own maps, unless the key is there already.
    pub(crate) fn add_to_map(&self, map: &str, key: &[u8], value: &[u8]) {
        if let Some(map) = self.object.maps().find(|m| m.name() == map) {
            // That the key is there, or that the map is full, is not worth a word: the entry is one of thousands.
            let _ = map.update(key, value, MapFlags::NO_EXIST);
        }
    }

    /// Overwrites an entry of one of the object's own maps.
    pub(crate) fn set_in_map(&self, map: &str, key: &[u8], value: &[u8]) {
        if let Some(map) = self.object.maps().find(|m| m.name() == map) {
            // An array of ours: the key is there.
            let _ = map.update(key, value, MapFlags::ANY);
        }
    }

    /// Takes all entries out of one of the object's own hash maps.
    pub(crate) fn clear_map(&self, map: &str) {
        if let Some(map) = self.object.maps().find(|m| m.name() == map) {
            let keys: Vec<Vec<u8>> = map.keys().collect();
            keys.iter().for_each(|k| drop(map.delete(k)));
        }
    }

    /// Zeroes the only element of one of the object's own per-CPU arrays.
    pub(crate) fn zero_map(&self, map: &str) {
        let Some(map) = self.object.maps().find(|m| m.name() == map) else { return };
        let key = 0_u32.to_ne_bytes();
        if let Ok(Some(mut cpus)) = map.lookup_percpu(&key, MapFlags::ANY) {
            cpus.iter_mut().for_each(|cpu| cpu.fill(0));
            let _ = map.update_percpu(&key, &cpus, MapFlags::ANY);
        }
    }

    /// Time inside its programs, where the kernel measured it.
    pub(crate) fn costs(&self) -> Vec<BpfCost> {
        let measured = self.stats().filter(|(_, s)| s.runs > 0);
        measured.map(|(program, s)| BpfCost { program, runs: s.runs, run_ns: s.run_ns }).collect()
    }

    /// What the kernel counts of each of its programs.
    fn stats(&self) -> impl Iterator<Item = (String, RunStats)> {
        let programs = self.object.progs_mut().filter(|p| self.variant.programs.iter().any(|v| p.name() == v.name));
        programs.filter_map(|p| Some((p.name().to_string_lossy().into_owned(), run_stats(p.as_fd()).ok()?)))
    }

    /// Events that no program of the probe saw, though it was attached.
    fn missed(&self) -> Option<String> {
        let of = self.stats().filter(|(_, s)| s.misses > 0);
        let of: Vec<String> = of.map(|(program, s)| format!("`{program}` {} times", s.misses)).collect();
        (!of.is_empty()).then(|| {
            format!(
                "the kernel left out {}: it was running on that CPU already; these events are missing",
                of.join(", ")
            )
        })
    }

    /// What the manifest says about it.
    pub(crate) fn report(&self, runtimes: &Runtimes) -> ProbeReport {
        let mut problems: Vec<String> = self.problems.iter().cloned().collect();
        if let Some(lacks) = self.variant.lacks {
            problems.push(lacks.to_owned());
            problems.extend(self.refused.iter().cloned());
        }
        problems.extend(self.missed());
        let kind = self.variant.programs.iter().find_map(|p| p.attach.runtime());
        problems.extend(kind.into_iter().flat_map(|k| runtimes.unreadable(k)).cloned());
        let nothing_to_observe = kind.is_some_and(|k| !runtimes.ran(k));
        let status = match (nothing_to_observe, problems.is_empty()) {
            (true, true) => ProbeStatus::NotApplicable,
            // One that could not be read may have been a runtime's binary.
            (true, false) => ProbeStatus::Absent,
            (false, true) => ProbeStatus::Ran,
            (false, false) if kind.is_some() && self.links.is_empty() => ProbeStatus::Absent,
            (false, false) => ProbeStatus::Partial,
        };
        if nothing_to_observe {
            let what = if kind == Some(RuntimeKind::Jvm) { "JVM" } else { "Go binary" };
            problems.insert(0, format!("no {what} among the targets"));
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
    if let Some(program) = variant.programs.iter().find(|wanted| open.progs_mut().all(|p| p.name() != wanted.name)) {
        return Err(format!("no program `{}` on this architecture", program.name));
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
