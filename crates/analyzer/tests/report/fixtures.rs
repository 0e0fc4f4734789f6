//! Analyses as real incidents produce them, built by code: the report is tested without a capture.

use mtrace_analyzer::model::*;

const MS: i64 = 1_000_000;
const US: i64 = 1_000;
const MIB: u64 = 1 << 20;
/// Begin of all captures, CLOCK_MONOTONIC.
const T0: i64 = 5_000_000_000_000;
/// Begin of the first request.
const REQUEST: i64 = T0 + 1_240 * MS;

pub(crate) fn location(function: &str, file: &str, line: u32) -> CodeLocation {
    CodeLocation {
        function: function.into(),
        file: Some(file.into()),
        line: Some(line),
        module: Some("/srv/shop/bin/shop".into()),
    }
}

fn frame(function: &str, file: &str, line: u32) -> StackFrame {
    StackFrame { function: function.into(), file: Some(file.into()), line: Some(line), inlined: false }
}

fn fill() -> CodeLocation {
    location("github.com/acme/shop/internal/cache.(*Store).Fill", "/srv/shop/internal/cache/store.go", 88)
}

fn fill_stack() -> Vec<StackFrame> {
    vec![
        StackFrame {
            function: "github.com/acme/shop/internal/cache.(*page).reset".into(),
            file: Some("/srv/shop/internal/cache/page.go".into()),
            line: Some(31),
            inlined: true,
        },
        frame("github.com/acme/shop/internal/cache.(*Store).Fill", "/srv/shop/internal/cache/store.go", 88),
        frame("github.com/acme/shop/internal/cache.(*Store).Get", "/srv/shop/internal/cache/store.go", 141),
        frame("main.(*server).handleCatalog", "/srv/shop/main.go", 203),
        frame("net/http.HandlerFunc.ServeHTTP", "/usr/local/go/src/net/http/server.go", 2322),
        frame("net/http.(*conn).serve", "/usr/local/go/src/net/http/server.go", 2102),
        frame("runtime.goexit", "/usr/local/go/src/runtime/asm_amd64.s", 1693),
    ]
}

fn open_stack() -> Vec<StackFrame> {
    vec![
        frame("syscall.mmap", "/usr/local/go/src/syscall/zsyscall_linux_amd64.go", 1675),
        frame("github.com/acme/shop/internal/cache.Open", "/srv/shop/internal/cache/store.go", 52),
        frame("main.main", "/srv/shop/main.go", 61),
        frame("runtime.main", "/usr/local/go/src/runtime/proc.go", 285),
    ]
}

fn capture(name: &str) -> CaptureFacts {
    CaptureFacts {
        name: name.into(),
        start_ns: T0,
        end_ns: T0 + 3_200 * MS,
        start_realtime_ns: Some(1_795_453_512_000_000_000),
        complete: true,
        trigger: None,
        kernel_release: "6.12.57+deb13-amd64".into(),
        arch: "x86_64".into(),
        cpus: Some(4),
        memory_bytes: Some(16 << 30),
        thp_enabled: Some("madvise".into()),
        processes: vec![ProcessFact {
            pid: 4711,
            ns_pid: Some(1),
            cgroup: Some("/kubepods.slice/kubepods-pod4ab2.slice/cri-containerd-3f4e9a0c.scope".into()),
            comm: Some("shop".into()),
            exe: Some("/srv/shop/bin/shop".into()),
            go_version: Some("go1.25.4".into()),
            threads: 11,
            faults: 58_114,
            memory_calls: 412,
            how: "launched".into(),
            exit_status: Some(0),
        }],
        rows: vec![("faults".into(), 58_114), ("memory_calls".into(), 412), ("gc_events".into(), 36)],
    }
}

fn trust() -> Trust {
    Trust {
        replay: vec![
            ReplayCertificate {
                pid: 4711,
                ts: T0 + 2 * MS,
                snapshot: "exec".into(),
                snapshot_bytes: 1_260 * MIB,
                agreeing_bytes: 1_260 * MIB,
                equal: true,
                differences: Vec::new(),
            },
            ReplayCertificate {
                pid: 4711,
                ts: T0 + 3_199 * MS,
                snapshot: "end".into(),
                snapshot_bytes: 1_545 * MIB,
                agreeing_bytes: 1_545 * MIB,
                equal: true,
                differences: Vec::new(),
            },
        ],
        probes: vec![
            probe("faults", "ran", "tp_btf + perf software events"),
            probe("memory_calls", "ran", "tracepoint"),
            probe("go_gc", "ran", "uprobe"),
            probe("process", "ran", "raw_tp"),
            probe("samples", "ran", "100 ms"),
        ],
        accounts: vec![
            ("faults".into(), 58_114, 58_114, 0),
            ("memory_calls".into(), 412, 412, 0),
            ("go_gc".into(), 36, 36, 0),
        ],
        not_checked: vec!["direct reclaim and compaction: their tracepoints are not recorded by this version".into()],
        recorder_cpu_ns: Some(118_000_000),
        recorder_rss_bytes: Some(41 * MIB),
        frames_named: (18_804, 18_811),
        faults_charged: (58_114, 58_114),
        faults_timed: (58_114, 58_114),
        clock_settings: Vec::new(),
        clock_error_ns: Some(140),
        ..Trust::default()
    }
}

fn probe(name: &str, status: &str, variant: &str) -> ProbeFact {
    ProbeFact { name: name.into(), status: status.into(), variant: Some(variant.into()), reason: None, hides: None }
}

