//! What the end-to-end tests share: the built services, a live recording, an analysis.
#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The command under test.
pub(crate) const MTRACE: &str = env!("CARGO_BIN_EXE_mtrace");

/// A built service, or `None` with a loud reason.
pub(crate) fn service(name: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("MTRACE_SERVICES") else {
        eprintln!("skipped: MTRACE_SERVICES is not set; scripts/test builds the services and sets it");
        return None;
    };
    let path = PathBuf::from(dir).join(name);
    assert!(path.exists(), "{} is missing; run scripts/lib/build-services.sh", path.display());
    Some(path)
}

/// True if this host lets us record; says loudly why not.
pub(crate) fn can_record() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let out = mtrace(&["record", "-o", dir.path().join("probe.mtrace").to_str().unwrap(), "--", "/bin/true"]);
    // Exit code 4: this host or user cannot record. Anything else is a matter for the tests.
    if out.status.code() == Some(4) {
        eprintln!("skipped: BPF refused: {}", String::from_utf8_lossy(&out.stderr));
        return false;
    }
    true
}

/// Runs mtrace to its end.
pub(crate) fn mtrace(args: &[&str]) -> Output {
    Command::new(MTRACE).args(args).stdin(Stdio::null()).output().unwrap()
}

/// A recording of a launched command in the background.
pub(crate) struct Recording {
    pub(crate) capture: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) stdout: PathBuf,
    child: Child,
}

impl Recording {
    /// `mtrace record [options] -- argv`.
    pub(crate) fn launch(dir: &Path, options: &[&str], argv: &[&str], env: &[(&str, &str)]) -> Self {
        let mut args = options.to_vec();
        args.push("--");
        args.extend(argv);
        Self::start(dir, &args, env, Stdio::null())
    }

    /// `mtrace record [args]`.
    pub(crate) fn start(dir: &Path, args: &[&str], env: &[(&str, &str)], stdin: Stdio) -> Self {
        let (capture, log, stdout) = (dir.join("a.mtrace"), dir.join("stderr"), dir.join("stdout"));
        let child = Command::new(MTRACE)
            .args(["record", "-o"])
            .arg(&capture)
            .args(args)
            .envs(env.iter().copied())
            .stdin(stdin)
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { capture, log, stdout, child }
    }

    pub(crate) fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the recorder.
    pub(crate) fn signal(&self, name: &str) {
        let ok = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(ok.success());
    }

    /// Waits for the recorder; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Waits until a line with `needle` is in the target's output.
    pub(crate) fn wait_for(&mut self, needle: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text = fs::read_to_string(&self.stdout).unwrap();
            if let Some(line) = text.lines().find(|l| l.contains(needle)) {
                return line.to_owned();
            }
            let log = fs::read_to_string(&self.log).unwrap();
            assert!(self.child.try_wait().unwrap().is_none(), "the recorder ended early: {log}");
            assert!(Instant::now() < end, "`{needle}` did not come; recorder: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Analyses a capture; report.json.
pub(crate) fn analyze(capture: &Path, report: &Path) -> Value {
    let out = mtrace(&["analyze", capture.to_str().unwrap(), "-o", report.to_str().unwrap()]);
    assert!(
        matches!(out.status.code(), Some(0 | 5)),
        "analyze: {:?}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_str(&fs::read_to_string(report.join("report.json")).unwrap()).unwrap()
}

/// The capture's manifest.
pub(crate) fn manifest(capture: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(capture.join("manifest.json")).unwrap()).unwrap()
}

/// Asserts that every probe's account balances, and that nothing was lost.
pub(crate) fn assert_exact(manifest: &Value) {
    for a in manifest["accounts"].as_array().unwrap() {
        let lost: u64 = a["lost"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
        let (seen, written) = (a["seen"].as_u64().unwrap(), a["written"].as_u64().unwrap());
        assert_eq!(seen, written + lost, "{a}");
        assert_eq!(lost, 0, "{a}");
    }
}

/// The account of one probe.
pub(crate) fn written(manifest: &Value, probe: &str) -> u64 {
    let accounts = manifest["accounts"].as_array().unwrap();
    accounts.iter().find(|a| a["probe"] == probe).unwrap()["written"].as_u64().unwrap()
}
