//! An address space with the history of its pages, and what each call of the mmap family does to it.

use mtrace_formats::tables::{MemoryCall, MemoryCallKind};

use super::files::FileTable;
use super::gaps::Space;
use super::pages::Pages;
use super::vma::{AddressMap, Backing, Perms, Vma, attr};
use crate::load::NONE;

const ENOMEM: i32 = 12;
/// Addresses from here on are not user space on any machine with 57 bits at most.
const ADDRESS_LIMIT: u64 = 1 << 56;

/// uapi/linux/mman.h and asm-generic/mman-common.h.
mod uapi {
    pub(super) const MAP_TYPE: u32 = 0x0f;
    pub(super) const MAP_SHARED: u32 = 0x01;
    pub(super) const MAP_SHARED_VALIDATE: u32 = 0x03;
    pub(super) const MAP_ANONYMOUS: u32 = 0x20;
    pub(super) const MAP_NORESERVE: u32 = 0x4000;
    pub(super) const MAP_HUGETLB: u32 = 0x4_0000;
    pub(super) const MREMAP_DONTUNMAP: u32 = 4;
    pub(super) const MADV_DONTNEED: u32 = 4;
    pub(super) const MADV_FREE: u32 = 8;
    pub(super) const MADV_REMOVE: u32 = 9;
    pub(super) const MADV_DONTNEED_LOCKED: u32 = 24;
}

/// What a call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallEffect {
    /// Bytes that nobody could use before and that can be used now (not PROT_NONE).
    pub usable_bytes: u64,
    /// Pages given back that had been touched.
    pub released_pages: u64,
}

/// An address space.
#[derive(Debug, Clone)]
pub(crate) struct Mm {
    pub(crate) map: AddressMap,
    pub(crate) pages: Pages,
    pub(crate) brk: Option<u64>,
    pub(crate) page_shift: u32,
}

impl Mm {
    pub(crate) fn new(Space { page_shift, user_end }: Space) -> Self {
        Self { map: AddressMap::until(user_end), pages: Pages::default(), brk: None, page_shift }
    }

    /// Applies a call; `number` is its index, by which releases are known.
    pub(crate) fn apply(&mut self, c: &MemoryCall, number: u32, files: &FileTable) -> CallEffect {
        let mut effect = CallEffect::default();
        let stack = c.stack_id.unwrap_or(NONE);
        let ok = c.errno.is_none();
        let range = self.range(c.addr, c.len_bytes);
        match (c.call, range, c.result) {
            (MemoryCallKind::Mmap, _, Some(at)) if ok => effect.usable_bytes = self.mmap(c, at, stack, files),
            (MemoryCallKind::Munmap, Some((start, end)), _) if ok => self.unmap(start, end),
            (MemoryCallKind::Mremap, _, Some(to)) if ok => effect.usable_bytes = self.mremap(c, to, stack),
            (MemoryCallKind::Brk, _, Some(new)) if ok => effect.usable_bytes = self.brk(c.addr, new, stack, c.ts),
            (MemoryCallKind::Mprotect, Some((start, end)), _) => {
                effect.usable_bytes = self.mprotect(c, start, end, stack);
            }
            (MemoryCallKind::Madvise, Some((start, end)), _) => {
                effect.released_pages = self.madvise(c, start, end, number);
            }
            _ => {}
        }
        effect
    }

    /// The range that a brk call would have grown by, if it is one that grows; for calls that failed as well.
    pub(crate) fn brk_growth(&self, c: &MemoryCall) -> Option<u64> {
        (c.addr > self.brk? && c.addr < ADDRESS_LIMIT).then(|| c.addr - self.brk.unwrap_or(c.addr))
    }

    /// Whole pages; `None` for a range that cannot be one.
    pub(crate) fn range(&self, addr: u64, len: u64) -> Option<(u64, u64)> {
        let start = self.page_floor(addr);
        let end = self.page_ceil(addr.checked_add(len)?)?;
        (start < end && end <= ADDRESS_LIMIT).then_some((start, end))
    }

    fn page_floor(&self, addr: u64) -> u64 {
        addr >> self.page_shift << self.page_shift
    }