fn row(category: LedgerCategory, wall_ns: i64, count: Option<u64>, top: Option<&str>) -> LedgerRow {
    LedgerRow { category, wall_ns, count, top: top.map(Into::into) }
}

fn ledger(name: &str, start: i64, rows: Vec<LedgerRow>) -> Ledger {
    let total: i64 = rows.iter().map(|r| r.wall_ns).sum();
    Ledger {
        window: LedgerWindow {
            name: name.into(),
            start_ns: start,
            end_ns: start + total,
            begins_with: "the first byte of the request was read".into(),
            ends_with: "the first byte of the response was written".into(),
            assumptions: Vec::new(),
            request: None,
        },
        pid: 4711,
        path_measured_ns: None,
        critical_threads: vec![(4715, start, start + 40 * MS), (4718, start + 40 * MS, start + total)],
        rows,
    }
}

fn requests() -> RequestTable {
    let slow = |number: u64, start: i64, took: i64, answered| SlowRequest {
        number,
        start_ns: start,
        start_realtime_ns: Some(1_795_453_513_240_000_000 + start - REQUEST),
        end_ns: start + took,
        answered,
        tid: 4718,
        largest: vec![
            row(LedgerCategory::Faults, took * 3 / 4, Some(54_301), Some("cache.(*Store).Fill (store.go:88)")),
            row(LedgerCategory::OnCpu, took / 5, None, None),
        ],
    };
    RequestTable {
        pid: 4711,
        answered: 1_204,
        unanswered: 1,
        connections: 8,
        p50_ns: Some(310 * US),
        p90_ns: Some(700 * US),
        p99_ns: Some(1_900 * US),
        max_ns: Some(286 * MS),
        slowest: vec![
            slow(1, REQUEST, 286 * MS, true),
            slow(1_205, REQUEST + 1_900 * MS, 60 * MS, false),
            slow(700, REQUEST + 900 * MS, 2 * MS, true),
        ],
        serves: true,
        unseen: Vec::new(),
    }
}

fn wave(n: i64, step: i64, unit: &str, name: &str, value: impl Fn(i64) -> (f64, f64)) -> Series {
    let points = (0..n)
        .map(|i| {
            let (min, max) = value(i);
            Envelope { ts: T0 + i * step, min, max }
        })
        .collect();
    Series { name: name.into(), unit: unit.into(), points }
}

fn band(kind: &str, label: &str, start_ns: i64, end_ns: i64) -> Band {
    Band { kind: kind.into(), label: label.into(), start_ns, end_ns }
}

fn timeline() -> Timeline {
    // 640 stretches of 5 ms; the request begins in stretch 248 and lasts 57.
    let in_request = |i: i64| (248..305).contains(&i);
    let ramp = |i: i64| ((i - 248).clamp(0, 57) as f64) * 3.75;
    let rss = move |i: i64| (if i < 20 { i as f64 } else { 20.0 } + ramp(i)) * MIB as f64;
    Timeline {
        start_ns: T0,
        end_ns: T0 + 3_200 * MS,
        series: vec![
            wave(640, 5 * MS, "bytes", "RSS", move |i| (rss(i), rss(i) + 0.4 * MIB as f64)),
            wave(640, 5 * MS, "bytes", "mapped", |i| {
                let v = if i < 12 { 1_260.0 } else { 1_545.0 } * MIB as f64;
                (v, v)
            }),
            wave(640, 5 * MS, "faults per ms", "faults", move |i| {
                if in_request(i) {
                    (150.0 + (i % 7) as f64, 260.0 + (i * 37 % 41) as f64)
                } else {
                    (0.0, (i * 31 % 9) as f64)
                }
            }),
            wave(640, 5 * MS, "calls per ms", "memory calls", |i| {
                (0.0, if i < 30 { (i * 7 % 23) as f64 } else { (i % 3) as f64 })
            }),
            wave(32, 100 * MS, "share", "memory pressure (some)", |i| (0.0, if i == 14 { 0.03 } else { 0.0 })),
        ],
        bands: vec![
            band("window", "first request", REQUEST, REQUEST + 286 * MS),
            band("window", "cold start", T0, REQUEST + 286 * MS),
            band("gc", "cycle 1", T0 + 320 * MS, T0 + 331 * MS),
            band("gc", "cycle 2", REQUEST + 140 * MS, REQUEST + 171 * MS),
            band("stw", "sweep termination", REQUEST + 140 * MS, REQUEST + 140 * MS + 90 * US),
            band("stw", "mark termination", REQUEST + 171 * MS, REQUEST + 171 * MS + 120 * US),
        ],
    }
}

fn latency(first_bucket: usize, counts: &[u64], p50: i64, p99: i64, max: i64, sum: i64) -> LatencyHistogram {
    let mut all = vec![0; first_bucket];
    all.extend(counts);
    LatencyHistogram {
        counts: all,
        p50_ns: Some(p50),
        p99_ns: Some(p99),
        max_ns: Some(max),
        sum_ns: sum,
        measured: counts.iter().sum(),
    }
}

fn kind(kind: TouchKind, pages: u64, latency: LatencyHistogram) -> FaultKindTotals {
    FaultKindTotals { pid: 4711, kind, faults: latency.measured, pages, latency }
}

