use mtrace_formats::tables::{MemoryCall, MemoryCallKind};

use super::super::pages::Before;
use super::*;

const BASE: u64 = 0x7f00_0000_0000;
const PAGE: u64 = 4096;

fn call(call: MemoryCallKind, addr: u64, len_bytes: u64) -> MemoryCall {
    MemoryCall {
        ts: 1,
        dur: 1,
        pid: 1,
        tid: 1,
        call,
        addr,
        len_bytes,
        prot_or_advice: None,
        flags: None,
        new_len_bytes: None,
        new_addr: None,
        offset_bytes: None,
        file_id: None,
        result: Some(0),
        errno: None,
        stack_id: Some(1),
    }
}

fn mmap(at: u64, len: u64, prot: u32, stack: u32) -> MemoryCall {
    MemoryCall {
        prot_or_advice: Some(prot),
        flags: Some(0x22),
        result: Some(at),
        stack_id: Some(stack),
        ..call(MemoryCallKind::Mmap, 0, len)
    }
}

fn mremap(from: u64, len: u64, to: u64, new_len: u64, flags: u32) -> MemoryCall {
    MemoryCall {
        new_len_bytes: Some(new_len),
        flags: Some(flags),
        result: Some(to),
        stack_id: Some(2),
        ..call(MemoryCallKind::Mremap, from, len)
    }
}

fn protect(at: u64, len: u64, prot: u32) -> MemoryCall {
    MemoryCall { prot_or_advice: Some(prot), stack_id: Some(3), ..call(MemoryCallKind::Mprotect, at, len) }
}

struct World(Mm, FileTable);

impl World {
    fn new() -> Self {
        Self(Mm::new(Space::of(4096, "x86_64")), FileTable::new(&[]))
    }
    fn run(&mut self, c: MemoryCall) -> CallEffect {
        self.0.apply(&c, 9, &self.1)
    }
    fn layout(&self) -> Vec<(u64, u64, String, u32)> {
        let pages = |addr: u64| addr.wrapping_sub(BASE) / PAGE;
        self.0.map.iter().map(|v| (pages(v.start), pages(v.end), v.perms.to_string(), v.owner)).collect()
    }
}

fn part(start: u64, end: u64, perms: &str, owner: u32) -> (u64, u64, String, u32) {
    (start, end, perms.to_owned(), owner)
}

#[test]
fn go_heap_growth_counts_the_bytes_once() {
    let mut w = World::new();
    assert_eq!(w.run(mmap(BASE, 64 << 20, 0, 1)).usable_bytes, 0);
    assert_eq!(w.run(mmap(BASE, 4 << 20, 3, 2)).usable_bytes, 4 << 20);
    assert_eq!(w.run(mmap(BASE + (4 << 20), 4 << 20, 3, 2)).usable_bytes, 4 << 20);
    assert_eq!(w.run(mmap(BASE, 4 << 20, 3, 2)).usable_bytes, 0);
    assert_eq!(w.0.map.vmas(), 2);
    assert_eq!(w.0.map.accessible_bytes(), 8 << 20);
    assert_eq!(w.0.map.mapped_bytes(), 64 << 20);
}

#[test]
fn lengths_are_rounded_up_to_pages() {
    let mut w = World::new();
    w.run(mmap(BASE, 5000, 3, 1));
    w.run(call(MemoryCallKind::Munmap, BASE, 1));
    assert_eq!(w.layout(), [part(1, 2, "rw-p", 1)]);
}

#[test]
fn munmap_in_the_middle_splits() {
    let mut w = World::new();
    w.run(mmap(BASE, 10 * PAGE, 3, 1));
    w.run(call(MemoryCallKind::Munmap, BASE + 4 * PAGE, 2 * PAGE));
    assert_eq!(w.layout(), [part(0, 4, "rw-p", 1), part(6, 10, "rw-p", 1)]);
}

#[test]
fn a_failed_call_changes_nothing() {
    let mut w = World::new();
    w.run(mmap(BASE, 2 * PAGE, 3, 1));
    let before = w.layout();
    for kind in MemoryCallKind::ALL {
        w.run(MemoryCall { result: None, errno: Some(22), prot_or_advice: Some(4), ..call(*kind, BASE, PAGE) });
    }
    assert_eq!(w.layout(), before);
}

#[test]
fn mprotect_over_a_hole_changes_what_lies_before_it() {
    let mut w = World::new();
    w.run(mmap(BASE, 2 * PAGE, 3, 1));
    w.run(mmap(BASE + 3 * PAGE, PAGE, 3, 1));
    w.run(MemoryCall { result: None, errno: Some(12), ..protect(BASE, 4 * PAGE, 1) });
    assert_eq!(w.layout(), [part(0, 2, "r--p", 1), part(3, 4, "rw-p", 1)]);
    // Refused for another reason, for example the number of mappings: nothing is known to have changed.
    w.run(MemoryCall { result: None, errno: Some(12), ..protect(BASE, 2 * PAGE, 0) });
    assert_eq!(w.layout()[0], part(0, 2, "r--p", 1));
}

