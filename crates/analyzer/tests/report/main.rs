//! The report in all its formats, over analyses built by code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod browser;
mod fixtures;
mod page;

use fixtures::HOSTILE;
use mtrace_analyzer::model::{Analysis, FlameGraph};
use mtrace_analyzer::report::{self, ReportOptions};

/// All fixtures by name.
fn all() -> Vec<(&'static str, Analysis)> {
    vec![
        ("first_touch", fixtures::first_touch()),
        ("churn", fixtures::churn()),
        ("not_memory", fixtures::not_memory()),
        ("unexplained", fixtures::unexplained()),
        ("hostile", fixtures::hostile()),
        ("empty", fixtures::empty()),
    ]
}

#[test]
fn markdown_is_what_was_agreed() {
    for (name, analysis) in all() {
        insta::assert_snapshot!(format!("markdown_{name}"), report::render_markdown(&analysis));
    }
}

#[test]
fn terminal_is_what_was_agreed() {
    for (name, analysis) in all() {
        insta::assert_snapshot!(format!("terminal_{name}"), report::terminal(&analysis, false));
    }
}

#[test]
fn the_process_and_its_group_are_named_and_that_there_were_others() {
    use mtrace_analyzer::model::ProcessFact;
    let mut a = fixtures::first_touch();
    let other =
        |pid, comm: &str, faults| ProcessFact { pid, comm: Some(comm.into()), faults, ..ProcessFact::default() };
    let others = [(5, "idle", 0), (6, "busy", 90), (7, "less", 50), (8, "least", 20), (4, "none", 0)];
    a.facts.capture.processes.extend(others.map(|(pid, comm, n)| other(pid, comm, n)));
    let expected = "process 4711 (`shop`), 1 inside its container, cgroup \
                    `/kubepods.slice/kubepods-pod4ab2.slice/cri-containerd-3f4e9a0c.scope`; 5 other processes were also \
                    recorded: process 6 (`busy`), process 7 (`less`), process 8 (`least`) and 2 more";
    assert!(report::render_markdown(&a).contains(expected), "{}", report::render_markdown(&a));
    let one_line = report::terminal(&a, false).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(one_line.contains("(confidence high) process 4711 (shop), 1 inside its container; 5 others"), "{one_line}");
    let page = report::render_html(&a).unwrap();
    assert!(page.contains("5 other processes were also recorded") && page.contains("<code>busy</code>"));
}

#[test]
fn markdown_fits_a_ticket_and_holds_no_markup_of_others() {
    for (name, analysis) in all() {
        let text = report::render_markdown(&analysis);
        assert!(text.lines().count() <= 45, "{name}: {} lines", text.lines().count());
        for line in text.lines() {
            // A blank after it makes of `<` a plain character.
            let outside = without_code_spans(line).replace("< 0.1 %", "");
            assert!(!outside.contains(['<', '>', '`']), "{name}: {outside}");
            assert!(!outside.contains("](https") && !outside.contains("://"), "{name}: {outside}");
            assert!(!line.chars().any(char::is_control), "{name}: {line:?}");
            assert!(!line.contains('\u{202e}'), "{name}: {line:?}");
        }
        let table: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).collect();
        for row in table {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{name}: {row}");
        }
    }
}

/// Text of a Markdown line outside code spans, by the rule of CommonMark: a run of backticks ends at an equal run.
/// Escaped characters are plain text and left out.
fn without_code_spans(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    let run = |at: usize| chars[at..].iter().take_while(|c| **c == '`').count();
    let (mut out, mut i) = (String::new(), 0);
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '`' => {
                let fence = run(i);
                let mut end = i + fence;
                while end < chars.len() && (chars[end] != '`' || run(end) != fence) {
                    end += if chars[end] == '`' { run(end) } else { 1 };
                }
                i = if end < chars.len() { end + fence } else { i + fence };
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

#[test]
fn the_terminal_obeys_nobody_but_us() {
    for (name, analysis) in all() {
        let plain = report::terminal(&analysis, false);
        assert!(plain.chars().all(|c| c == '\n' || !c.is_control()), "{name}: {plain:?}");
        assert!(plain.lines().all(|l| l.chars().count() <= 110), "{name}: {plain}");
        // One screen of the smallest terminal.
        assert!(plain.lines().count() <= 24, "{name}: {plain}");
        let mut coloured = report::terminal(&analysis, true);
        for ours in
            ["\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m", "\u{1b}[1;31m", "\u{1b}[1;32m", "\u{1b}[1;33m", "\u{1b}[1;34m"]
        {
            coloured = coloured.replace(ours, "");
        }
        assert_eq!(coloured, plain, "{name}");
    }
}

#[test]
fn json_is_the_analysis_and_safe_to_print() {
    for (name, analysis) in all() {
        let text = report::render_json(&analysis).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed, serde_json::to_value(&analysis).unwrap(), "{name}");
        assert_eq!(parsed["report_version"], 1, "{name}");
        assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{name}");
    }
    let text = report::render_json(&fixtures::hostile()).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed["capture"]["name"], HOSTILE, "a name survives as it was");
}

#[test]
fn the_same_analysis_gives_the_same_bytes() {
    for (name, analysis) in all() {
        assert_eq!(report::render_html(&analysis).unwrap(), report::render_html(&analysis).unwrap(), "{name}");
    }
}

#[test]
fn a_huge_flame_graph_is_pruned_until_the_page_fits_and_the_page_says_so() {
    let mut analysis = fixtures::first_touch();
    let folded: Vec<(String, u64)> =
        (0..60_000).map(|i| (format!("main.main;f{};g{};h{i}", i % 17, i % 401), 1 + i % 7)).collect();
    let total = folded.iter().map(|f| f.1).sum();
    analysis.facts.flame_graphs = (0..3)
        .map(|i| FlameGraph {
            id: format!("g{i}"),
            title: "Faults".into(),
            unit: "faults".into(),
            folded: folded.clone(),
            total,
            top: Vec::new(),
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let html = |limit: usize| {
        let files = report::write(&analysis, dir.path(), &ReportOptions { max_html_bytes: limit }).unwrap();
        std::fs::read_to_string(&files[0]).unwrap()
    };
    let normal = html(8 << 20);
    assert!(normal.len() < 3 << 20, "{} bytes", normal.len());
    assert!(normal.contains("pruned ") && normal.contains("% of weight"));
    let small = html(600_000);
    assert!(small.len() <= 600_000, "{} bytes", small.len());
    assert!(small.contains("% of weight"));
    let tiny = html(1);
    assert!(tiny.contains("Left out to keep this page small") && !tiny.contains("<iframe"));
    let svg = std::fs::metadata(dir.path().join("g0.svg")).unwrap().len();
    assert!(svg < 8 << 20, "{svg} bytes");
}

#[test]
fn files_land_in_the_folder_whatever_they_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report");
    let files = report::write(&fixtures::hostile(), &out, &ReportOptions::default()).unwrap();
    let names: Vec<String> = files.iter().map(|f| f.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names[..3], ["report.html", "report.md", "report.json"]);
    assert_eq!(names.len(), 6);
    for (file, name) in files.iter().zip(&names) {
        assert_eq!(file.parent().unwrap(), out);
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{name}");
        assert!(std::fs::metadata(file).unwrap().len() > 100, "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing outside the folder");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 6, "no temporary file is left");
    let links = report::render_markdown(&fixtures::hostile());
    assert!(names[3..].iter().all(|svg| links.contains(&format!("]({svg})"))), "{links}");
}
