//! report.html in a real browser: what the parser makes of it, and whether anything is blocked or fails.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use mtrace_analyzer::report::{self, ReportOptions};

/// A browser on this machine. Without one the test says so where it cannot be overlooked: the harness captures
/// `eprintln!`, but not the stream itself.
fn chromium() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()));
    if found.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no chromium on this machine, report.html was not opened in a browser"
        );
    }
    found
}

/// The document as the browser sees it, and its console.
fn open(browser: &str, file: &Path) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let console = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|l| l.contains("CONSOLE"))
        .collect::<Vec<_>>()
        .join("\n");
    (dom, console)
}

#[test]
fn a_real_browser_shows_the_verdict_and_complains_about_nothing() {
    let Some(browser) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control.html");
    std::fs::write(
        &control,
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><script>document.title = 'ran'</script>",
    )
    .unwrap();
    let (dom, console) = open(browser, &control);
    assert!(
        dom.contains("<script") && console.contains("Content Security Policy"),
        "a violation would be seen: {console}"
    );

    for (name, analysis) in super::all() {
        let out = dir.path().join(name);
        let files = report::write(&analysis, &out, &ReportOptions::default()).unwrap();
        let (dom, console) = open(browser, &files[0]);
        assert_eq!(console, "", "{name}");
        for id in
            ["verdict", "ledger", "timeline", "findings", "flame-graphs", "address-space", "gc", "faults", "trust"]
        {
            assert!(dom.contains(&format!("<section id=\"{id}\"")), "{name}: {id}");
        }
        assert!(!dom.contains("<script"), "{name}: a name became a script");
        assert_eq!(dom.matches("<style>").count(), 1, "{name}: a name became a style");
        if name != "hostile" {
            let last_words = analysis.verdict.sentence.rsplit('`').next().unwrap();
            let last_words = last_words.split(": ").last().unwrap();
            assert!(dom.contains(last_words), "{name}: {last_words}");
        }
    }
}
