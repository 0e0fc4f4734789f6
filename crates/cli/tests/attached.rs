//! A service at work, live: attached to over a connection that is older, and its slow later request is explained.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Recording, analyze, assert_exact, can_record, manifest, service};
use serde_json::Value;

/// Ends a program when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, args: &[&str], stdout: &Path, env: (&str, &str)) -> Running {
    let child = Command::new(program)
        .args(args)
        .env(env.0, env.1)
        .stdin(Stdio::null())
        .stdout(File::create(stdout).unwrap())
        .spawn()
        .unwrap();
    Running(child)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Attaches to the service, which is made slow by `flags` in its 32nd request, between the second and the third one of a
/// client that sends 60 more over the same connection.
fn record(dir: &Path, options: &[&str], flags: &[&str]) -> Option<(Value, Value)> {
    let (service, client) = (service("coldstart")?, service("client")?);
    let mut args = vec!["-addr", "127.0.0.1:0", "-cache-mib", "16", "-garbage-mib", "0", "-late", "32"];
    args.extend(flags);
    let (said, sent, go) = (dir.join("service"), dir.join("client"), dir.join("go"));
    let service = start(&service, &args, &said, ("GOGC", "off"));
    let addr_from = said.to_str().unwrap();
    let hold = ["-addr-from", addr_from, "-before", "2", "-hold-until", go.to_str().unwrap(), "-requests", "60"];
    let mut client = start(&client, &hold, &sent, ("GOGC", "off"));
    wait_until("the client's pause", || fs::read_to_string(&sent).unwrap().contains("holding"));
    let pid = service.0.id().to_string();
    let mut args = options.to_vec();
    args.extend(["--pid", &pid]);
    let mut recording = Recording::start(dir, &args, &[], Stdio::null());
    let path = recording.capture.join("manifest.json");
    let attached = || {
        let text = fs::read_to_string(&path).ok()?;
        serde_json::from_str::<Value>(&text).ok()?["window"]["start_ns"].as_i64()
    };
    wait_until("the attach", || attached().is_some());
    fs::write(&go, "").unwrap();
    assert!(client.0.wait().unwrap().success());
    recording.signal("INT");
    // 5: calls over the limit are missing.
    let code = recording.wait();
    assert!(matches!(code, Some(0 | 5)), "{code:?}: {}", fs::read_to_string(&recording.log).unwrap());
    Some((analyze(&recording.capture, &dir.join("report")), manifest(&recording.capture)))
}

fn sentence(report: &Value) -> &str {
    report["verdict"]["sentence"].as_str().unwrap()
}

#[test]
fn a_later_request_that_touches_fresh_memory_is_found_and_explained() {
    if !can_record() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((report, manifest)) = record(dir.path(), &[], &["-late-mib", "200"]) else { return };
    assert_exact(&manifest);
    let window = &report["ledgers"][0]["window"];
    assert_eq!(window["name"], "slowest request", "{}", sentence(&report));
    assert_eq!((&window["request"]["number"], &window["request"]["of"]), (&30.into(), &60.into()), "{window}");
    let finding = &report["findings"][0];
    assert_eq!(finding["code"], "first-touch-faults", "{}", sentence(&report));
    assert_eq!(finding["location"]["function"], "main.writeReport", "{finding}");
    let table = &report["requests"][0];
    assert_eq!((&table["answered"], &table["connections"]), (&60.into(), &1.into()), "{table}");
    assert_eq!(table["slowest"].as_array().unwrap().len(), 5);
    assert_eq!(table["slowest"][0]["number"], 30);
    assert_eq!(table["unseen"].as_array().unwrap().len(), 0, "{table}");
}

#[test]
fn a_later_request_that_waits_for_a_backend_is_not_memory() {
    if !can_record() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((report, _)) = record(dir.path(), &[], &["-late-downstream", "300ms"]) else { return };
    assert_eq!(report["verdict"]["kind"], "not_memory", "{}", sentence(&report));
    assert!(sentence(&report).contains("It is request 30 of 60"), "{}", sentence(&report));
}

#[test]
fn requests_over_the_limit_of_calls_are_said_to_be_missing() {
    if !can_record() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((report, _)) = record(dir.path(), &["--io-calls", "50"], &["-late-downstream", "300ms"]) else { return };
    let table = &report["requests"][0];
    assert!(table["answered"].as_u64().unwrap() < 25, "{table}");
    let unseen = table["unseen"][0].as_str().unwrap();
    assert!(unseen.contains("were not seen") && unseen.contains("over the limit of 50"), "{unseen}");
    let assumptions = report["ledgers"][0]["window"]["assumptions"].as_array().unwrap();
    assert!(assumptions.iter().any(|a| a == unseen), "{assumptions:?}");
    assert_ne!(report["verdict"]["confidence"], "high", "{}", report["verdict"]);
    let reasons = report["verdict"]["confidence_reasons"].as_array().unwrap();
    assert!(reasons.iter().any(|r| r == unseen), "{reasons:?}");
    // No answer was seen to the request in which the limit fell, and none is claimed to be missing.
    assert_eq!(report["ledgers"][0]["window"]["name"], "slowest request", "{}", sentence(&report));
}
