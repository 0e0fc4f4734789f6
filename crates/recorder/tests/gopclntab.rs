//! Go's own table against independent readers of the same programs: names and
//! entries against `go tool nm`, positions against `go tool addr2line`, inlined
//! calls against DWARF as `addr2line -i` or `llvm-symbolizer` shows it; and
//! damaged programs, which may lose names but nothing else.
//!
//! Toolchains: `MTRACE_TEST_GO` (paths of `go`, separated by colons), else `go`
//! on PATH, else those under `$XDG_CACHE_HOME/mtrace`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mtrace_recorder::symbols::gopclntab::{Function, GoBinary};
use mtrace_recorder::symbols::{
    ExecMapping, ImageMaps, Ip, IpKind, SymbolSource, Symbolizer, Unresolved, build_id_hex,
};

const PROGRAM: &str = r#"package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
)

type pair[K comparable, V any] struct {
	key K
	val V
}

func (p *pair[K, V]) swap(q *pair[K, V]) { *p, *q = *q, *p }

func leaf(x int) int {
	if x > 10 {
		return x*3 + len(os.Args)
	}
	return x
}

func middle(x int) int { return leaf(x) + leaf(x+1) }

func outer(x int) int { return middle(x) + 1 }

//go:noinline
func physical(x int) int {
	y := outer(x)
	f := func(z int) int { return outer(z) + y }
	return f(y)
}

type byLen []string

func (b byLen) Len() int           { return len(b) }
func (b byLen) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b byLen) Less(i, j int) bool { return len(b[i]) < len(b[j]) }

func main() {
	a, b := pair[string, int]{"a", 1}, pair[string, int]{"b", 2}
	a.swap(&b)
	words := strings.Fields("some words of unequal length")
	sort.Sort(byLen(words))
	done := make(chan int)
	go func() { done <- physical(len(words)) }()
	fmt.Println(a, b, words, <-done)
}
"#;

/// Functions that the recorder's Go probes attach to.
const PROBED: [&str; 9] = [
    "runtime.(*gcControllerState).startCycle",
    "runtime.gcMarkTermination",
    "runtime.gcSweep",
    "runtime.stopTheWorldWithSema",
    "runtime.startTheWorldWithSema",
    "runtime.gcAssistAlloc",
    "runtime.gcParkAssist",
    "runtime.bgscavenge",
    "main.main",
];

const VARIANTS: [(&str, &[&str]); 4] = [
    ("plain", &[]),
    ("stripped", &["-ldflags", "-s -w"]),
    ("pie", &["-buildmode=pie"]),
    ("pie-stripped", &["-buildmode=pie", "-ldflags", "-s -w"]),
];

fn works(go: &Path) -> bool {
    Command::new(go).arg("version").env("GOTOOLCHAIN", "local").output().is_ok_and(|output| output.status.success())
}

fn toolchains() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("MTRACE_TEST_GO") {
        let listed: Vec<PathBuf> = std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        for go in &listed {
            assert!(works(go), "MTRACE_TEST_GO names {}, which does not run `go version`", go.display());
        }
        return listed;
    }
    if works(Path::new("go")) {
        return vec![PathBuf::from("go")];
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .unwrap_or_default()
        .join("mtrace");
    let children = |dir: &Path| -> Vec<PathBuf> {
        let mut found: Vec<_> =
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let is_go = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("go"));
    let top: Vec<PathBuf> = children(&cache).into_iter().filter(is_go).collect();
    let nested = top.iter().flat_map(|dir| children(dir));
    top.iter().cloned().chain(nested).map(|dir| dir.join("bin/go")).filter(|go| go.is_file() && works(go)).collect()
}

struct Built {
    go: PathBuf,
    version: String,
    dir: tempfile::TempDir,
}

impl Built {
    fn new(go: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.go"), PROGRAM).unwrap();
        let built = Self { go: go.to_path_buf(), version: String::new(), dir };
        let version = String::from_utf8(built.go_command(&["env", "GOVERSION"]).output().unwrap().stdout).unwrap();
        let built = Self { version: version.trim().to_string(), ..built };
        for (name, flags) in VARIANTS {
            let out = built.path(name);
            let mut args = vec!["build", "-o", out.to_str().unwrap()];
            args.extend(flags);
            args.push("main.go");
            let output = built.go_command(&args).output().unwrap();
            assert!(output.status.success(), "{} {name}: {}", built.version, String::from_utf8_lossy(&output.stderr));
        }
        built
    }

    fn go_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.go);
        command.args(args).current_dir(self.dir.path());
        command.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOFLAGS", "");
        command
    }

    fn path(&self, variant: &str) -> PathBuf {
        self.dir.path().join(variant)
    }

    fn open(&self, variant: &str) -> GoBinary {
        GoBinary::open(&self.path(variant)).unwrap().expect("a Go program")
    }
}

