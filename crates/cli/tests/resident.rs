//! From a program whose memory grows without a fault to the report that says so.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;

use common::{Recording, analyze, assert_exact, can_record, manifest, service};
use serde_json::Value;

const RANGES: u64 = 16;
const HUGE: u64 = 2 << 20;
const MIB: u64 = 1 << 20;

fn status_kb(pid: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

#[test]
fn the_report_says_what_grew_who_mapped_it_and_that_no_fault_did_it() {
    let Some(thp) = service("thp").filter(|_| can_record()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let argv = [thp.to_str().unwrap(), "madvise", &RANGES.to_string(), "60"];
    let mut recording = Recording::launch(dir.path(), &["--duration", "3s"], &argv, &[]);
    let said: Value = serde_json::from_str(&recording.wait_for("rss_kb")).unwrap();
    if said["errno"] != 0 {
        eprintln!("skipped: the kernel does not collapse on demand: {said}");
        return;
    }
    let rss = status_kb(&said["pid"].to_string(), "VmRSS") << 10;
    assert_eq!(recording.wait(), Some(0), "{}", fs::read_to_string(&recording.log).unwrap());
    let (report, out) = (analyze(&recording.capture, &dir.path().join("report")), dir.path().join("report"));
    assert_exact(&manifest(&recording.capture));

    let memory = &report["resident"][0];
    let end = memory["end"]["rss_bytes"].as_u64().unwrap();
    // It only sleeps after it has printed. VmRSS may be off by what is not yet added up of some CPUs.
    assert!(end.abs_diff(rss) < MIB, "{end} {rss}");
    let groups = memory["groups"].as_array().unwrap();
    let sum: u64 = groups.iter().map(|g| g["end"]["rss_bytes"].as_u64().unwrap()).sum();
    assert_eq!(sum + memory["others_end"]["rss_bytes"].as_u64().unwrap(), end);
    // Stopped at its exec: nearly nothing was there.
    assert!(memory["begin"]["rss_bytes"].as_u64().unwrap() < MIB, "{memory}");
    let most = &groups[0];
    assert_eq!((&most["name"], &most["mapped_by"]["function"]), (&"anonymous".into(), &"map_sparse".into()), "{most}");
    assert_eq!(most["end"]["anon_huge_bytes"], RANGES * HUGE);
    assert_eq!(most["growth_bytes"], RANGES * HUGE);
    let collapses = &report["collapses"][0];
    assert_eq!((&collapses["collapsed"], &collapses["new_bytes"]), (&RANGES.into(), &(RANGES * (HUGE - 4096)).into()));

    let (page, ticket) = (fs::read_to_string(out.join("report.html")), fs::read_to_string(out.join("report.md")));
    // Between the two: "(1 of them by khugepaged)", where it came first.
    let said = ["16 ranges were collapsed into huge pages", ", 31.9 MiB became resident without a fault"];
    let (page, ticket) = (page.unwrap(), ticket.unwrap());
    assert!(page.contains("Resident memory by mapping") && page.contains("map_sparse"));
    assert!(ticket.contains("**Resident memory:**"), "{ticket}");
    for text in said {
        assert!(page.contains(text) && ticket.contains(text), "{text}: {ticket}");
    }
}
