//! Recordings of language runtimes against what these say themselves: Go's metrics, the JVM's log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod record_support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mtrace_formats::capture::ProbeStatus;
use mtrace_formats::tables::{
    GcEvent, GcEventKind, GoMemory, GoMemoryKind, JvmEvent, JvmEventKind, OffCpu, RuntimeSetting, SettingState,
};
use record_support::{Recording, bpf_works, go_compilers, record_command, works};

fn services() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/services")
}

fn build_gomemory(go: &Path, dir: &Path, flags: &[&str]) -> PathBuf {
    let program = dir.join("gomemory");
    let status = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .args(flags)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOCACHE", dir.join("cache"))
        .current_dir(services().join("gomemory"))
        .status()
        .unwrap();
    assert!(status.success());
    program
}

fn status_of(r: &Recording, probe: &str) -> ProbeStatus {
    let report = r.capture.manifest.probes.iter().find(|p| p.name == probe).unwrap();
    eprintln!("{probe}: {report:?}");
    report.status
}

/// How long the threads of the rows were off the CPU within them.
fn without_cpu<'a>(r: &Recording, rows: impl Iterator<Item = &'a GoMemory>) -> i64 {
    let mut by_thread: BTreeMap<u32, Vec<OffCpu>> = BTreeMap::new();
    r.rows::<OffCpu>().into_iter().for_each(|o| by_thread.entry(o.tid).or_default().push(o));
    let common = |e: &GoMemory, o: &OffCpu| ((o.ts + o.dur).min(e.ts + e.dur.unwrap_or(0)) - o.ts.max(e.ts)).max(0);
    rows.map(|e| by_thread.get(&e.tid).into_iter().flatten().map(|o| common(e, o)).sum::<i64>()).sum()
}

fn check_go(r: &Recording) {
    r.assert_nothing_lost();
    let said = &r.said[0];
    let number = |key: &str| said[key].as_u64().unwrap();
    assert_eq!(status_of(r, "go_memory"), ProbeStatus::Ran);
    assert_eq!(status_of(r, "jvm_events"), ProbeStatus::NotApplicable);
    let rows = r.rows::<GoMemory>();
    let of = |kind| rows.iter().filter(move |e| e.event == kind);
    assert!(rows.iter().all(|e| e.stack_id.is_some()), "a row without a stack");
    assert!(!r.account("go_memory").incomplete.contains_key("no_start"), "{:?}", r.account("go_memory"));

    let grown: u64 = of(GoMemoryKind::HeapGrowth).filter_map(|e| e.bytes).sum();
    assert_eq!(grown, number("heap_mapped_bytes"), "bytes that the heap took into use");

    // Every one of our intervals encloses the runtime's own, and ends a few instructions later.
    let ignored = r.account("go_memory").ignored.get("below_minimum_ns").copied().unwrap_or(0);
    let assists: i64 = of(GoMemoryKind::MarkAssist).filter_map(|e| e.dur).sum();
    let (ours, theirs) = ((assists as u64 + ignored) as f64 / 1e9, said["assist_seconds"].as_f64().unwrap());
    assert!(theirs > 0.0 && ours >= theirs, "{ours} s of assists, the runtime says {theirs}");
    // But a thread may lose its CPU at a probe.
    let on_cpu = ours - without_cpu(r, of(GoMemoryKind::MarkAssist)) as f64 / 1e9;
    assert!(on_cpu < 1.25 * theirs + 0.05, "{on_cpu} s of assists on a CPU, the runtime says {theirs}");
    let stacks = r.stacks();
    let allocates = |e: &&GoMemory| stacks[&e.stack_id.unwrap()].iter().any(|f| f == "main.buildList");
    let blamed = of(GoMemoryKind::MarkAssist).filter(allocates).count();
    assert!(blamed * 10 >= of(GoMemoryKind::MarkAssist).count() * 9, "{blamed} of the assists in main.buildList");

    let settings: Vec<_> = rows.iter().filter(|e| e.dur.is_none()).map(|e| (e.event, e.percent, e.bytes)).collect();
    let expected = [
        (GoMemoryKind::SetGcPercent, Some(50), None),
        (GoMemoryKind::SetMemoryLimit, None, Some(8 << 30)),
        (GoMemoryKind::SetMemoryLimit, None, Some(u64::MAX)),
    ];
    assert_eq!(settings, expected);

    // From the question on: what the program itself allocates in between takes a few spans of what was given back.
    let asked = of(GoMemoryKind::SetMemoryLimit).next_back().unwrap().ts;
    let scavenged: u64 = of(GoMemoryKind::Scavenge).filter(|e| e.ts > asked).filter_map(|e| e.bytes).sum();
    let spans = 256 << 10;
    let given_back = number("scavenged_bytes");
    assert!(given_back > 16 << 20 && scavenged.abs_diff(given_back) <= spans, "{scavenged}, not {given_back}");

    let cycles = r.rows::<GcEvent>().iter().filter(|e| e.event == GcEventKind::CycleStart).count();
    assert_eq!(cycles as u64, number("gc_cycles"));
}