fn piped(mut command: Command, input: String) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Type arguments as the table abbreviates them, and the compiler's middle
/// dots as `go tool nm` shows them.
fn abbreviated(name: &str) -> String {
    let name = &name.replace('\u{b7}', ".");
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[...]{}", &name[..open], &name[close + 1..])
        }
        _ => name.to_string(),
    }
}

/// Text symbols by address; several names may share one.
fn nm(built: &Built, variant: &str) -> BTreeMap<u64, Vec<String>> {
    let path = built.path(variant);
    let output = built.go_command(&["tool", "nm", path.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "go tool nm: {}", String::from_utf8_lossy(&output.stderr));
    let mut symbols: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut words = line.trim_start().splitn(3, ' ');
        let (Some(addr), Some("T" | "t"), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let name = name.trim_end_matches(".abi0").trim_end_matches(".abiinternal");
        symbols.entry(u64::from_str_radix(addr, 16).unwrap()).or_default().push(abbreviated(name));
    }
    symbols
}

/// Some addresses in every function: first, last and between.
fn sample_pcs(go: &GoBinary) -> Vec<u64> {
    let mut pcs = Vec::new();
    for index in 0..go.functions() {
        let function = go.lookup(go.function(index).unwrap().0).unwrap();
        let size = function.end - function.entry;
        pcs.extend([0, size / 4, size / 2, size * 3 / 4, size - 1].map(|within| function.entry + within));
    }
    pcs.dedup();
    pcs
}

fn check_names(built: &Built, variant: &str, oracle: &str) {
    let go = built.open(variant);
    let symbols = nm(built, oracle);
    let mut seen = 0;
    for index in 0..go.functions() {
        let (entry, name) = go.function(index).unwrap();
        // Markers of the linker (`runtime.text` …) share addresses.
        let Some(names) = symbols.get(&entry) else { panic!("{variant}: {name} at {entry:#x} is no text symbol") };
        assert!(names.contains(&abbreviated(&name)), "{variant}: {entry:#x} is {names:?}, table says {name}");
        seen += 1;
    }
    assert!(seen > 1000, "{variant}: only {seen} functions");
    // And the other way: no Go function of the symbol table is missing.
    for (addr, names) in symbols
        .iter()
        .filter(|(_, names)| names.iter().any(|name| name.starts_with("main.") || name.starts_with("runtime.gc")))
    {
        if names.iter().all(|name| name.ends_with("text")) {
            continue;
        }
        let found = go.lookup(*addr).unwrap_or_else(|| panic!("{variant}: {names:?} not found"));
        assert_eq!(found.entry, *addr, "{variant}: {names:?}");
    }
    eprintln!("{} {variant}: {seen} names and entries agree with go tool nm", built.version);
}

fn check_lines(built: &Built, variant: &str, oracle: &str) {
    let go = built.open(variant);
    let pcs = sample_pcs(&go);
    let path = built.path(oracle);
    let input: String = pcs.iter().map(|pc| format!("{pc:#x}\n")).collect();
    let output = piped(built.go_command(&["tool", "addr2line", path.to_str().unwrap()]), input);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 2 * pcs.len());
    if lines.chunks(2).all(|pair| pair[1].starts_with('?')) {
        eprintln!(
            "skipped: {} {variant}: its go tool addr2line does not read this program at all (Go 1.19 and PIE)",
            built.version
        );
        return;
    }
    for (pc, expected) in pcs.iter().zip(lines.chunks(2)) {
        let function = go.lookup(*pc).unwrap();
        let inner = &function.frames[0];
        let found = format!("{}:{}", inner.file.as_deref().unwrap_or("?"), inner.line.unwrap_or(0));
        // What it prints for padding behind a function and for C functions.
        let want = if expected[1] == "?" || expected[1].starts_with(':') { "?:0" } else { expected[1] };
        assert_eq!(found, want, "{variant}: {pc:#x} in {:?}", function.physical());
    }
    eprintln!("{} {variant}: {} positions agree with go tool addr2line", built.version, pcs.len());
}

