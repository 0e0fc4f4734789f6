//! What `mtrace analyze` does with what is no capture: one message, its exit code, nothing left behind.
#![allow(clippy::unwrap_used)]

mod common;

use common::mtrace;

/// Analyzes `input` and expects exit code 1, one message that holds `told`, and no folder for the report.
fn refused(input: &std::path::Path, told: &str) {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let out = mtrace(&["analyze", input.to_str().unwrap(), "-o", report.to_str().unwrap()]);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(told) && stderr.contains(input.to_str().unwrap()), "{stderr}");
    assert!(!report.exists(), "an empty folder was left behind");
}

#[test]
fn what_is_no_capture_is_refused_and_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    refused(&dir.path().join("nothing.mtrace"), "No such file");
    let empty = dir.path().join("empty.mtrace");
    std::fs::create_dir(&empty).unwrap();
    refused(&empty, "manifest.json");
    let text = dir.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    refused(&text, "not");
}

#[test]
fn a_folder_that_was_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    std::fs::create_dir(&report).unwrap();
    let out = mtrace(&["analyze", "/nonexistent.mtrace", "-o", report.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(report.is_dir());
}