fn address_space() -> AddressSpace {
    let mut counts = vec![0; 47];
    let mut bytes = vec![0; 47];
    for (i, n) in [(12, 41), (13, 17), (14, 9), (16, 12), (20, 6), (21, 2), (25, 3), (26, 1), (29, 1), (39, 1), (46, 1)]
    {
        counts[i] = n;
        bytes[i] = n << i;
    }
    AddressSpace {
        pid: 4711,
        points: (0..60)
            .map(|i| GapPoint {
                ts: T0 + i * 53 * MS,
                largest_bytes: 131 << 40,
                classes: [(3, 132 << 40), (4, 160 * MIB), (87, 9 * MIB)],
                vmas: 61 + (i as u64 * 3 / 4),
                mapped_bytes: 1_260 * MIB + i as u64 * 5 * MIB,
                accessible_bytes: 96 * MIB + i as u64 * 5 * MIB,
            })
            .collect(),
        histogram: GapHistogram { counts, bytes },
        max_vmas: 105,
        max_map_count: Some(65_530),
        owners: vec![
            GrowthByOwner { owner: Some(fill()), calls: 2, mapped_bytes: 256 * MIB, live_bytes: 256 * MIB },
            GrowthByOwner { owner: None, calls: 0, mapped_bytes: 1_180 * MIB, live_bytes: 1_180 * MIB },
        ],
    }
}

fn phase(phase: GcPhase, wall_ns: i64, mmap_calls: u64, faults: u64) -> GcPhaseRow {
    GcPhaseRow {
        pid: 4711,
        phase,
        wall_ns,
        mmap_calls,
        mmap_bytes: mmap_calls * 4 * MIB,
        mmap_mean_bytes: (mmap_calls > 0).then_some(4 * MIB),
        munmap_calls: 0,
        madvise_calls: mmap_calls / 2,
        madvise_bytes: mmap_calls * 8192,
        faults,
        fault_ns: faults as i64 * 3_900,
        top_stacks: match mmap_calls {
            0 => Vec::new(),
            n => vec![StackBytes {
                location: Some(location("main.loadCatalog", "/srv/shop/catalog.go", 77)),
                calls: n,
                bytes: n * 4 * MIB,
                stack: Vec::new(),
            }],
        },
    }
}

fn runtimes() -> Runtimes {
    let setting = |key: &str, value: Option<&str>, set_ns| RuntimeValue {
        key: key.into(),
        value: value.map(Into::into),
        known: true,
        set_ns,
    };
    let work = |what: &str, count, sum_ns, bytes, in_windows| RuntimeWork {
        what: what.into(),
        count,
        sum_ns,
        max_ns: sum_ns / 4,
        bytes,
        who: Some(fill()),
        in_windows,
        stack: fill_stack(),
    };
    let go = RuntimeFacts {
        pid: 4711,
        kind: "go".into(),
        version: Some("go1.25.4".into()),
        settings: vec![
            setting("GOGC", Some("50"), None),
            setting("GOMEMLIMIT", None, None),
            RuntimeValue { known: false, ..setting("GODEBUG", None, None) },
            setting("debug.SetMemoryLimit", Some("1073741824"), Some(T0 + 3 * MS)),
        ],
        settings_complete: true,
        work: vec![
            work("mark assist", 812, 94 * MS, None, vec![("first request".into(), 31 * MS)]),
            work("heap growth", 9, 3 * MS, Some(36 * MIB), Vec::new()),
        ],
    };
    Runtimes { processes: vec![go], short_assists: Some((77, MS)) }
}

fn gc() -> GcTable {
    let cycle = |start: i64, length: i64| GcCycle {
        pid: 4711,
        start_ns: start,
        mark_end_ns: Some(start + length),
        stw: vec![(start, start + 90 * US, Some(2)), (start + length, start + length + 120 * US, Some(1))],
        ..GcCycle::default()
    };
    GcTable {
        cycles: vec![cycle(T0 + 320 * MS, 11 * MS), cycle(REQUEST + 140 * MS, 31 * MS)],
        stw_total_ns: 420 * US,
        stw_max_ns: 120 * US,
        phases: vec![
            phase(GcPhase::Before, 42 * MS, 3, 7_800),
            phase(GcPhase::During, 42 * MS, 4, 8_100),
            phase(GcPhase::After, 42 * MS, 0, 7_700),
            phase(GcPhase::Outside, 3_074 * MS, 9, 34_514),
        ],
        measured: true,
    }
}

fn graph(id: &str, title: &str, unit: &str, folded: &[(&str, u64)]) -> FlameGraph {
    let mut top: Vec<(String, u64)> =
        folded.iter().map(|(s, w)| (s.rsplit(';').next().unwrap_or(s).to_owned(), *w)).collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    FlameGraph {
        id: id.into(),
        title: title.into(),
        unit: unit.into(),
        folded: folded.iter().map(|(s, w)| ((*s).into(), *w)).collect(),
        total: folded.iter().map(|(_, w)| w).sum(),
        top,
    }
}

fn flame_graphs() -> Vec<FlameGraph> {
    const SERVE: &str =
        "runtime.goexit;net/http.(*conn).serve;net/http.HandlerFunc.ServeHTTP;main.(*server).handleCatalog";
    let under = |tail: &str| format!("{SERVE};{tail}");
    let fill =
        under("github.com/acme/shop/internal/cache.(*Store).Get;github.com/acme/shop/internal/cache.(*Store).Fill");
    let encode = under("encoding/json.Marshal;encoding/json.(*encodeState).marshal;runtime.mallocgc");
    vec![
        graph(
            "faults-by-toucher",
            "Faults by who touched",
            "faults",
            &[
                (&format!("{fill};github.com/acme/shop/internal/cache.(*page).reset"), 54_301),
                (&encode, 1_904),
                ("runtime.main;main.main;main.loadCatalog;encoding/gob.(*Decoder).Decode;runtime.growslice", 1_212),
                ("runtime.main;main.main;crypto/x509.SystemCertPool", 322),
                ("runtime.rt0_go;runtime.schedinit;runtime.mallocinit", 375),
            ],
        ),
        graph(
            "faults-by-mapper",
            "Faults by who mapped",
            "faults",
            &[
                ("runtime.main;main.main;github.com/acme/shop/internal/cache.Open;syscall.mmap", 54_301),
                ("runtime.main;main.main;main.loadCatalog;runtime.(*mheap).grow;runtime.sysMap", 2_703),
                ("before the capture", 1_110),
            ],
        ),
        graph(
            "mmap-bytes",
            "Mapped bytes by stack",
            "bytes",
            &[
                ("runtime.main;main.main;github.com/acme/shop/internal/cache.Open;syscall.mmap", 256 * MIB),
                ("runtime.main;main.main;main.loadCatalog;runtime.(*mheap).grow;runtime.sysMap", 64 * MIB),
            ],
        ),
    ]
}