/// Frames by DWARF: function and line, innermost first.
fn dwarf_frames(path: &Path, pcs: &[u64]) -> Option<HashMap<u64, Vec<(String, u32)>>> {
    let mut command = Command::new("llvm-symbolizer");
    command.args(["--inlines", "--functions=linkage", "--no-demangle", "--output-style=GNU", "--obj"]).arg(path);
    let binutils = Command::new("addr2line").arg("--version").output().is_ok_and(|output| output.status.success());
    if !Command::new("llvm-symbolizer").arg("--version").output().is_ok_and(|output| output.status.success()) {
        if !binutils {
            return None;
        }
        command = Command::new("addr2line");
        command.args(["-i", "-f", "-e"]).arg(path);
    }
    // An address that is in no function separates the answers.
    let input: String = pcs.iter().map(|pc| format!("{pc:#x}\n0x1\n")).collect();
    let output = piped(command, input);
    let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
    let mut frames: Vec<Vec<(String, u32)>> = vec![Vec::new()];
    for pair in lines.chunks(2) {
        if pair[0] == "??" && frames.last().is_some_and(|last| !last.is_empty()) {
            frames.push(Vec::new());
            continue;
        }
        // DWARF keeps the linker's names of wrappers between the two ABIs.
        let name = pair[0].trim_end_matches(".abi0").trim_end_matches(".abiinternal");
        let line = pair[1].rsplit(':').next().unwrap().split(' ').next().unwrap().parse().unwrap_or(0);
        frames.last_mut().unwrap().push((abbreviated(name), line));
    }
    frames.pop();
    assert_eq!(frames.len(), pcs.len(), "answers of the DWARF reader are out of step");
    Some(pcs.iter().copied().zip(frames).collect())
}

fn chain(function: &Function) -> Vec<(String, u32)> {
    function.frames.iter().map(|frame| (abbreviated(&frame.name), frame.line.unwrap_or(0))).collect()
}

fn check_inlines(built: &Built, variant: &str, oracle: &str) {
    let go = built.open(variant);
    assert!(go.has_inlines(), "{} {variant}: no inline trees", built.version);
    let pcs = sample_pcs(&go);
    let Some(dwarf) = dwarf_frames(&built.path(oracle), &pcs) else {
        eprintln!("skipped: inlined calls of {variant}: neither llvm-symbolizer nor addr2line");
        return;
    };
    let (mut equal, mut inlined, mut compared, mut different) = (0, 0, 0, Vec::new());
    for pc in pcs {
        let (found, expected) = (chain(&go.lookup(pc).unwrap()), &dwarf[&pc]);
        // Padding has no DWARF function; generated code may have no line.
        if expected.iter().any(|(name, line)| name == "??" || *line == 0) {
            continue;
        }
        compared += 1;
        inlined += usize::from(found.len() > 1);
        if found == *expected {
            equal += 1;
        } else {
            different.push((pc, found, expected.clone()));
        }
    }
    assert!(compared > 5000 && inlined > 500, "{variant}: {compared} compared, {inlined} with inlined calls");
    let share = f64::from(equal) / compared as f64;
    eprintln!(
        "{} {variant}: {equal} of {compared} call chains equal DWARF ({inlined} with inlined calls); first difference {:?}",
        built.version,
        different.first()
    );
    // Equal from Go 1.21 on. Go 1.19 has a few wrappers whose inlined method
    // has a place in the table and none in DWARF (`<autogenerated>`).
    let least = if built.version.starts_with("go1.19") { 0.999 } else { 1.0 };
    assert!(share >= least, "{variant}: only {equal} of {compared} equal");
}

#[test]
fn agrees_with_independent_readers() {
    let toolchains = toolchains();
    if toolchains.is_empty() {
        eprintln!("skipped: no go toolchain: set MTRACE_TEST_GO, or put go on PATH");
    }
    for go in toolchains {
        let built = Built::new(&go);
        for (variant, _) in VARIANTS {
            let oracle = if variant.starts_with("pie") { "pie" } else { "plain" };
            let binary = built.open(variant);
            assert_eq!(binary.go_version().as_deref(), Some(built.version.as_str()), "{variant}");
            check_names(&built, variant, oracle);
            check_lines(&built, variant, oracle);
            check_inlines(&built, variant, oracle);
            let entries = binary.entries_of(&PROBED);
            let missing: Vec<_> = PROBED.iter().zip(&entries).filter(|(_, entry)| entry.is_none()).collect();
            eprintln!("{} {variant}: probe functions missing: {missing:?}", built.version);
            assert!(missing.is_empty(), "{variant}: {missing:?}");
            for (name, entry) in PROBED.iter().zip(entries) {
                let entry = entry.unwrap();
                assert_eq!(binary.lookup(entry).unwrap().physical().unwrap().name, *name);
                assert!(binary.file_offset(entry).is_some());
            }
            assert_eq!(binary.entry_of("main.noSuchFunction"), None);
            check_without_sections(&built, variant);
            check_symbolizer(&built, variant);
        }
        check_damaged(&built);
    }
}

/// The same answers with the section headers removed.
fn check_without_sections(built: &Built, variant: &str) {
    let mut bytes = std::fs::read(built.path(variant)).unwrap();
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    let (whole, cut) = (built.open(variant), GoBinary::from_bytes(bytes).unwrap().expect("found by its magic number"));
    assert_eq!(cut.functions(), whole.functions());
    assert_eq!(cut.go_version(), whole.go_version());
    for index in (0..whole.functions()).step_by(13) {
        let (entry, _) = whole.function(index).unwrap();
        assert_eq!(cut.lookup(entry), whole.lookup(entry));
    }
}

