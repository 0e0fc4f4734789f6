//! Captures recorded for real, each with what the analysis must say about it: causes and their controls.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use mtrace_analyzer::context::JoinOptions;
use mtrace_analyzer::model::{Analysis, Finding};
use mtrace_formats::capture::Capture;
use serde_json::Value;

fn captures() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/captures");
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "tar"))
        .collect();
    found.sort();
    assert!(found.len() >= 17, "captures are missing; run scripts/record-incidents");
    found
}

fn analyze(path: &Path) -> Analysis {
    mtrace_analyzer::analyze(&Capture::open(path).unwrap(), &JoinOptions::default(), &mut |_| {})
}

fn function(finding: &Finding) -> &str {
    finding.location.as_ref().map_or("", |l| l.function.as_str())
}

/// What of the expectation does not hold.
fn complaints(a: &Analysis, expected: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let text = |key: &str| expected[key].as_str();
    let kind = serde_json::to_value(a.verdict.kind).unwrap();
    if text("kind").is_some_and(|k| kind != k) {
        out.push(format!("verdict {kind}: {}", a.verdict.sentence));
    }
    if text("sentence").is_some_and(|s| !a.verdict.sentence.contains(s)) {
        out.push(format!("says: {}", a.verdict.sentence));
    }
    let main = a.facts.ledgers.first().map(|l| &l.window);
    if text("window").is_some_and(|name| main.is_none_or(|w| w.name != name)) {
        out.push(format!("looks at {main:?}"));
    }
    let request = main.and_then(|w| w.request.as_ref());
    for (key, found) in [("request", request.map(|r| r.number)), ("of", request.map(|r| r.of))] {
        if expected[key].as_u64().is_some_and(|n| found != Some(n)) {
            out.push(format!("{key} {found:?}"));
        }
    }
    if text("finding").is_some() && a.verdict.finding.as_deref() != text("finding") {
        out.push(format!("headline {:?}", a.verdict.finding));
    }
    let code = text("finding").or(text("present"));
    let of_code: Vec<&Finding> = a.findings.iter().filter(|f| Some(f.code.as_str()) == code).collect();
    if code.is_some() && of_code.is_empty() {
        out.push(format!("no {code:?} among {:?}", a.findings.iter().map(|f| &f.code).collect::<Vec<_>>()));
    }
    let accused: Vec<&str> = of_code.iter().map(|f| function(f)).collect();
    if let Some(name) =
        text("function").filter(|name| !accused.is_empty() && !accused.iter().any(|f| f.ends_with(name)))
    {
        out.push(format!("{name} is not accused, but {accused:?}"));
    }
    if text("claim").is_some_and(|c| !of_code.iter().any(|f| f.claim.contains(c))) {
        out.push(format!("claims {:?}", of_code.iter().map(|f| &f.claim).collect::<Vec<_>>()));
    }
    if text("absent").is_some_and(|code| a.findings.iter().any(|f| f.code == code)) {
        out.push(format!("accused: {:?}", a.findings.iter().map(|f| &f.claim).collect::<Vec<_>>()));
    }
    if text("not_accused").is_some_and(|name| a.findings.iter().any(|f| function(f).ends_with(name))) {
        out.push(format!("accused: {:?}", a.findings.iter().map(|f| &f.claim).collect::<Vec<_>>()));
    }
    out
}

#[test]
fn every_capture_gets_its_verdict() {
    let mut wrong = Vec::new();
    for path in captures() {
        let expected: Value = serde_json::from_str(&fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
        let analysis = analyze(&path);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        wrong.extend(complaints(&analysis, &expected).into_iter().map(|c| format!("{name}: {c}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_replay_equals_the_kernels_map() {
    for path in captures() {
        for c in analyze(&path).facts.trust.replay {
            assert!(c.equal, "{}: {c:?}", path.display());
        }
    }
}

#[test]
fn every_ledger_sums_to_its_window() {
    for path in captures() {
        for l in analyze(&path).facts.ledgers {
            let sum: i64 = l.rows.iter().map(|r| r.wall_ns).sum();
            assert_eq!(sum, l.total_ns(), "{}: {}", path.display(), l.window.name);
        }
    }
}

#[test]
fn the_same_capture_gives_the_same_bytes() {
    let path = &captures()[0];
    let page = |a: &Analysis| mtrace_analyzer::report::render_html(a).unwrap();
    assert_eq!(page(&analyze(path)), page(&analyze(path)));
}

#[test]
fn captures_are_small() {
    for path in captures() {
        assert!(fs::metadata(&path).unwrap().len() < 1_000_000, "{}", path.display());
    }
}

#[test]
fn the_rule_reference_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md");
    let is = fs::read_to_string(&file).unwrap_or_default();
    let expected = format!("{}\n", mtrace_analyzer::rules::reference_markdown().trim_end());
    assert!(is == expected, "docs/rules.md is stale: cargo run -p mtrace -- rules > docs/rules.md");
}