fn ruled(code: &str, cause: &str, why: &str, checked: bool) -> RuledOut {
    RuledOut { code: code.into(), cause: cause.into(), why: why.into(), checked }
}

fn first_touch_finding() -> Finding {
    Finding {
        code: "first-touch-storm".into(),
        title: "First-touch fault storm on the request path".into(),
        claim: "`cache.(*Store).Fill` (store.go:88) touched 54,301 pages for the first time inside the first request; \
                they were mapped 1.2 s earlier by `cache.Open` (store.go:52)."
            .into(),
        pid: 4711,
        cost: Some(Cost { wall_ns: 212 * MS, window_ns: 286 * MS, window: "first request".into(), recording_ns: 0 }),
        confidence: Confidence::High,
        confidence_reasons: vec![
            "100 % of the faults are charged to a replayed mapping, and the replay equals the kernel's map".into(),
            "nothing was lost".into(),
            "each page faulted exactly once: no refault, no reclaim in the capture".into(),
        ],
        location: Some(fill()),
        evidence: vec![
            Evidence {
                what: "faults of `cache.(*Store).Fill` inside the first request".into(),
                value: "54,301".into(),
                query: Some("SELECT count(*)\nFROM 'faults/*.parquet'\nWHERE ts BETWEEN 5001240000000 AND 5001526000000\n  AND error_code & 2 = 2".into()),
            },
            Evidence { what: "of them, pages touched for the first time".into(), value: "54,301 (100 %)".into(), query: None },
            Evidence {
                what: "service time, median and 99 %".into(),
                value: "3.6 µs, 11.2 µs".into(),
                query: Some("SELECT median(dur), quantile(dur, 0.99) FROM 'faults/*.parquet'".into()),
            },
        ],
        against: Vec::new(),
        look_alikes: vec![
            LookAlike {
                cause: "purge–refault churn".into(),
                observation: "0 of 54,301 pages had been given back by madvise before".into(),
                excluded: true,
            },
            LookAlike { cause: "swap-in or a cold file".into(), observation: "0 major faults in the window".into(), excluded: true },
            LookAlike {
                cause: "direct reclaim while faulting".into(),
                observation: "no fault took longer than 1 ms, but reclaim itself was not recorded".into(),
                excluded: false,
            },
        ],
        stacks: vec![
            NamedStack { title: "touched by".into(), weight: "54,301 faults, 212 ms".into(), frames: fill_stack() },
            NamedStack { title: "mapped by".into(), weight: "256 MiB in 2 calls".into(), frames: open_stack() },
        ],
        fix: Fix {
            what: "Touch or populate the cache before the server listens: write one byte per page after `cache.Open`, \
                   or map it with MAP_POPULATE."
                .into(),
            gain_low_ns: Some(190 * MS),
            gain_high_ns: Some(230 * MS),
            caution: Some("The faults move to start-up, which becomes about 212 ms longer; RSS is full from the start.".into()),
        },
    }
}