fn check_settings(r: &Recording) {
    let found: BTreeMap<_, _> =
        r.rows::<RuntimeSetting>().into_iter().map(|s| (s.key, (s.state, s.value, s.version))).collect();
    let version = |s: &(SettingState, Option<String>, Option<String>)| s.2.clone().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["GODEBUG", "GOGC", "GOMEMLIMIT"], "and nothing else");
    assert_eq!((found["GOGC"].0, found["GOGC"].1.as_deref()), (SettingState::Set, Some("77")));
    assert_eq!((found["GODEBUG"].0, found["GODEBUG"].1.as_deref()), (SettingState::Set, Some("madvdontneed=1")));
    assert_eq!((found["GOMEMLIMIT"].0, found["GOMEMLIMIT"].1.as_deref()), (SettingState::NotSet, None));
    assert!(found.values().all(|s| version(s).starts_with("go1.")), "{found:?}");
}

#[test]
fn go_s_memory_management_agrees_with_its_own_metrics() {
    if !bpf_works() {
        return;
    }
    for go in go_compilers() {
        let dir = tempfile::tempdir().unwrap();
        for flags in [&[][..], &["-ldflags=-s -w"]] {
            let program = build_gomemory(&go, dir.path(), flags);
            eprintln!("{} {flags:?}", go.display());
            let environment = ["GOGC=77", "GODEBUG=madvdontneed=1", "PASSWORD=GOMEMLIMIT=1", program.to_str().unwrap()];
            let r = record_command(Path::new("env"), &environment, |_| {});
            check_go(&r);
            check_settings(&r);
        }
    }
}

/// What HotSpot's log says: safepoints, and collections by their kind.
fn log_counts(log: &str) -> (usize, usize, usize) {
    let pauses = |kind: &str| log.lines().filter(|l| l.contains("GC(") && l.contains(kind)).count();
    (log.lines().filter(|l| l.contains("Safepoint \"")).count(), pauses("Pause Young"), pauses("Pause Full"))
}

fn check_jvm(collector: &str, young: &str, old: &str) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let options = [
        "-Xmx64m".to_owned(),
        format!("-XX:+Use{collector}"),
        format!("-Xlog:gc,safepoint:file={}", log.path().display()),
        services().join("AllocServer.java").to_str().unwrap().to_owned(),
        "0".to_owned(),
        "2000".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let r = record_command(Path::new("java"), &options, |_| {});
    assert_eq!(r.summary.exit_status, Some(0));
    r.assert_nothing_lost();
    assert!(r.summary.problems.is_empty(), "{:?}", r.summary.problems);
    assert_eq!(status_of(&r, "jvm_events"), ProbeStatus::Ran);
    assert_eq!(status_of(&r, "go_memory"), ProbeStatus::NotApplicable);

    let (safepoints, young_pauses, full_pauses) = log_counts(&std::fs::read_to_string(log.path()).unwrap());
    let rows = r.rows::<JvmEvent>();
    let of = |kind| rows.iter().filter(move |e: &&JvmEvent| e.event == kind);
    assert_eq!(of(JvmEventKind::Safepoint).count(), safepoints, "{collector}: safepoints");
    // Each collection reports every pool once; the code cache is there with all collectors.
    let metaspace = |manager: &str| {
        let of_manager = of(JvmEventKind::Pool).filter(|e| e.name.as_deref() == Some(manager));
        of_manager.filter(|e| e.pool.as_deref() == Some("Metaspace")).count()
    };
    assert!(young_pauses > 0 && full_pauses > 0, "{collector}: {young_pauses} and {full_pauses}");
    assert_eq!((metaspace(young), metaspace(old)), (young_pauses, full_pauses), "{collector}");
    assert!(of(JvmEventKind::Gc).all(|e| e.dur.is_some_and(|d| d > 0)));
    assert!(of(JvmEventKind::VmOperation).all(|e| e.name.is_some()));
    let freed: i64 = of(JvmEventKind::Pool)
        .filter(|e| e.pool.as_deref().is_some_and(|p| p.contains("Eden")))
        .map(|e| e.used_before_bytes.unwrap() as i64 - e.used_after_bytes.unwrap() as i64)
        .sum();
    assert!(freed > 64 << 20, "{collector}: {freed} bytes freed in eden");
    let settings = r.rows::<RuntimeSetting>();
    assert!(settings[0].value.as_deref().is_some_and(|l| l.ends_with("/libjvm.so")), "{settings:?}");
    assert_eq!((settings.len(), settings[0].key.as_str()), (1, "libjvm"));
    assert!(settings[0].version.is_some(), "{settings:?}");
}

#[test]
fn the_jvm_s_collections_and_safepoints_agree_with_its_own_log() {
    if !bpf_works() {
        return;
    }
    if !works(Path::new("javac"), "-version") {
        assert!(std::env::var_os("MTRACE_REQUIRE_JAVA").is_none(), "no JDK");
        eprintln!("skipped: there is no JDK (java and javac) in PATH");
        return;
    }
    check_jvm("G1GC", "G1 Young Generation", "G1 Old Generation");
    check_jvm("SerialGC", "Copy", "MarkSweepCompact");
    check_jvm("ParallelGC", "PS Scavenge", "PS MarkSweep");
}
