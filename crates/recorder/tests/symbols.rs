//! Names of C programs against `addr2line`, and the files that must give none.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use mtrace_recorder::symbols::{
    ExecMapping, ImageMaps, Ip, IpKind, SymbolSource, Symbolizer, Unresolved, build_id, build_id_hex,
};

const BASE: u64 = 0x7f00_0000_0000;
const PROGRAM: &str = r#"
#include <stdlib.h>
static inline __attribute__((always_inline)) int leaf(int x) {
    return rand() + x;
}
static inline __attribute__((always_inline)) int middle(int x) {
    return leaf(x) * 3;
}
__attribute__((noinline)) int physical(int x) {
    return middle(x) + 1;
}
int main(int argc, char **argv) { return physical(argc); }
"#;

fn compile(dir: &Path, name: &str, flags: &[&str]) -> Option<std::path::PathBuf> {
    let source = dir.join("program.c");
    std::fs::write(&source, PROGRAM).unwrap();
    let out = dir.join(name);
    let status = Command::new("cc").args(flags).arg("-o").arg(&out).arg(&source).status();
    match status {
        Ok(status) => {
            assert!(status.success(), "cc failed");
            Some(out)
        }
        Err(_) => {
            eprintln!("skipped: no C compiler `cc`");
            None
        }
    }
}

fn image(path: &Path) -> ImageMaps {
    let mapping = ExecMapping {
        start: BASE,
        end: BASE + 0x100_0000,
        path: path.to_str().unwrap().to_string(),
        inode: std::fs::metadata(path).map_or(1, |metadata| metadata.ino()),
        ..ExecMapping::default()
    };
    ImageMaps { mappings: vec![mapping], root: None }
}

fn exact(addr: u64) -> Ip {
    Ip { addr, kind: IpKind::Exact }
}

/// Address (in a position-independent file: file offset too) and size.
fn symbol(path: &Path, name: &str) -> (u64, u64) {
    let output = Command::new("nm").arg("-S").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.ends_with(&format!(" {name}"))).expect("the symbol");
    let mut words = line.split(' ').map(|word| u64::from_str_radix(word, 16).unwrap_or(0));
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn inlined_calls_are_those_of_addr2line() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = compile(dir.path(), "debug", &["-g", "-O1", "-fPIE", "-pie"]) else {
        return;
    };
    let (start, size) = symbol(&path, "physical");
    let ips: Vec<Ip> = (start..start + size).map(|offset| exact(BASE + offset)).collect();
    let mut symbolizer = Symbolizer::new();
    let rows = symbolizer.resolve(&image(&path), &ips);
    let mut deepest = 0;
    for (row, offset) in rows.iter().zip(start..) {
        let output =
            Command::new("addr2line").args(["-i", "-f", "-e"]).arg(&path).arg(format!("{offset:#x}")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let expected: Vec<(String, u32)> = lines
            .chunks(2)
            .map(|pair| {
                (pair[0].to_string(), pair[1].split(' ').next().unwrap().rsplit(':').next().unwrap().parse().unwrap())
            })
            .collect();
        let found: Vec<(String, u32)> =
            row.iter().map(|frame| (frame.function.to_string(), frame.line.unwrap_or(0))).collect();
        assert_eq!(found, expected, "{offset:#x}");
        assert_eq!(row.last().unwrap().function_addr, Some(start));
        assert_eq!(row[0].module_offset, Some(offset));
        assert!(row.iter().all(|frame| frame.source == SymbolSource::Dwarf));
        deepest = deepest.max(row.len());
    }
    assert_eq!(deepest, 3, "the program has two inlined calls in a function");
    assert_eq!(symbolizer.stats().resolved[&SymbolSource::Dwarf], size);
}

#[test]
fn a_return_address_is_looked_up_at_its_call() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = compile(dir.path(), "plain", &["-O1", "-fPIE", "-pie"]) else {
        return;
    };
    let (start, size) = symbol(&path, "physical");
    let end = Ip { addr: BASE + start + size, kind: IpKind::Return };
    let mut symbolizer = Symbolizer::new();
    let rows = symbolizer.resolve(&image(&path), &[end, exact(end.addr)]);
    assert_eq!((&*rows[0][0].function, rows[0][0].source), ("physical", SymbolSource::ElfSymtab));
    assert_eq!(rows[0][0].module_offset, Some(start + size));
    assert_ne!(&*rows[1][0].function, "physical");
}

