//! What the recording tests share: programs, a recording of one, and the honest skip.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtrace_formats::capture::{Account, Capture, State};
use mtrace_formats::table::Row;
use mtrace_formats::tables::{Fault, FaultRun, Frame, LossReason, SymbolRow};
use mtrace_recorder::host::HostFacts;
use mtrace_recorder::{Options, Summary, TargetSpec, record};

/// True if the program runs with this argument.
pub(crate) fn works(program: &Path, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|o| o.status.success())
}

/// The Go compilers of `MTRACE_TEST_GO`, else that of `PATH`.
pub(crate) fn go_compilers() -> Vec<PathBuf> {
    let named = std::env::var_os("MTRACE_TEST_GO").map(|list| std::env::split_paths(&list).collect());
    let all: Vec<PathBuf> = named.unwrap_or_else(|| vec!["go".into()]);
    let found: Vec<PathBuf> = all.into_iter().filter(|go| works(go, "version")).collect();
    if found.is_empty() {
        assert!(std::env::var_os("MTRACE_REQUIRE_GO").is_none(), "no Go compiler");
        eprintln!("skipped: no Go compiler: set MTRACE_TEST_GO, or put go on PATH");
    }
    found
}

/// True if BPF works here; says loudly if it does not. `MTRACE_REQUIRE_BPF=1` makes that a failure.
pub(crate) fn bpf_works() -> bool {
    let facts = HostFacts::gather();
    let refused = match facts.bpf_map {
        t if t.works() => return true,
        other => format!("{other:?}, uid {}", facts.uid),
    };
    assert!(std::env::var_os("MTRACE_REQUIRE_BPF").is_none(), "BPF refused: {refused}");
    eprintln!("skipped: BPF refused: {refused}");
    false
}

/// Compiles a C program of this folder or of testdata/services, with frame pointers.
pub(crate) fn compile(source: &str, dir: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("tests/record_support").join(source);
    let source = if own.exists() { own } else { root.join("../../testdata/services").join(source) };
    let program = dir.join(source.file_stem().unwrap());
    let status = Command::new("cc")
        .args(["-O1", "-g", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "failed to compile {}", source.display());
    program
}

/// All faults of a capture, one by one: those of a run at equal distances in time, each with the mean service time.
pub(crate) fn faults_of(capture: &Capture) -> Vec<Fault> {
    let (mut faults, skipped) = capture.read::<Fault>();
    let (runs, skipped_runs) = capture.read::<FaultRun>();
    assert!(skipped.is_empty() && skipped_runs.is_empty(), "{skipped:?} {skipped_runs:?}");
    for run in runs {
        assert_eq!(run.histogram().iter().map(|n| u64::from(*n)).sum::<u64>(), run.count, "{run:?}");
        assert!(run.count >= 2 && run.dur_min <= run.dur_max && run.dur_sum <= run.span, "{run:?}");
        let (n, pages) = (run.count as i64, i64::from(run.stride_pages));
        faults.extend((0..n).map(|i| Fault {
            ts: run.ts + run.span * i / n,
            dur: Some(run.dur_sum / n),
            pid: run.pid,
            tid: run.tid,
            addr: run.addr.wrapping_add_signed(pages * i * 4096),
            ip: run.ip,
            error_code: Some(run.error_code),
            kind: run.kind,
            stack_id: run.stack_id,
            weight: run.weight,
        }));
    }
    faults.sort_by_key(|f| f.ts);
    faults
}

/// A finished recording.
pub(crate) struct Recording {
    pub(crate) summary: Summary,
    pub(crate) capture: Capture,
    /// What the program printed, line by line.
    pub(crate) said: Vec<serde_json::Value>,
    pub(crate) dir: tempfile::TempDir,
}

impl Recording {
    pub(crate) fn rows<R: Row>(&self) -> Vec<R> {
        let (rows, skipped) = self.capture.read::<R>();
        assert!(skipped.is_empty(), "{skipped:?}");
        rows
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        faults_of(&self.capture)
    }

    /// The functions of each stack, innermost first, inlined ones included.
    pub(crate) fn stacks(&self) -> BTreeMap<u32, Vec<String>> {
        let mut by_place: BTreeMap<(u32, u32, u32), String> = BTreeMap::new();
        for s in self.rows::<SymbolRow>() {
            let name = s.function.unwrap_or_else(|| "?".to_owned());
            by_place.insert((s.stack_id, s.depth, s.inline_depth), name);
        }
        let mut stacks: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for ((stack, _, _), name) in by_place {
            stacks.entry(stack).or_default().push(name);
        }
        let frames: std::collections::BTreeSet<u32> = self.rows::<Frame>().iter().map(|f| f.stack_id).collect();
        assert!(stacks.keys().all(|id| frames.contains(id)), "a symbol without a frame");
        assert_eq!(frames.len(), stacks.len(), "a stack without symbols");
        stacks
    }

    pub(crate) fn account(&self, probe: &str) -> &Account {
        self.capture.manifest.accounts.iter().find(|a| a.probe == probe).expect(probe)
    }

    /// Every event is a row or a counted loss, and what the manifest says is what the tables hold.
    pub(crate) fn assert_accounts_balance(&self) {
        use mtrace_formats::tables as t;
        assert_eq!(self.capture.manifest.state, State::Complete);
        let mut held: BTreeMap<&str, u64> = BTreeMap::new();
        for s in &self.capture.manifest.segments {
            *held.entry(s.table.as_str()).or_default() += s.rows;
        }
        assert_eq!(held.get("faults").copied().unwrap_or(0), self.rows::<t::Fault>().len() as u64);
        *held.entry("faults").or_default() += self.rows::<t::FaultRun>().iter().map(|r| r.count).sum::<u64>();
        assert_eq!(held.get("memory_calls").copied().unwrap_or(0), self.rows::<t::MemoryCall>().len() as u64);
        let losses = self.rows::<t::Loss>();
        for a in &self.capture.manifest.accounts {
            let lost: u64 = a.lost.values().sum();
            assert_eq!(a.seen, a.written + lost, "{a:?}");
            assert_eq!(a.written, held.get(a.table.as_str()).copied().unwrap_or(0), "{a:?}");
            for (reason, count) in a.lost.iter().chain(&a.incomplete) {
                let reason = LossReason::from_name(reason).unwrap();
                let rows = losses.iter().filter(|l| l.probe == a.probe && l.reason == reason);
                assert_eq!(rows.map(|l| l.count).sum::<u64>(), *count, "{a:?}");
            }
        }
    }

    pub(crate) fn assert_nothing_lost(&self) {
        self.assert_accounts_balance();
        for a in &self.capture.manifest.accounts {
            assert!(a.lost.is_empty(), "{a:?}");
        }
    }
}

/// Records a command whose standard output goes to a file.
pub(crate) fn record_command(program: &Path, args: &[&str], tweak: impl FnOnce(&mut Options)) -> Recording {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut argv: Vec<OsString> = vec!["sh".into(), "-c".into()];
    argv.push(format!("exec \"$0\" \"$@\" > '{}' < /dev/null", out.display()).into());
    argv.push(program.into());
    argv.extend(args.iter().map(OsString::from));
    let mut options = Options::new(TargetSpec::Launch { argv }, dir.path().join("test.mtrace"));
    options.duration = Some(Duration::from_secs(120));
    tweak(&mut options);
    let summary = record(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    let said = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let capture = Capture::open(&options.output).unwrap();
    assert!(capture.problems.is_empty(), "{:?}", capture.problems);
    Recording { summary, capture, said, dir }
}