/// Memory mapped at start is touched on the request path: the report sketch's own example.
pub(crate) fn first_touch() -> Analysis {
    Analysis {
        report_version: REPORT_VERSION,
        mtrace_version: "0.1.0".into(),
        verdict: Verdict {
            kind: VerdictKind::Memory,
            sentence: "The first request waited 212 of 286 ms for 54,301 first-touch page faults in `cache.(*Store).Fill` \
                       (store.go:88): memory mapped at start is touched for the first time on the request path."
                .into(),
            action: Some(
                "Touch or populate the cache before listening; the faults move to start-up and the request path keeps about 70 ms.".into(),
            ),
            confidence: Confidence::High,
            confidence_reasons: vec![
                "100 % of the faults replayed".into(),
                "nothing lost".into(),
                "no reclaim seen: each page faulted once".into(),
            ],
            finding: Some("first-touch-storm".into()),
        },
        findings: vec![
            first_touch_finding(),
            Finding {
                code: "gc-mmap-growth".into(),
                title: "Heap grows by mmap during GC".into(),
                claim: "Between start and mark termination of 2 cycles the heap grew by 16 MiB in 4 mmap calls, all from `main.loadCatalog`.".into(),
                pid: 4711,
                cost: Some(Cost { wall_ns: 2_100 * US, window_ns: 286 * MS, window: "first request".into(), recording_ns: 0 }),
                confidence: Confidence::Medium,
                confidence_reasons: vec!["4 calls are few".into()],
                location: Some(location("main.loadCatalog", "/srv/shop/catalog.go", 77)),
                evidence: vec![Evidence { what: "mmap calls during GC".into(), value: "4".into(), query: None }],
                against: vec!["the same rate of calls before the cycles (3 in 42 ms)".into()],
                look_alikes: Vec::new(),
                stacks: Vec::new(),
                fix: Fix { what: "Decode the catalog into reused buffers.".into(), gain_low_ns: None, gain_high_ns: Some(2_100 * US), caution: None },
            },
        ],
        ruled_out: vec![
            ruled("purge-refault-churn", "Purge–refault churn", "0 of 58,114 faults hit a page that madvise had given back", true),
            ruled("mmap-enomem", "Failing memory calls", "all 412 calls succeeded", true),
            ruled("reclaim", "Direct reclaim or a memory cgroup at its limit", "the reclaim tracepoints were not recorded; memory.events was 0 at both ends", false),
        ],
        facts: Facts {
        capture: capture("cold.mtrace"),
        requests: vec![requests()],
        ledgers: vec![
            ledger(
                "first request",
                REQUEST,
                vec![
                    row(LedgerCategory::Faults, 212 * MS, Some(54_301), Some("cache.(*Store).Fill (store.go:88)")),
                    row(LedgerCategory::OnCpu, 58 * MS, None, Some("encoding/json.(*encodeState).marshal (encode.go:301)")),
                    row(LedgerCategory::Network, 9 * MS, Some(4), None),
                    row(LedgerCategory::Unexplained, 5_700 * US, None, None),
                    row(LedgerCategory::MemoryCalls, 1_090 * US, Some(6), Some("main.loadCatalog (catalog.go:77)")),
                    row(LedgerCategory::GcStw, 210 * US, Some(2), None),
                ],
            ),
            ledger(
                "cold start",
                T0,
                vec![
                    row(LedgerCategory::WaitingForClient, 819 * MS, None, None),
                    row(LedgerCategory::Faults, 219 * MS, Some(57_012), Some("cache.(*Store).Fill (store.go:88)")),
                    row(LedgerCategory::OnCpu, 401 * MS, None, Some("encoding/gob.(*Decoder).Decode (decoder.go:229)")),
                    row(LedgerCategory::FileIo, 61 * MS, Some(146), Some("crypto/x509.SystemCertPool (root_unix.go:40)")),
                    row(LedgerCategory::Unexplained, 26 * MS, None, None),
                ],
            ),
        ],
        timeline: timeline(),
        faults: FaultTables {
            kinds: vec![
                kind(TouchKind::AnonFirstTouch, 57_204, latency(11, &[21_900, 31_004, 3_800, 420, 71, 9], 3_600, 11_200, 71_000, 221 * MS)),
                kind(TouchKind::FileMinor, 880, latency(10, &[300, 512, 61, 7], 1_400, 5_100, 12_000, 1_540 * US)),
                kind(TouchKind::CopyOnWrite, 30, latency(11, &[12, 18], 3_100, 6_000, 6_100, 96 * US)),
            ],
            groups: vec![
                FaultGroup {
                    pid: 4711,
                    kind: TouchKind::AnonFirstTouch,
                    toucher: Some(fill()),
                    mapper: Some(location("github.com/acme/shop/internal/cache.Open", "/srv/shop/internal/cache/store.go", 52)),
                    mapping: "anonymous".into(),
                    faults: 54_301,
                    pages: 54_301,
                    sum_ns: 212 * MS,
                    in_windows: vec![("first request".into(), 54_301, 212 * MS)],
                    first_ns: REQUEST + 3 * MS,
                    last_ns: REQUEST + 280 * MS,
                    touch_stack: fill_stack(),
                    map_stack: open_stack(),
                },
                FaultGroup {
                    pid: 4711,
                    kind: TouchKind::FileMinor,
                    toucher: Some(location("crypto/x509.SystemCertPool", "/usr/local/go/src/crypto/x509/root_unix.go", 40)),
                    mapper: None,
                    mapping: "/srv/shop/bin/shop".into(),
                    faults: 880,
                    pages: 880,
                    sum_ns: 1_540 * US,
                    in_windows: vec![("first request".into(), 0, 0)],
                    first_ns: T0,
                    last_ns: T0 + 90 * MS,
                    touch_stack: Vec::new(),
                    map_stack: Vec::new(),
                },
            ],
        },
        churn: Churn::default(),
        reclaims: Vec::new(),
        runtimes: runtimes(),
        throttles: Vec::new(),
        lock_waits: Vec::new(),
        forks: Vec::new(),
        oom_victims: Vec::new(),
        failed_calls: Vec::new(),
        gc: gc(),
        address_spaces: vec![address_space()],
        flame_graphs: flame_graphs(),
        trust: trust(),
        },
    }
}

