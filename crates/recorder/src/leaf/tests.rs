#![allow(clippy::unwrap_used)]

use std::process::Command;

use super::*;

/// `objdump --dwarf=frames-interp` is the oracle: every row of its tables, for every function of a program.
#[test]
fn the_rules_agree_with_readelf_on_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("p.c");
    // Leaves, frames, pushes without a frame, an early return (remember_state), a large frame.
    std::fs::write(
        &source,
        r"#include <string.h>
          #include <stdio.h>
          int leaf(int a) { return a * 3; }
          int early(int a, char **v) { if (a > 1) { char big[9000]; memset(big, a, sizeof big); puts(big); return v[1][0] + big[2]; } return leaf(a); }
          int main(int c, char **v) { int s = 0; for (int i = 0; i < c; i++) s += early(i, v) + leaf(s); return s; }",
    )
    .unwrap();
    let mut rows = 0;
    for flags in [&["-O0"][..], &["-O2"], &["-O2", "-fno-omit-frame-pointer"], &["-O2", "-static"]] {
        let program = dir.path().join("p");
        let done = Command::new("cc").args(flags).arg("-o").arg(&program).arg(&source).status().unwrap();
        assert!(done.success());
        rows += compare(&program);
    }
    assert!(rows > 1000, "{rows} rows");
}

fn compare(program: &Path) -> usize {
    let out = Command::new("readelf").args(["--debug-dump=frames-interp", "-W"]).arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let tables = Tables::open(program).unwrap();
    let (mut rows, mut in_fde) = (0, false);
    for line in text.lines() {
        if line.contains(" FDE ") {
            in_fde = true;
        } else if line.contains(" CIE ") || line.contains("LOC") || line.is_empty() {
            in_fde &= !line.contains(" CIE ");
        } else if in_fde && let Some((pc, rule)) = row(line) {
            let ours = eh_frame::rules(&tables.elf, &tables.frames, pc).and_then(|r| r.cfa);
            match rule {
                "exp" => assert_eq!(ours, None, "{line}"),
                _ => assert_eq!(ours.is_some_and(|c| c == eh_frame::RETURN_ADDRESS_ON_TOP), rule == "rsp+8", "{line}"),
            }
            assert_eq!(ours.is_none(), rule == "exp", "{line}");
            rows += 1;
        }
    }
    rows
}

fn row(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_whitespace();
    let pc = words.next().filter(|w| w.len() == 16)?;
    let pc = u64::from_str_radix(pc, 16).ok()?;
    Some((pc, words.next()?))
}

#[test]
fn damaged_tables_give_no_answer_and_no_panic() {
    let exe = std::env::current_exe().unwrap();
    let good = std::fs::read(&exe).unwrap();
    let elf = ElfFile::parse(Source::from_bytes(good.clone())).unwrap();
    let header = elf.section(".eh_frame_hdr").unwrap().clone();
    let text = elf.section(".text").unwrap().clone();
    let pcs: Vec<u64> = (0..50).map(|i| text.vaddr + i * text.size_bytes / 50).collect();
    assert!(pcs.iter().any(|pc| eh_frame::rules(&elf, &eh_frame::Index::of(&elf), *pc).is_some()));
    let frames = elf.section(".eh_frame").unwrap().clone();
    let mut bad = good;
    // Every 97th byte of both sections.
    for range in [header, frames] {
        for at in (range.offset..range.offset + range.size_bytes).step_by(97) {
            bad[at as usize] ^= 0xa5;
        }
    }
    let elf = ElfFile::parse(Source::from_bytes(bad)).unwrap();
    for pc in pcs {
        let _ = eh_frame::rules(&elf, &eh_frame::Index::of(&elf), pc);
    }
}

#[test]
fn a_mapping_without_a_file_gives_no_answer() {
    let mut leaves = Leaves::default();
    let mapping = ExecMapping { start: 4096, end: 8192, ..ExecMapping::default() };
    assert_eq!(leaves.caller_on_top(&mapping, 5000), None);
    let gone = ExecMapping { inode: 1, path: "/no/such/file".to_owned(), ..mapping };
    assert_eq!(leaves.caller_on_top(&gone, 5000), None);
}
