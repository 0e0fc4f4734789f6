use super::*;
use crate::test_rows::{PAGE, event, smaps, stack};

const MIB: u64 = 1 << 20;

fn resident(ts: i64, at: u64, path: Option<&str>, rss: u64) -> SmapsRow {
    SmapsRow { path: path.map(str::to_owned), rss_bytes: Some(rss), ..smaps(ts, 7, (at * PAGE, (at + 1) * PAGE)) }
}

fn symbols() -> SymbolTable {
    let mut frames = Vec::new();
    let mut rows = Vec::new();
    for (id, functions) in
        [(1, ["cache.Open", "main.main"]), (2, ["shop.Load", "main.main"]), (3, ["cache.Open", "main.other"])]
    {
        let (f, s) = stack(id, &functions);
        frames.extend(f);
        rows.extend(s);
    }
    let mut table = SymbolTable::builder(frames);
    table.add(rows);
    table.finish(&[])
}

fn named(m: &ResidentMemory) -> Vec<(String, Option<String>, Option<i64>)> {
    let group = |g: &ResidentGroup| {
        (g.name.clone(), g.mapped_by.as_ref().map(|l| l.function.clone()), g.growth_bytes.map(|b| b / MIB as i64))
    };
    m.groups.iter().map(group).collect()
}

#[test]
fn what_grew_most_is_first_and_what_one_function_mapped_is_together() {
    let rows = [
        resident(10, 1, None, 2 * MIB),
        resident(10, 2, Some("[heap]"), 9 * MIB),
        resident(10, 3, Some("/gone"), MIB),
        resident(20, 1, None, 4 * MIB),
        resident(20, 4, None, 7 * MIB),
        resident(20, 5, None, 3 * MIB),
        resident(20, 2, Some("[heap]"), 10 * MIB),
        resident(20, 6, Some("/bin/x"), 0),
    ];
    let owners = [1, NONE, NONE, 1, 3, 2, 2, NONE];
    let all = memory(&[3, 7], &rows, &owners, &[], &symbols());
    assert_eq!(all.len(), 1);
    let m = &all[0];
    assert_eq!((m.begin_ns, m.end_ns, m.end_moment.as_str()), (Some((10, 1)), (20, 1), "periodic"));
    assert_eq!((m.begin.unwrap().rss_bytes, m.end.rss_bytes), (12 * MIB, 24 * MIB));
    let by = |name: &str| Some(name.to_owned());
    assert_eq!(
        named(m),
        [
            ("anonymous".to_owned(), by("cache.Open"), Some(9)),
            ("anonymous".to_owned(), by("shop.Load"), Some(3)),
            ("[heap]".to_owned(), by("shop.Load"), Some(1)),
            ("/bin/x".to_owned(), None, Some(0)),
            ("/gone".to_owned(), None, Some(-1)),
        ]
    );
    assert_eq!((m.groups[0].mappings, m.groups[4].mappings, m.groups[4].end.rss_bytes), (2, 1, 0));
}

#[test]
fn an_exec_makes_everything_before_it_another_program() {
    let rows = [resident(10, 1, None, MIB), resident(30, 1, None, 2 * MIB), resident(40, 1, None, 5 * MIB)];
    let exec = |ts| [event(ts, 7, 7, ProcessEventKind::Exec, None)];
    let of = |events: &[ProcessEvent]| memory(&[7], &rows, &[NONE; 3], events, &symbols()).remove(0);
    assert_eq!(of(&exec(20)).groups[0].growth_bytes, Some(3 * MIB as i64));
    assert_eq!(of(&exec(5)).groups[0].growth_bytes, Some(4 * MIB as i64));
    let only_end = of(&exec(35));
    assert_eq!((only_end.begin, only_end.groups[0].growth_bytes, only_end.groups[0].begin), (None, None, None));
    // After the last reading: that one is of the program before.
    assert_eq!(of(&exec(50)).end.rss_bytes, 5 * MIB);
}

#[test]
fn the_rest_is_added_up_so_that_the_sums_agree() {
    let rows: Vec<SmapsRow> = (0..40)
        .map(|i| SmapsRow { swap_bytes: Some(1), ..resident(20, i, Some(&format!("/lib/{i}")), i * MIB) })
        .collect();
    let m = memory(&[7], &rows, &[NONE; 40], &[], &symbols()).remove(0);
    assert_eq!((m.groups.len(), m.others), (15, 25));
    assert_eq!((m.groups[0].name.as_str(), m.groups[0].growth_bytes), ("/lib/39", None));
    let listed: u64 = m.groups.iter().map(|g| g.end.rss_bytes).sum();
    assert_eq!(listed + m.others_end.rss_bytes, m.end.rss_bytes);
    assert_eq!((m.end.swap_bytes, m.end.anon_huge_bytes, m.others_begin), (Some(40), None, None));
}

#[test]
fn hostile_numbers_do_not_overflow() {
    let rows = [resident(10, 1, None, u64::MAX), resident(10, 2, None, u64::MAX), resident(20, 1, None, 0)];
    let m = memory(&[7], &rows, &[NONE; 3], &[], &symbols()).remove(0);
    assert_eq!((m.begin.unwrap().rss_bytes, m.groups[0].growth_bytes), (u64::MAX, Some(i64::MIN)));
}