    fn page_ceil(&self, addr: u64) -> Option<u64> {
        Some(self.page_floor(addr.checked_add((1 << self.page_shift) - 1)?))
    }

    pub(crate) fn page(&self, addr: u64) -> u64 {
        addr >> self.page_shift
    }

    fn unmap(&mut self, start: u64, end: u64) {
        self.map.remove(start, end);
        self.pages.forget(self.page(start), self.page(end));
    }

    /// Puts a mapping in place; returns the bytes that became usable by it.
    fn place(&mut self, vma: Vma) -> u64 {
        let removed = self.map.insert(vma);
        self.pages.forget(self.page(vma.start), self.page(vma.end));
        let before: u64 = removed.iter().filter(|v| v.perms.is_accessible()).map(Vma::bytes).sum();
        if vma.perms.is_accessible() { vma.bytes().saturating_sub(before) } else { 0 }
    }

    fn mmap(&mut self, c: &MemoryCall, at: u64, stack: u32, files: &FileTable) -> u64 {
        let flags = c.flags.unwrap_or(uapi::MAP_ANONYMOUS | 2);
        let len = if flags & uapi::MAP_HUGETLB != 0 { huge_len(c.len_bytes, flags) } else { Some(c.len_bytes) };
        let Some((start, end)) = len.and_then(|len| self.range(at, len)) else { return 0 };
        let shared = matches!(flags & uapi::MAP_TYPE, uapi::MAP_SHARED | uapi::MAP_SHARED_VALIDATE);
        let perms = Perms::from_prot(c.prot_or_advice.unwrap_or(3), shared);
        let backing = match (flags & uapi::MAP_ANONYMOUS != 0, shared) {
            (true, false) => Backing::Anonymous,
            (true, true) => Backing::SharedAnonymous,
            (false, _) => files.of_call(c.file_id),
        };
        let mut attrs = if flags & uapi::MAP_NORESERVE != 0 { attr::NORESERVE } else { 0 };
        mark_use(&mut attrs, perms);
        let offset = if backing.has_offset() { c.offset_bytes.unwrap_or(0) } else { 0 };
        self.place(Vma { start, end, perms, backing, offset, attrs, owner: stack, born: c.ts })
    }

    fn mremap(&mut self, c: &MemoryCall, to: u64, stack: u32) -> u64 {
        let new_len = c.new_len_bytes.unwrap_or(0);
        let Some((to, to_end)) = self.range(to, new_len) else { return 0 };
        let from = self.page_floor(c.addr);
        // old size 0: another mapping of the same shared pages.
        let from_end = self.range(c.addr, c.len_bytes).map_or(from, |(_, end)| end);
        let parts: Vec<Vma> = self.map.overlapping(from, from_end.max(from + 1)).collect();
        let Some(last) = parts.last().copied() else { return 0 };
        if to == from {
            if to_end < from_end {
                self.unmap(to_end, from_end);
                return 0;
            }
        } else {
            let moved_end = from_end.min(from.saturating_add(to_end - to));
            self.unmap(to, to_end);
            for p in parts.iter().filter(|p| p.start < moved_end) {
                let p = p.part(p.start, p.end.min(moved_end));
                self.map.insert(Vma { start: p.start - from + to, end: p.end - from + to, ..p });
            }
            self.pages.shift(self.page(from), self.page(moved_end), self.page(to));
            if c.flags.unwrap_or(0) & uapi::MREMAP_DONTUNMAP == 0 && from_end > from {
                self.unmap(from, from_end);
            }
        }
        let old_len = from_end - from;
        if to_end - to <= old_len {
            return 0;
        }
        let start = to + old_len;
        let offset =
            if last.backing.has_offset() && old_len > 0 { last.offset.wrapping_add(last.bytes()) } else { last.offset };
        self.place(Vma { start, end: to_end, offset, owner: stack, born: c.ts, ..last })
    }

