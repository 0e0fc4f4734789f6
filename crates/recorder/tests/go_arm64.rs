//! Go programs for arm64, cross-compiled: where their functions return, against `go tool objdump`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::path::Path;
use std::process::Command;

use mtrace_recorder::symbols::gopclntab::GoBinary;
use record_support::go_compilers;

/// Those that are timed by probes on their returns; all of them have frames.
const FUNCTIONS: [&str; 3] = ["runtime.gcAssistAlloc1", "runtime.gcParkAssist", "runtime.(*mheap).grow"];

fn go(go: &Path, dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(go);
    command.args(args).current_dir(dir).env("GOTOOLCHAIN", "local").env("GO111MODULE", "off").env("GOFLAGS", "");
    let output = command.env("GOARCH", "arm64").env("CGO_ENABLED", "0").output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Addresses of the lines `file:line  address  code  RET`.
fn returns_shown(listing: &str) -> Vec<u64> {
    let lines = listing.lines().filter(|line| line.split_whitespace().nth(3) == Some("RET"));
    lines.map(|line| u64::from_str_radix(&line.split_whitespace().nth(1).unwrap()[2..], 16).unwrap()).collect()
}

#[test]
fn returns_are_found_where_the_disassembler_shows_them() {
    for compiler in go_compilers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.go"), "package main\n\nfunc main() { println(len(make([]byte, 1))) }\n")
            .unwrap();
        for flags in ["-ldflags=", "-ldflags=-s -w"] {
            go(&compiler, dir.path(), &["build", "-o", "program", flags, "main.go"]);
            let binary = GoBinary::open(&dir.path().join("program")).unwrap().expect("a Go program");
            go(&compiler, dir.path(), &["build", "-o", "named", "main.go"]);
            for function in FUNCTIONS {
                let pattern = format!("^{}$", function.replace(['(', '*', ')'], "."));
                let shown = returns_shown(&go(&compiler, dir.path(), &["tool", "objdump", "-s", &pattern, "named"]));
                let found = binary.returns_of(binary.entry_of(function).unwrap());
                assert!(!shown.is_empty(), "{function}");
                assert_eq!(found, shown, "{function}, {flags}");
            }
        }
    }
}