/// A loop gives pages back and touches them again at once.
pub(crate) fn churn() -> Analysis {
    let release = location("main.(*janitor).run", "/srv/shop/janitor.go", 44);
    let mut a = first_touch();
    a.facts.capture.name = "steady.mtrace".into();
    a.facts.capture.trigger = Some(TriggerFact {
        trigger: "psi:memory.some>80%/30s".into(),
        what: "tasks stalled on memory for at least 25160 ms of 30000 ms, by `/proc/pressure/memory`".into(),
        ts: T0 + 2_900 * MS,
        realtime_ns: Some(1_795_453_514_900_000_000),
        before_ns: 2_900 * MS,
        after_ns: 300 * MS,
        cut_by_size: true,
        also: 2,
        suppressed: 1_204,
    });
    a.verdict = Verdict {
        kind: VerdictKind::Memory,
        sentence: "The process spent 1.12 of 3.2 s on 257,004 refaults: `main.(*janitor).run` (janitor.go:44) gives the heap \
                   back with debug.FreeOSMemory every 100 ms and `main.(*worker).handle` (worker.go:118) touches it again 3 ms later."
            .into(),
        action: Some("Stop calling debug.FreeOSMemory in a loop; set GOMEMLIMIT if a bound is needed.".into()),
        confidence: Confidence::High,
        confidence_reasons: vec!["99 % of the refaults hit pages that this stack had given back".into(), "nothing lost".into()],
        finding: Some("purge-refault-churn".into()),
    };
    let mut finding = first_touch_finding();
    finding.code = "purge-refault-churn".into();
    finding.title = "Purge–refault churn".into();
    finding.claim = "258,900 pages were given back by `main.(*janitor).run` (janitor.go:44) and 257,004 of them touched again, 8.1 times each.".into();
    finding.cost =
        Some(Cost { wall_ns: 1_120 * MS, window_ns: 3_200 * MS, window: "whole capture".into(), recording_ns: 0 });
    finding.location = Some(release.clone());
    finding.evidence =
        vec![Evidence { what: "refaults of pages given back".into(), value: "257,004".into(), query: None }];
    finding.against = vec!["RSS would be 61 MiB higher without it".into()];
    finding.look_alikes = vec![LookAlike {
        cause: "first touch of new memory".into(),
        observation: "each page had been touched before".into(),
        excluded: true,
    }];
    finding.stacks = vec![NamedStack {
        title: "given back by".into(),
        weight: "31 calls".into(),
        frames: vec![
            frame("runtime/debug.FreeOSMemory", "/usr/local/go/src/runtime/debug/garbage.go", 166),
            frame("main.(*janitor).run", "/srv/shop/janitor.go", 44),
        ],
    }];
    finding.fix = Fix {
        what: "Remove the loop around debug.FreeOSMemory.".into(),
        gain_low_ns: Some(980 * MS),
        gain_high_ns: Some(1_240 * MS),
        caution: Some("RSS stays about 61 MiB higher.".into()),
    };
    a.findings = vec![finding];
    a.ruled_out =
        vec![ruled("first-touch-storm", "First-touch fault storm", "1,896 first touches, all at start", true)];
    a.facts.ledgers = vec![ledger(
        "whole capture",
        T0,
        vec![
            row(LedgerCategory::OnCpu, 1_900 * MS, None, Some("main.(*worker).handle (worker.go:118)")),
            row(LedgerCategory::Faults, 1_010 * MS, Some(258_900), Some("main.(*worker).handle (worker.go:118)")),
            row(LedgerCategory::MemoryCalls, 110 * MS, Some(1_240), Some("main.(*janitor).run (janitor.go:44)")),
            row(LedgerCategory::WaitingForCpu, 90 * MS, Some(61), None),
            row(LedgerCategory::Unexplained, 90 * MS, None, None),
        ],
    )];
    a.facts.timeline.bands =
        (0..31).map(|i| band("gc", "forced cycle", T0 + i * 100 * MS, T0 + i * 100 * MS + 6 * MS)).collect();
    a.facts.churn.groups = vec![ChurnGroup {
        pid: 4711,
        releaser: Some(release),
        toucher: Some(location("main.(*worker).handle", "/srv/shop/worker.go", 118)),
        calls: 1_240,
        released_pages: 258_900,
        refaults: 257_004,
        refault_ns: 1_010 * MS,
        madvise_ns: 110 * MS,
        median_gap_ns: Some(3_100 * US),
        rounds_per_page: 8.1,
        in_windows: vec![("whole capture".into(), 1_010 * MS)],
        release_stack: Vec::new(),
        touch_stack: Vec::new(),
    }];
    a
}

/// The request waits for a database: memory was watched and is innocent.
pub(crate) fn not_memory() -> Analysis {
    let mut a = first_touch();
    a.facts.capture.name = "slow-db.mtrace".into();
    a.verdict = Verdict {
        kind: VerdictKind::NotMemory,
        sentence: "Not memory: the first request took 286 ms, of which faults, memory calls and GC together had 3 ms: it waited 241 ms for \
                   the other side of a network connection."
            .into(),
        action: Some("Look at the database call in `main.(*server).load` (main.go:166), not at memory.".into()),
        confidence: Confidence::High,
        confidence_reasons: vec!["the ledger explains 99 % of the window".into(), "nothing lost".into()],
        finding: None,
    };
    a.findings.clear();
    a.ruled_out = vec![
        ruled("first-touch-storm", "First-touch fault storm", "611 faults in the window, 2.1 ms", true),
        ruled("gc-mmap-growth", "Heap growth during GC", "no GC cycle overlaps the window", true),
        ruled("purge-refault-churn", "Purge–refault churn", "no page was given back", true),
        ruled("mmap-enomem", "Failing memory calls", "all 198 calls succeeded", true),
    ];
    a.facts.ledgers = vec![ledger(
        "first request",
        REQUEST,
        vec![
            row(LedgerCategory::Network, 241 * MS, Some(3), Some("main.(*server).load (main.go:166)")),
            row(LedgerCategory::OnCpu, 39 * MS, None, None),
            row(LedgerCategory::Unexplained, 3 * MS, None, None),
            row(LedgerCategory::Faults, 2_100 * US, Some(611), None),
            row(LedgerCategory::MemoryCalls, 900 * US, Some(3), None),
        ],
    )];
    a.facts.flame_graphs.truncate(1);
    a.facts.flame_graphs[0].folded.truncate(1);
    a
}