#[test]
fn no_names_from_a_file_that_is_not_the_recorded_one() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = compile(dir.path(), "one", &["-g", "-O1", "-fPIE", "-pie", "-Wl,--build-id"]) else {
        return;
    };
    let (start, _) = symbol(&path, "physical");
    let good = image(&path);
    let edit = |change: &dyn Fn(&mut ExecMapping)| {
        let mut image = good.clone();
        change(&mut image.mappings[0]);
        image
    };
    let id = build_id_hex(&path).expect("a build id");
    assert_eq!(id.len(), 40);
    assert_eq!(build_id(&path).unwrap().len(), 20);
    let text = dir.path().join("text");
    std::fs::write(&text, "not a program").unwrap();
    let cases = [
        (good.clone(), None),
        // The build id decides, whatever the inode.
        (edit(&|mapping| (mapping.inode, mapping.build_id) = (1, Some(id.clone()))), None),
        (edit(&|mapping| mapping.build_id = Some("00".repeat(20))), Some(Unresolved::FileReplaced)),
        (edit(&|mapping| mapping.inode += 1), Some(Unresolved::FileReplaced)),
        (edit(&|mapping| mapping.inode = 0), Some(Unresolved::Unverifiable)),
        (edit(&|mapping| mapping.path = "/no/such/file".into()), Some(Unresolved::FileGone)),
        (edit(&|mapping| mapping.path = "/dev/null".into()), Some(Unresolved::FileGone)),
        (image(&text), Some(Unresolved::NotElf)),
        (edit(&|mapping| mapping.path = String::new()), Some(Unresolved::Anonymous)),
        (edit(&|mapping| mapping.path = "//anon".into()), Some(Unresolved::Anonymous)),
        (edit(&|mapping| mapping.path = "[vdso]".into()), Some(Unresolved::KernelProvided)),
        (ImageMaps::default(), Some(Unresolved::NoMapping)),
        // Kept open, or seen through another root.
        (edit(&|mapping| (mapping.path, mapping.open_path) = ("/gone".into(), Some(path.clone()))), None),
        (ImageMaps { root: Some("/proc/self/root".into()), ..good.clone() }, None),
    ];
    for (image, expected) in cases {
        let mut symbolizer = Symbolizer::new();
        let rows = symbolizer.resolve(&image, &[exact(BASE + start)]);
        match expected {
            None => assert_eq!(&*rows[0].last().unwrap().function, "physical", "{image:?}"),
            Some(reason) => {
                assert_eq!(rows[0][0].source, SymbolSource::Unresolved, "{image:?}");
                assert_eq!(symbolizer.stats().unresolved, [(reason, 1)].into_iter().collect(), "{image:?}");
            }
        }
    }
}

#[test]
fn names_of_a_deleted_program_through_a_kept_descriptor() {
    use std::os::fd::AsRawFd;
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = compile(dir.path(), "deleted", &["-g", "-O1", "-fPIE", "-pie"]) else {
        return;
    };
    let (start, _) = symbol(&path, "physical");
    let kept = std::fs::File::open(&path).unwrap();
    let mut image = image(&path);
    std::fs::remove_file(&path).unwrap();
    image.mappings[0].path.push_str(" (deleted)");
    image.mappings[0].open_path = Some(format!("/proc/self/fd/{}", kept.as_raw_fd()).into());
    let rows = Symbolizer::new().resolve(&image, &[exact(BASE + start)]);
    let last = rows[0].last().unwrap();
    assert_eq!((&*last.function, last.source), ("physical", SymbolSource::Dwarf));
}

#[test]
fn damaged_programs_lose_names_only() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = compile(dir.path(), "damaged", &["-g", "-O1", "-fPIE", "-pie"]) else {
        return;
    };
    let intact = std::fs::read(&path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    let ips: Vec<Ip> = (0..64).map(|at| exact(BASE + 0x1000 + at * 16)).collect();
    for _ in 0..300 {
        let mut bytes = intact.clone();
        for _ in 0..=random(40) {
            let at = random(bytes.len());
            bytes[at] = [0, 0xff, 0x80, 1][random(4)];
        }
        if random(3) == 0 {
            bytes.truncate(random(intact.len()));
        }
        let out = dir.path().join("broken");
        std::fs::write(&out, bytes).unwrap();
        let rows = Symbolizer::new().resolve(&image(&out), &ips);
        assert!(rows.len() == ips.len() && rows.iter().all(|row| !row.is_empty()));
    }
}
