//! The main job, live: a real Go service's slow first request, recorded, explained and checked against other sources.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Recording, analyze, assert_exact, can_record, manifest, service, written};
use serde_json::Value;

/// Records a variant of the service while a client sends five requests, and analyses it.
fn record(dir: &Path, variant: &str, flags: &[&str]) -> Option<(Value, Value, String)> {
    let (service, client) = (service(variant)?, service("client")?);
    let mut argv = vec![service.to_str()?, "-addr", "127.0.0.1:0", "-stats"];
    argv.extend(flags);
    let mut recording = Recording::launch(dir, &[], &argv, &[("GODEBUG", "gctrace=1")]);
    recording.wait_for("listening on");
    let client = Command::new(client)
        .args(["-addr-from", recording.stdout.to_str()?, "-requests", "5"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(client.status.success(), "{client:?}");
    recording.signal("INT");
    assert_eq!(recording.wait(), Some(0), "{}", fs::read_to_string(&recording.log).unwrap());
    let report = analyze(&recording.capture, &dir.join("report"));
    Some((report, manifest(&recording.capture), fs::read_to_string(&recording.log).unwrap()))
}

fn verdict(report: &Value) -> (&str, &str) {
    (report["verdict"]["kind"].as_str().unwrap(), report["verdict"]["sentence"].as_str().unwrap())
}

#[test]
fn every_build_of_the_service_gives_the_same_verdict_with_names() {
    if !can_record() {
        return;
    }
    for variant in ["coldstart", "coldstart-stripped", "coldstart-pie", "coldstart-pie-stripped"] {
        let dir = tempfile::tempdir().unwrap();
        let Some((report, manifest, log)) = record(dir.path(), variant, &[]) else { return };
        assert_exact(&manifest);
        let (kind, sentence) = verdict(&report);
        assert_eq!(kind, "memory", "{variant}: {sentence}");
        assert_eq!(report["verdict"]["finding"], "first-touch-faults", "{variant}: {sentence}");
        // A machine that had no CPU for it for longer than that makes the report less sure, and rightly so.
        let busy = report["verdict"]["confidence_reasons"].to_string().contains("waiting for a CPU took more");
        let expected = if busy { "medium" } else { "high" };
        assert_eq!(report["verdict"]["confidence"], expected, "{variant}: {}", report["verdict"]);
        let finding = &report["findings"][0];
        let function = finding["location"]["function"].as_str().unwrap();
        assert!(function.ends_with("cache.(*Store).Fill"), "{variant}: {function}");
        assert!(finding["location"]["file"].as_str().unwrap().ends_with("store.go"), "{variant}: {finding}");
        assert_eq!(report["ledgers"][0]["window"]["name"], "first request", "{variant}");
        for certificate in report["trust"]["replay"].as_array().unwrap() {
            assert_eq!(certificate["equal"], true, "{variant}: {certificate}");
        }
        let snapshots = report["trust"]["replay"].as_array().unwrap();
        assert!(snapshots.iter().any(|c| c["snapshot"] == "end"), "{variant}: {snapshots:?}");

        // The Go runtime's own count of cycles.
        let gctrace = log.lines().filter(|l| l.starts_with("gc ") && l.contains(" @")).count();
        assert_eq!(report["gc"]["cycles"].as_array().unwrap().len(), gctrace, "{variant}");
        assert!(gctrace > 0, "{variant}: the service is built to collect garbage");

        // The service's own count of the faults inside Fill.
        let stats = fs::read_to_string(dir.path().join("stdout")).unwrap();
        let stats: Value = serde_json::from_str(stats.lines().rfind(|l| l.starts_with('{')).unwrap()).unwrap();
        let expected = stats["cache_pages"].as_u64().unwrap();
        let fill: u64 = report["faults"]["groups"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|g| g["toucher"]["function"].as_str().is_some_and(|f| f.ends_with("cache.(*Store).Fill")))
            .map(|g| g["faults"].as_u64().unwrap())
            .sum();
        assert!(fill.abs_diff(expected) <= 64, "{variant}: {fill} faults in Fill, {expected} pages");
    }
}

#[test]
fn a_slow_downstream_is_not_memory() {
    if !can_record() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flags = ["-prefault", "-garbage-mib", "0", "-slow-downstream", "300ms"];
    let Some((report, manifest, _)) = record(dir.path(), "coldstart", &flags) else { return };
    assert_exact(&manifest);
    let (kind, sentence) = verdict(&report);
    assert_eq!(kind, "not_memory", "{sentence}");
    assert!(sentence.starts_with("Not memory: "), "{sentence}");
}

#[test]
fn a_prefaulted_cache_is_not_accused() {
    if !can_record() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((report, ..)) = record(dir.path(), "coldstart", &["-prefault", "-garbage-mib", "0"]) else { return };
    for finding in report["findings"].as_array().unwrap() {
        let accused = finding["location"]["function"].as_str().unwrap_or_default();
        assert!(!accused.ends_with("cache.(*Store).Fill"), "{finding}");
    }
}

#[test]
fn a_killed_recorder_leaves_a_capture_that_analyses() {
    if !can_record() {
        return;
    }
    let Some(faultloop) = service("faultloop") else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = ["--segment-interval", "200ms"];
    let mut recording =
        Recording::launch(dir.path(), &options, &[faultloop.to_str().unwrap(), "64", "100000", "seq"], &[]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    recording.signal("KILL");
    recording.wait();
    let _ = Command::new("pkill").args(["-x", "faultloop"]).status();
    let report = analyze(&recording.capture, &dir.path().join("report"));
    assert_eq!(report["capture"]["complete"], false);
    let faults: u64 = report["faults"]["kinds"].as_array().unwrap().iter().map(|k| k["faults"].as_u64().unwrap()).sum();
    assert!(faults > 10_000, "{faults} faults in the closed segments");
    assert!(
        report["trust"]["damage"]
            .as_array()
            .unwrap()
            .iter()
            .any(|d| d.as_str().unwrap().contains("did not come to its end"))
    );
}

#[test]
fn faults_and_calls_equal_what_the_program_and_the_kernel_counted() {
    if !can_record() {
        return;
    }
    let Some(faultloop) = service("faultloop") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut recording = Recording::launch(dir.path(), &[], &[faultloop.to_str().unwrap(), "16", "4", "random"], &[]);
    assert_eq!(recording.wait(), Some(0));
    let manifest = manifest(&recording.capture);
    assert_exact(&manifest);
    let target = &manifest["targets"][0];
    let rusage = target["rusage_minor_faults"].as_u64().unwrap() + target["rusage_major_faults"].as_u64().unwrap();
    let faults = written(&manifest, "faults");
    // getrusage also counts faults of the exec itself and of get_user_pages, which raise no fault event.
    eprintln!("faults recorded {faults}, getrusage {rusage}");
    assert!(faults <= rusage && rusage - faults <= rusage / 50, "recorded {faults}, getrusage {rusage}");
}