/// The recorder was killed, events were lost, and most of the window is dark.
pub(crate) fn unexplained() -> Analysis {
    let mut a = first_touch();
    a.facts.capture.name = "killed.mtrace".into();
    a.facts.capture.complete = false;
    a.facts.capture.start_realtime_ns = None;
    a.facts.capture.processes[0].exit_status = None;
    a.verdict = Verdict {
        kind: VerdictKind::Unexplained,
        sentence: "204 of the 286 ms of the first request are not explained by anything in this capture: its thread slept, and \
                   why was not recorded."
            .into(),
        action: Some("Record again with the scheduler probe (`mtrace record --off-cpu`) and on a host that may load it.".into()),
        confidence: Confidence::Low,
        confidence_reasons: vec![
            "12,408 fault events were lost in the middle of the window".into(),
            "the recorder was killed before it resolved symbols".into(),
        ],
        finding: None,
    };
    a.findings = vec![first_touch_finding(), first_touch_finding()];
    a.findings[0].confidence = Confidence::Low;
    a.findings[0].cost =
        Some(Cost { wall_ns: 31 * MS, window_ns: 286 * MS, window: "first request".into(), recording_ns: 0 });
    a.findings[0].location = None;
    a.findings[0].fix.gain_low_ns = None;
    a.ruled_out = vec![
        ruled("purge-refault-churn", "Purge–refault churn", "the probe of madvise did not run", false),
        ruled("mmap-enomem", "Failing memory calls", "all 31 calls succeeded", true),
        ruled(
            "gc-mmap-growth",
            "Heap growth during GC",
            "the GC probe did not run: the binary is no Go program known to this version",
            false,
        ),
    ];
    a.facts.ledgers = vec![ledger(
        "first request",
        REQUEST,
        vec![
            row(LedgerCategory::Unexplained, 204 * MS, None, None),
            row(LedgerCategory::OnCpu, 51 * MS, None, None),
            row(LedgerCategory::Faults, 31 * MS, Some(7_811), None),
        ],
    )];
    a.facts.ledgers[0].window.assumptions =
        vec!["the first write after the first accept is taken for the response".into()];
    a.facts.timeline.bands.retain(|b| b.kind == "window");
    a.facts.timeline.bands.push(band("loss", "faults: ring full", REQUEST + 90 * MS, REQUEST + 131 * MS));
    a.facts.gc = GcTable::default();
    a.facts.flame_graphs.clear();
    a.facts.failed_calls = vec![EnomemGroup {
        pid: 4711,
        call: "mmap".into(),
        errno: 12,
        count: 3,
        first_ns: REQUEST + 3 * MS,
        max_len_bytes: 64 << 30,
        accountable: true,
        prot_none: false,
        vmas: 70,
        mapped_bytes: 1_300 * MIB,
        data_bytes: 90 * MIB,
        kernel: None,
        largest_gap_bytes: 130 << 40,
        caller: None,
        stack: vec![StackFrame { function: "shop+0x4f81c".into(), file: None, line: None, inlined: false }],
    }];
    a.facts.address_spaces[0].max_vmas = 61_002;
    for p in &mut a.facts.address_spaces[0].points {
        p.vmas *= 580;
    }
    a.facts.trust = Trust {
        replay: vec![ReplayCertificate {
            pid: 4711,
            ts: T0 + 2 * MS,
            snapshot: "attach".into(),
            snapshot_bytes: 1_260 * MIB,
            agreeing_bytes: 1_250 * MIB,
            equal: false,
            differences: vec!["7f3a1c000000-7f3a1ca00000: in the snapshot, not in the replay".into()],
        }],
        losses: vec![("faults".into(), "ring full".into(), 12_408, REQUEST + 90 * MS, REQUEST + 131 * MS)],
        probes: vec![
            probe("faults", "ran", "tp_btf + perf software events"),
            ProbeFact {
                name: "memory_calls".into(),
                status: "partial".into(),
                variant: Some("tracepoint".into()),
                reason: Some("sys_exit_madvise could not be attached".into()),
                hides: Some("pages given back".into()),
            },
            ProbeFact {
                name: "go_gc".into(),
                status: "absent".into(),
                variant: None,
                reason: Some("no Go binary among the targets".into()),
                hides: Some("GC cycles and stop-the-world".into()),
            },
        ],
        accounts: vec![("faults".into(), 20_219, 7_811, 12_408), ("memory_calls".into(), 40, 31, 0)],
        damage: vec!["`faults/000007.parquet` is cut off after 8,192 bytes: its rows are missing".into()],
        not_checked: vec!["off-CPU time: no scheduler probe in this capture".into()],
        frames_named: (12, 1_804),
        faults_charged: (7_801, 7_811),
        faults_timed: (7_811, 7_811),
        ..Trust::default()
    };
    a
}

/// A name that attacks every format at once.
pub(crate) const HOSTILE: &str = "<script>alert('x')</script>\"'`|*_[a](https://evil.example)\n# @you\u{1b}[2J\u{1b}]0;t\u{7}\u{202e}gpj\u{9b}31m</style></svg>";