    fn brk(&mut self, asked: u64, new: u64, stack: u32, born: i64) -> u64 {
        // A failed brk returns the old break, and so does brk(0).
        let heap_end = || self.map.iter().find(|v| v.backing == Backing::Heap).map(|v| v.end);
        let old = self.brk.or_else(heap_end);
        self.brk = Some(new);
        let Some(old) = old.filter(|_| asked != 0 && new == asked) else { return 0 };
        let (Some(old), Some(new)) = (self.page_ceil(old), self.page_ceil(new)) else { return 0 };
        if new < old {
            self.unmap(new, old);
            return 0;
        }
        let Some((start, end)) = self.range(old, new - old) else { return 0 };
        let perms = Perms::from_prot(3, false);
        let mut attrs = 0;
        mark_use(&mut attrs, perms);
        self.place(Vma { start, end, perms, backing: Backing::Heap, offset: 0, attrs, owner: stack, born })
    }

    fn mprotect(&mut self, c: &MemoryCall, start: u64, end: u64, stack: u32) -> u64 {
        let Some(prot) = c.prot_or_advice else { return 0 };
        let end = match c.errno {
            None => end,
            // The mappings before the first hole are changed before the call fails.
            Some(ENOMEM) => match self.first_hole(start, end) {
                Some(hole) if hole > start => hole,
                _ => return 0,
            },
            Some(_) => return 0,
        };
        let mut usable = 0;
        self.map.update(start, end, |v| {
            v.perms = v.perms.with_prot(prot);
            if v.perms.is_accessible() && v.attrs & attr::WAS_ACCESSIBLE == 0 {
                usable += v.bytes();
                v.owner = stack;
            }
            mark_use(&mut v.attrs, v.perms);
        });
        usable
    }

    fn first_hole(&self, start: u64, end: u64) -> Option<u64> {
        let mut at = start;
        for v in self.map.overlapping(start, end) {
            if v.start > at {
                return Some(at);
            }
            at = v.end;
        }
        (at < end).then_some(at)
    }

    fn madvise(&mut self, c: &MemoryCall, start: u64, end: u64, number: u32) -> u64 {
        let Some(advice) = c.prot_or_advice else { return 0 };
        // ENOMEM says that there was a hole in the range; the mapped parts were advised all the same.
        if !matches!(c.errno, None | Some(ENOMEM)) {
            return 0;
        }
        if releases(advice) {
            return self.pages.release(self.page(start), self.page(end), number);
        }
        if let Some((set, clear)) = advice_bits(advice) {
            self.map.update(start, end, |v| v.attrs = v.attrs & !clear | set);
        }
        0
    }
}

/// True for the advice that gives pages back.
pub(crate) fn releases(advice: u32) -> bool {
    matches!(advice, uapi::MADV_DONTNEED | uapi::MADV_FREE | uapi::MADV_REMOVE | uapi::MADV_DONTNEED_LOCKED)
}

fn mark_use(attrs: &mut u16, perms: Perms) {
    if perms.is_accessible() {
        *attrs |= attr::WAS_ACCESSIBLE;
    }
    if perms.is_writable() && !perms.is_shared() && *attrs & attr::NORESERVE == 0 {
        *attrs |= attr::ACCOUNTED;
    }
}

/// VMA flags that an advice sets and clears (`madvise_vma_behavior`, mm/madvise.c).
fn advice_bits(advice: u32) -> Option<(u16, u16)> {
    let bit = |n: u32| 1_u16 << (attr::ADVICE_SHIFT + n);
    let (random, sequential, dont_fork, mergeable) = (bit(0), bit(1), bit(2), bit(3));
    let (huge, no_huge, dont_dump, wipe) = (bit(4), bit(5), bit(6), bit(7));
    Some(match advice {
        0 => (0, random | sequential),
        1 => (random, sequential),
        2 => (sequential, random),
        10 => (dont_fork, 0),
        11 => (0, dont_fork),
        12 => (mergeable, 0),
        13 => (0, mergeable),
        14 => (huge, no_huge),
        15 => (no_huge, huge),
        16 => (dont_dump, 0),
        17 => (0, dont_dump),
        18 => (wipe, 0),
        19 => (0, wipe),
        _ => return None,
    })
}

/// The kernel rounds a hugetlb mapping to its page size; the default on x86-64 is 2 MiB.
fn huge_len(len: u64, flags: u32) -> Option<u64> {
    let log2 = match flags >> 26 & 0x3f {
        0 => 21,
        n => n,
    };
    let size = 1_u64 << log2;
    Some(len.checked_add(size - 1)? / size * size)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "mm_tests.rs"]
mod tests;