#[test]
fn mprotect_makes_reserved_memory_the_callers_and_keeps_the_owner_otherwise() {
    let mut w = World::new();
    w.run(mmap(BASE, 8 * PAGE, 0, 1));
    assert_eq!(w.run(protect(BASE, 2 * PAGE, 3)).usable_bytes, 2 * PAGE);
    assert_eq!(w.run(protect(BASE, PAGE, 0)).usable_bytes, 0);
    assert_eq!(w.run(MemoryCall { stack_id: Some(7), ..protect(BASE, PAGE, 3) }).usable_bytes, 0);
    assert_eq!(w.layout()[0].3, 3);
    assert_eq!(w.layout().last().unwrap(), &part(2, 8, "---p", 1));
}

#[test]
fn mremap_grows_shrinks_moves_and_copies() {
    let mut w = World::new();
    w.run(mmap(BASE, 4 * PAGE, 3, 1));
    w.0.pages.touch(w.0.page(BASE));
    assert_eq!(w.run(mremap(BASE, 4 * PAGE, BASE, 6 * PAGE, 1)).usable_bytes, 2 * PAGE);
    assert_eq!(w.layout(), [part(0, 4, "rw-p", 1), part(4, 6, "rw-p", 2)]);
    w.run(mremap(BASE, 6 * PAGE, BASE, 3 * PAGE, 1));
    assert_eq!(w.layout(), [part(0, 3, "rw-p", 1)]);
    assert_eq!(w.run(mremap(BASE, 3 * PAGE, BASE + 100 * PAGE, 5 * PAGE, 1)).usable_bytes, 2 * PAGE);
    assert_eq!(w.layout(), [part(100, 103, "rw-p", 1), part(103, 105, "rw-p", 2)]);
    assert_eq!(w.0.pages.touch(w.0.page(BASE + 100 * PAGE)), Before::Touched);
    // MREMAP_DONTUNMAP keeps the old range mapped and takes its pages.
    w.run(mremap(BASE + 100 * PAGE, 2 * PAGE, BASE + 200 * PAGE, 2 * PAGE, 5));
    assert_eq!(w.0.map.mapped_bytes(), 7 * PAGE);
    assert_eq!(w.0.pages.touch(w.0.page(BASE + 100 * PAGE)), Before::Untouched);
    assert_eq!(w.0.pages.touch(w.0.page(BASE + 200 * PAGE)), Before::Touched);
}

#[test]
fn mremap_with_old_size_zero_maps_the_same_pages_again() {
    let mut w = World::new();
    w.run(MemoryCall { flags: Some(0x21), ..mmap(BASE, 2 * PAGE, 3, 1) });
    w.run(mremap(BASE, 0, BASE + 10 * PAGE, 2 * PAGE, 1));
    assert_eq!(w.layout(), [part(0, 2, "rw-s", 1), part(10, 12, "rw-s", 2)]);
}

#[test]
fn brk_grows_and_shrinks_by_pages() {
    let mut w = World::new();
    let brk = |asked: u64, result: u64| MemoryCall { result: Some(result), ..call(MemoryCallKind::Brk, asked, 0) };
    w.run(brk(0, BASE + 100));
    assert_eq!(w.run(brk(BASE + 3 * PAGE, BASE + 3 * PAGE)).usable_bytes, 2 * PAGE);
    assert_eq!(w.layout(), [part(1, 3, "rw-p", 1)]);
    // Refused: the old break comes back.
    w.run(brk(BASE + 90 * PAGE, BASE + 3 * PAGE));
    assert_eq!(w.0.brk_growth(&brk(BASE + 90 * PAGE, 0)), Some(87 * PAGE));
    w.run(brk(BASE + PAGE + 5, BASE + PAGE + 5));
    assert_eq!(w.layout(), [part(1, 2, "rw-p", 1)]);
}

#[test]
fn a_release_is_remembered_until_the_page_is_touched_again() {
    let mut w = World::new();
    w.run(mmap(BASE, 4 * PAGE, 3, 1));
    w.0.pages.touch(w.0.page(BASE));
    let dontneed = MemoryCall { prot_or_advice: Some(4), ..call(MemoryCallKind::Madvise, BASE, 4 * PAGE) };
    assert_eq!(w.run(dontneed.clone()).released_pages, 1);
    assert_eq!(w.0.pages.touch(w.0.page(BASE)), Before::Released(9));
    // A hole in the range: ENOMEM, and released all the same.
    assert_eq!(w.run(MemoryCall { errno: Some(12), result: None, ..dontneed }).released_pages, 1);
}

#[test]
fn advice_that_marks_a_mapping_keeps_it_apart() {
    let mut w = World::new();
    w.run(mmap(BASE, 4 * PAGE, 3, 1));
    w.run(MemoryCall { prot_or_advice: Some(15), ..call(MemoryCallKind::Madvise, BASE, PAGE) });
    assert_eq!(w.0.map.vmas(), 2);
    w.run(MemoryCall { prot_or_advice: Some(15), ..call(MemoryCallKind::Madvise, BASE + PAGE, 3 * PAGE) });
    assert_eq!(w.0.map.vmas(), 1);
}

#[test]
fn hostile_ranges_do_nothing() {
    let mut w = World::new();
    for (addr, len) in [(u64::MAX, 1), (u64::MAX - 5000, u64::MAX), (0, u64::MAX), (1 << 60, PAGE), (BASE, 0)] {
        for kind in MemoryCallKind::ALL {
            w.run(MemoryCall {
                prot_or_advice: Some(3),
                new_len_bytes: Some(len),
                flags: Some(0x22),
                result: Some(addr),
                ..call(*kind, addr, len)
            });
        }
    }
    assert_eq!(w.0.map.mapped_bytes(), 0);
}