/// Every string that comes from the target attacks.
pub(crate) fn hostile() -> Analysis {
    let mut a = first_touch();
    let long = format!("{HOSTILE}{}{HOSTILE}", "A".repeat(200_000));
    a.facts.capture.trigger =
        Some(TriggerFact { trigger: HOSTILE.into(), what: format!("`{HOSTILE}`"), ..TriggerFact::default() });
    let bad = CodeLocation {
        function: HOSTILE.into(),
        file: Some(format!("/x/{HOSTILE}")),
        line: Some(1),
        module: Some(long.clone()),
    };
    let frames =
        vec![
            StackFrame { function: long.clone(), file: Some(HOSTILE.into()), line: Some(u32::MAX), inlined: true };
            100
        ];
    a.facts.capture.name = HOSTILE.into();
    a.facts.capture.kernel_release = HOSTILE.into();
    a.facts.capture.processes[0].comm = Some(HOSTILE.into());
    a.facts.capture.processes[0].exe = Some(long.clone());
    a.facts.capture.processes[0].go_version = Some(HOSTILE.into());
    a.facts.capture.processes[0].cgroup = Some(long.clone());
    a.facts.capture.processes.push(ProcessFact { pid: 9, comm: Some(HOSTILE.into()), ..ProcessFact::default() });
    a.verdict.sentence = format!("It was `{HOSTILE}` (x.go:1) and {long}.");
    a.verdict.action = Some(long.clone());
    a.verdict.confidence_reasons = vec![HOSTILE.into()];
    let f = &mut a.findings[0];
    f.title = HOSTILE.into();
    f.claim = long.clone();
    f.location = Some(bad.clone());
    f.confidence_reasons = vec![HOSTILE.into()];
    f.evidence[0] =
        Evidence { what: HOSTILE.into(), value: HOSTILE.into(), query: Some(format!("{HOSTILE}\n</pre>{long}")) };
    f.against = vec![HOSTILE.into()];
    f.look_alikes[0] = LookAlike { cause: HOSTILE.into(), observation: HOSTILE.into(), excluded: true };
    f.stacks = vec![NamedStack { title: HOSTILE.into(), weight: HOSTILE.into(), frames: frames.clone() }];
    f.fix.what = HOSTILE.into();
    f.fix.caution = Some(HOSTILE.into());
    a.findings[1].title = HOSTILE.into();
    a.findings[1].location = Some(bad.clone());
    a.ruled_out[0].cause = HOSTILE.into();
    a.ruled_out[0].why = long.clone();
    a.ruled_out[2].why = HOSTILE.into();
    let runtime = &mut a.facts.runtimes.processes[0];
    runtime.version = Some(HOSTILE.into());
    runtime.settings[0] =
        RuntimeValue { key: HOSTILE.into(), value: Some(HOSTILE.into()), known: true, set_ns: Some(i64::MIN) };
    runtime.work[0].what = HOSTILE.into();
    runtime.work[0].who = Some(bad.clone());
    runtime.work[0].in_windows = vec![(HOSTILE.into(), i64::MAX)];
    a.facts.gc.cycles[0].collector = Some(HOSTILE.into());
    a.facts.requests[0].unseen = vec![HOSTILE.into()];
    a.facts.requests[0].slowest[0].largest[0].top = Some(HOSTILE.into());
    a.facts.requests[0].slowest[0].start_ns = i64::MIN;
    a.facts.requests[0].slowest[0].end_ns = i64::MAX;
    a.facts.requests[0].answered = u64::MAX;
    a.facts.ledgers[0].window.name = HOSTILE.into();
    a.facts.ledgers[0].window.begins_with = HOSTILE.into();
    a.facts.ledgers[0].window.assumptions = vec![HOSTILE.into()];
    a.facts.ledgers[0].rows[0].top = Some(HOSTILE.into());
    a.facts.ledgers[0].rows[1].top = Some(long.clone());
    a.facts.timeline.series[0].name = HOSTILE.into();
    a.facts.timeline.series[0].unit = HOSTILE.into();
    a.facts.timeline.bands[0].label = HOSTILE.into();
    a.facts.timeline.bands[1].kind = HOSTILE.into();
    let g = &mut a.facts.faults.groups[0];
    g.toucher = Some(bad.clone());
    g.mapper = Some(bad.clone());
    g.mapping = long.clone();
    g.touch_stack = frames;
    a.facts.gc.phases[0].top_stacks[0].location = Some(bad.clone());
    a.facts.address_spaces[0].owners[0].owner = Some(bad);
    a.facts.failed_calls = unexplained().facts.failed_calls;
    a.facts.failed_calls[0].call = HOSTILE.into();
    a.facts.flame_graphs[0].title = HOSTILE.into();
    a.facts.flame_graphs[0].unit = HOSTILE.into();
    a.facts.flame_graphs[0].id = format!("../../{HOSTILE}");
    a.facts.flame_graphs[0].folded = vec![(format!("{HOSTILE};{HOSTILE} 12 13;# x"), 7), (format!("{long};b"), 9)];
    a.facts.flame_graphs[0].top = vec![(long, 9), (HOSTILE.into(), 7)];
    a.facts.trust.replay[0].differences = vec![HOSTILE.into()];
    a.facts.trust.damage = vec![HOSTILE.into()];
    a.facts.trust.not_checked = vec![HOSTILE.into()];
    a.facts.trust.probes[0].name = HOSTILE.into();
    a.facts.trust.probes[0].status = HOSTILE.into();
    a.facts.trust.losses = vec![(HOSTILE.into(), HOSTILE.into(), u64::MAX, i64::MIN, i64::MAX)];
    a
}

/// Nothing was there: every list is empty.
pub(crate) fn empty() -> Analysis {
    Analysis {
        report_version: REPORT_VERSION,
        mtrace_version: "0.1.0".into(),
        verdict: Verdict {
            kind: VerdictKind::NothingFound,
            sentence: "The capture holds no event of a target.".into(),
            action: None,
            confidence: Confidence::Low,
            confidence_reasons: Vec::new(),
            finding: None,
        },
        findings: Vec::new(),
        ruled_out: Vec::new(),
        facts: Facts {
            capture: CaptureFacts { name: "empty.mtrace".into(), ..CaptureFacts::default() },
            ..Facts::default()
        },
    }
}
