//! Recordings of Go programs against what the Go runtime says itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::path::{Path, PathBuf};
use std::process::Command;

use mtrace_formats::capture::ProbeStatus;
use mtrace_formats::tables::{Fault, GcEvent, GcEventKind};
use record_support::{Recording, bpf_works, record_command};

/// The Go compiler: that of `PATH`, or one that the scripts have fetched.
fn go() -> Option<PathBuf> {
    let from_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|p| std::env::split_paths(&p).collect::<Vec<_>>())
        .map(|d| d.join("go"));
    let cache = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/mtrace/go"));
    let fetched = cache.and_then(|c| std::fs::read_dir(c).ok()).into_iter().flatten().flatten();
    let fetched = fetched.flat_map(|e| {
        let known = ["bin/go", "go/bin/go"].map(|p| e.path().join(p));
        let packages = std::fs::read_dir(e.path().join("lib")).into_iter().flatten().flatten();
        known.into_iter().chain(packages.map(|p| p.path().join("site-packages/go/bin/go"))).collect::<Vec<_>>()
    });
    from_path.chain(fetched).find(|p| p.is_file())
}

fn build(source: &str, dir: &Path, flags: &[&str]) -> Option<PathBuf> {
    let Some(go) = go() else {
        assert!(std::env::var_os("MTRACE_REQUIRE_GO").is_none(), "no Go compiler");
        eprintln!("skipped: there is no Go compiler in PATH");
        return None;
    };
    let file = dir.join("main.go");
    std::fs::write(&file, source).unwrap();
    let program = dir.join("program");
    let status = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .args(flags)
        .arg(&file)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod")
        .env("GOCACHE", dir.join("cache"))
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(status.success());
    Some(program)
}

/// Says how many cycles there were, and where it has copied to and cleared.
const PROGRAM: &str = r#"
package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

var sink []byte

//go:noinline
func fill(to, from []byte) {
	for i := 0; i+4096 <= len(to); i += 4096 {
		copy(to[i:i+512], from)
	}
}

//go:noinline
func outer(to, from []byte) { fill(to, from); sink = from }

func main() {
	for i := 0; i < 30; i++ {
		sink = make([]byte, 4<<20)
		runtime.GC()
	}
	// Not asked for: these end on the small stacks of the mark workers, which have to grow for it.
	for i := 0; i < 100; i++ {
		sink = make([]byte, 4<<20)
	}
	memory, err := syscall.Mmap(-1, 0, 4<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		os.Exit(1)
	}
	syscall.Madvise(memory, 15)
	outer(memory, make([]byte, 512))
	// A cycle under way would be recorded and not yet be counted.
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("{\"cycles\":%d,\"pid\":%d,\"pages\":%d,\"addr\":%d}\n", m.NumGC, os.Getpid(), len(memory)/4096, addr(memory))
}
"#;

const ADDR: &str = "
//go:noinline
func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
";

fn record_go(dir: &Path, flags: &[&str]) -> Option<Recording> {
    let source = PROGRAM.replace("\"syscall\"\n", "\"syscall\"\n\t\"unsafe\"\n") + ADDR;
    let program = build(&source, dir, flags)?;
    // The argument is a file that is no program, as a service's configuration is: nothing to complain about.
    let other = dir.join("main.go");
    Some(record_command(&program, &[other.to_str()?], |_| {}))
}

fn check(r: &Recording) {
    r.assert_nothing_lost();
    assert_eq!(r.summary.exit_status, Some(0));
    let said = &r.said[0];
    let gc = r.rows::<GcEvent>();
    let count = |kind| gc.iter().filter(|e| e.event == kind).count() as u64;
    for kind in [GcEventKind::CycleStart, GcEventKind::MarkTermination, GcEventKind::Sweep] {
        assert_eq!(count(kind), said["cycles"].as_u64().unwrap(), "{kind}");
    }
    // ReadMemStats stops the world as well.
    assert!(count(GcEventKind::StopTheWorld) >= 2 * said["cycles"].as_u64().unwrap());
    let target = r.capture.manifest.targets.iter().find(|t| u64::from(t.pid) == said["pid"].as_u64().unwrap()).unwrap();
    assert!(target.go_version.as_deref().is_some_and(|v| v.starts_with("go1.")), "{target:?}");
    let report = r.capture.manifest.probes.iter().find(|p| p.name == "gc_events").unwrap();
    assert_eq!(report.status, ProbeStatus::Ran, "{report:?}");

    // copy is memmove, which has no frame: its caller would be missing from a plain walk.
    let stacks = r.stacks();
    let start = said["addr"].as_u64().unwrap();
    let region = start..start + said["pages"].as_u64().unwrap() * 4096;
    let faults: Vec<Fault> = r.faults().into_iter().filter(|f| region.contains(&f.addr)).collect();
    assert_eq!(faults.len() as u64, said["pages"].as_u64().unwrap());
    for f in &faults {
        let stack = &stacks[&f.stack_id.unwrap()];
        assert_eq!(stack[..4], ["runtime.memmove", "main.fill", "main.outer", "main.main"], "{stack:?}");
    }
}

#[test]
fn collections_and_stacks_of_a_go_program_are_right() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if let Some(r) = record_go(dir.path(), &[]) {
        // The harness starts it by a shell, so this is the second exec: attached ahead, and nothing is missing.
        check(&r);
        assert!(r.summary.problems.is_empty(), "{:?}", r.summary.problems);
        let reasons: Vec<_> = r.rows::<GcEvent>().into_iter().filter_map(|e| e.reason).collect();
        assert!(reasons.contains(&1) && reasons.contains(&2), "mark and sweep termination: {reasons:?}");
    }
}

#[test]
fn a_stripped_go_program_gives_the_same() {
    if !bpf_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if let Some(r) = record_go(dir.path(), &["-ldflags=-s -w"]) {
        check(&r);
    }
}