fn image_of(path: &Path, build_id: Option<String>, inode: u64) -> ImageMaps {
    let mapping = ExecMapping {
        start: 0x7000_0000_0000,
        end: 0x7000_4000_0000,
        file_offset: 0,
        path: path.to_str().unwrap().to_string(),
        inode,
        build_id,
        ..ExecMapping::default()
    };
    ImageMaps { mappings: vec![mapping], root: None }
}

/// Names by file offset for a program that runs no longer; none for a file
/// that is not the recorded one.
fn check_symbolizer(built: &Built, variant: &str) {
    let (path, go) = (built.path(variant), built.open(variant));
    let entry = go.entry_of("main.physical").unwrap();
    let offset = go.file_offset(entry).unwrap();
    let ips = [
        Ip { addr: 0x7000_0000_0000 + offset, kind: IpKind::Exact },
        Ip { addr: 0x7000_0000_0000 + offset + 1, kind: IpKind::Return },
        Ip { addr: 0x6000_0000_0000, kind: IpKind::Exact },
    ];
    let mut symbolizer = Symbolizer::new();
    let rows = symbolizer.resolve(&image_of(&path, build_id_hex(&path), 0), &ips);
    for row in &rows[..2] {
        let physical = row.last().unwrap();
        assert_eq!(&*physical.function, "main.physical", "{variant}");
        assert_eq!((physical.source, physical.function_addr), (SymbolSource::Pclntab, Some(entry)));
    }
    assert_eq!(rows[2][0].source, SymbolSource::Unresolved);
    let replaced = symbolizer.resolve(&image_of(&path, Some("00ff".into()), 0), &ips[..1]);
    assert_eq!(replaced[0][0].source, SymbolSource::Unresolved);
    symbolizer.resolve(&image_of(&path, None, 1), &ips[..1]);
    symbolizer.resolve(&image_of(&path, None, 0), &ips[..1]);
    let stats = symbolizer.stats();
    assert_eq!(stats.resolved[&SymbolSource::Pclntab], 2);
    let reasons = [(Unresolved::NoMapping, 1), (Unresolved::FileReplaced, 2), (Unresolved::Unverifiable, 1)];
    assert_eq!(stats.unresolved, reasons.into_iter().collect());
}

/// A small generator, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Use everything of a program; only that it comes back is of interest.
fn exercise(bytes: Vec<u8>) -> bool {
    let Ok(Some(go)) = GoBinary::from_bytes(bytes) else {
        return false;
    };
    let _ = (go.go_version(), go.entry_of("runtime.gcMarkTermination"));
    for index in (0..go.functions()).step_by(go.functions() / 40 + 1) {
        if let Some((entry, _)) = go.function(index) {
            let _ = (go.lookup(entry), go.lookup(entry.wrapping_add(40)), go.file_offset(entry));
        }
    }
    true
}

fn check_damaged(built: &Built) {
    let mut survived = 0;
    const ROUNDS: u64 = 150;
    for variant in ["stripped", "pie-stripped"] {
        let intact = std::fs::read(built.path(variant)).unwrap();
        let magic = [0xf0_u8, 0xf1].iter().find_map(|last| {
            intact.windows(8).position(|raw| raw[..4] == [*last, 0xff, 0xff, 0xff] && raw[4..] == [0, 0, 1, 8])
        });
        let table = magic.expect("a table");
        for seed in 1..=ROUNDS {
            let mut random = Random(seed * 0x9e37_79b9_7f4a_7c15);
            let mut bytes = intact.clone();
            // Headers, the table's header, its index and records, all the rest.
            let (start, len) = [(0, 64), (0, 4096), (table + 8, 64), (table, intact.len() - table), (0, intact.len())]
                [random.below(5)];
            for _ in 0..=random.below(64) {
                let at = start + random.below(len);
                bytes[at] = [0, 0xff, 0x80, 0x7f, random.below(256) as u8][random.below(5)];
            }
            if random.below(4) == 0 {
                let keep = random.below(bytes.len());
                bytes.truncate(keep);
            }
            survived += usize::from(exercise(bytes));
        }
    }
    eprintln!("{}: {} damaged programs read, {survived} still had a table", built.version, 2 * ROUNDS);
    assert!(survived > 50, "the damage is too coarse to reach the tables");
}

#[test]
fn what_is_no_go_program_is_told_apart() {
    assert!(GoBinary::from_bytes(b"#!/bin/sh\n".to_vec()).is_err());
    assert!(GoBinary::from_bytes(Vec::new()).is_err());
    let own = std::env::current_exe().unwrap();
    assert!(GoBinary::open(&own).unwrap().is_none());
    assert!(GoBinary::open(Path::new("/dev/null")).is_err());
}
