#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use super::*;
use std::path::Path;

fn parsed(text: &[u8]) -> Vec<SmapsRow> {
    read(text, SmapsMoment::End, 7, || false).unwrap().unwrap()
}

const HEAP: &str = "55d0c0000000-55d0c0400000 rw-p 00000000 00:00 0                          [heap]
Size:               4096 kB
KernelPageSize:        4 kB
Rss:                2060 kB
Pss:                2050 kB
Private_Dirty:      2056 kB
Referenced:         1000 kB
Anonymous:          2052 kB
AnonHugePages:      2048 kB
Swap:                 12 kB
Locked:                8 kB
THPeligible:           1
VmFlags: rd wr mr mw me ac sd
";

#[test]
fn a_mapping_has_its_bytes_by_kind() {
    let rows = parsed(HEAP.as_bytes());
    assert_eq!(rows.len(), 1);
    let r = &rows[0];
    assert_eq!((r.start_addr, r.end_addr, r.pid), (0x55d0_c000_0000, 0x55d0_c040_0000, 7));
    assert_eq!((r.perms.as_str(), r.path.as_deref()), ("rw-p", Some("[heap]")));
    let kib = |n: u64| Some(n * 1024);
    assert_eq!((r.rss_bytes, r.pss_bytes, r.private_dirty_bytes), (kib(2060), kib(2050), kib(2056)));
    assert_eq!((r.anon_bytes, r.anon_huge_bytes, r.swap_bytes), (kib(2052), kib(2048), kib(12)));
    assert_eq!((r.locked_bytes, r.referenced_bytes), (kib(8), kib(1000)));
}

#[test]
fn what_an_older_kernel_does_not_say_is_null_and_not_zero() {
    let rows = parsed(b"1000-2000 r--p 00000000 08:01 42  /a\nRss:  0 kB\n");
    assert_eq!((rows[0].rss_bytes, rows[0].pss_bytes, rows[0].swap_bytes), (Some(0), None, None));
}

#[test]
fn a_name_is_never_taken_for_a_number() {
    let text = b"1000-2000 r--p 00000000 08:01 42  /Rss:    99 kB\nRss:  4 kB\n\
        2000-3000 rw-p 00000000 00:00 0 [anon:Swap: 5 kB]\nRss:  8 kB\n\
        3000-4000 rw-p 00000000 08:01 43  /caf\xe9\\012Rss: 1 kB\nRss:  12 kB\n";
    let rows = parsed(text);
    let told: Vec<_> = rows.iter().map(|r| (r.path.as_deref().unwrap(), r.rss_bytes.unwrap() >> 10)).collect();
    assert_eq!(told, [("/Rss:    99 kB", 4), ("[anon:Swap: 5 kB]", 8), ("/caf\u{fffd}\\012Rss: 1 kB", 12)]);
    assert!(rows.iter().all(|r| r.swap_bytes.is_none()));
}

#[test]
fn nonsense_is_left_out() {
    for bad in [&b""[..], b"Rss: 4 kB\n", b"x\n\n: 4 kB\n", b"1000-2000\n", b"\xff\xfe: 1 kB\n"] {
        assert!(parsed(bad).is_empty(), "{bad:?}");
    }
    let text = format!("{HEAP}Rss: 99999999999999999999 kB\nRss: x kB\nRss: 18446744073709551615 kB\nRss:\n");
    assert_eq!(parsed(text.as_bytes())[0].rss_bytes, Some(2060 * 1024));
}

#[test]
fn a_reading_that_is_late_is_given_up() {
    assert_eq!(read(HEAP.as_bytes(), SmapsMoment::End, 7, || true).unwrap(), None);
    assert!(matches!(take(std::process::id(), SmapsMoment::End, Duration::ZERO), Reading::TooLong));
}

#[test]
fn the_corpus_adds_up_as_its_rollup_does() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/procfs");
    let Ok(archive) = std::fs::read_to_string(dir.join("fixtures.ttar")) else {
        eprintln!("skipped: corpus absent ({})", dir.display());
        return;
    };
    let lines = |path: &str| {
        let (_, rest) = archive.split_once(&format!("Path: fixtures/proc/{path}\nLines: "))?;
        let (n, rest) = rest.split_once('\n')?;
        Some(rest.lines().take(n.parse().ok()?).collect::<Vec<_>>().join("\n"))
    };
    let (Some(all), Some(sum)) = (lines("26231/smaps"), lines("26231/smaps_rollup")) else {
        eprintln!("skipped: the corpus has no smaps");
        return;
    };
    let (rows, sum) = (parsed(all.as_bytes()), crate::sampler::parse_kb_lines(&sum));
    let total = |of: fn(&SmapsRow) -> Option<u64>| rows.iter().filter_map(of).sum::<u64>();
    assert!(!rows.is_empty());
    assert_eq!((total(|r| r.rss_bytes), total(|r| r.anon_bytes)), (sum["Rss"], sum["Anonymous"]));
}

#[test]
fn this_process_is_read_and_nobody_is_nobody() {
    let before = monotonic_ns();
    let Reading::Rows(rows) = take(std::process::id(), SmapsMoment::Begin, Duration::from_secs(10)) else {
        panic!("this process cannot be read");
    };
    let after = monotonic_ns();
    assert!(rows.iter().all(|r| before <= r.ts && r.ts < r.ts_end && r.ts_end <= after));
    assert!(rows.iter().all(|r| r.rss_bytes.is_some() && r.rss_bytes <= Some(r.end_addr - r.start_addr)));
    assert!(rows.iter().any(|r| r.path.as_deref() == Some("[stack]") && r.rss_bytes > Some(0)));
    assert!(matches!(take(u32::MAX, SmapsMoment::End, Duration::from_secs(1)), Reading::Gone));
}
