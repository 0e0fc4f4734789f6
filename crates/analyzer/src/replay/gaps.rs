//! The free gaps of an address space, kept up to date by every change: O(log n) a change, the largest one in O(log n).

use std::collections::BTreeMap;

use crate::model::{GapClass, GapHistogram};

/// Lowest address that mmap gives out (`vm.mmap_min_addr`).
pub(crate) const USER_START: u64 = 0x1_0000;
/// First address behind user space with 47 bits (x86-64, four-level paging: TASK_SIZE_MAX).
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;
/// The same with 48 bits (arm64; where the processor has 52, a program has to ask for what is above).
const USER_END_ARM64: u64 = 1 << 48;

/// Farthest that a stack can reach below its end without meeting what mmap gives out: the kernel keeps at least this
/// distance (`MIN_GAP`, arch/x86/mm/mmap.c).
pub(crate) const MAX_STACK: u64 = 128 << 20;

/// What an address space takes from its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) page_shift: u32,
    /// First address behind it.
    pub(crate) user_end: u64,
}

impl Space {
    /// That of a host, by its pages and what uname(2) calls its architecture.
    pub(crate) fn of(page_size: u64, arch: &str) -> Self {
        let user_end = if arch == "aarch64" { USER_END_ARM64 } else { USER_END };
        Self { page_shift: page_size.max(1).ilog2(), user_end }
    }

    pub(crate) fn last_page(self) -> std::ops::Range<u64> {
        self.user_end - (1 << self.page_shift)..self.user_end
    }
}

/// A multiset of gap sizes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gaps {
    sizes: BTreeMap<u64, u64>,
    classes: [(u64, u64); 3],
}

impl Gaps {
    pub(crate) fn add(&mut self, bytes: u64) {
        if bytes > 0 {
            *self.sizes.entry(bytes).or_insert(0) += 1;
            let class = &mut self.classes[class_index(bytes)];
            *class = (class.0 + 1, class.1 + bytes);
        }
    }

    pub(crate) fn remove(&mut self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        if let Some(n) = self.sizes.get_mut(&bytes) {
            *n -= 1;
            if *n == 0 {
                self.sizes.remove(&bytes);
            }
            let class = &mut self.classes[class_index(bytes)];
            *class = (class.0 - 1, class.1 - bytes);
        }
    }

    pub(crate) fn largest(&self) -> u64 {
        self.sizes.last_key_value().map_or(0, |(size, _)| *size)
    }

    /// Number and bytes of the gaps that are large, medium and small.
    pub(crate) fn classes(&self) -> [(u64, u64); 3] {
        self.classes
    }

    pub(crate) fn histogram(&self) -> GapHistogram {
        let mut h = GapHistogram::default();
        for (size, n) in &self.sizes {
            let i = size.ilog2() as usize;
            if h.counts.len() <= i {
                h.counts.resize(i + 1, 0);
                h.bytes.resize(i + 1, 0);
            }
            h.counts[i] += n;
            h.bytes[i] += size * n;
        }
        h
    }
}

/// The class of a gap.
pub(crate) fn class(bytes: u64) -> GapClass {
    match bytes >> 20 {
        _ if bytes > 128 << 20 => GapClass::Large,
        4.. => GapClass::Medium,
        _ => GapClass::Small,
    }
}

fn class_index(bytes: u64) -> usize {
    match class(bytes) {
        GapClass::Large => 0,
        GapClass::Medium => 1,
        GapClass::Small => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_documented_bounds() {
        let mib = 1 << 20;
        let expected = [
            (128 * mib + 1, GapClass::Large),
            (128 * mib, GapClass::Medium),
            (4 * mib, GapClass::Medium),
            (4 * mib - 1, GapClass::Small),
        ];
        for (bytes, c) in expected {
            assert_eq!(class(bytes), c, "{bytes}");
        }
    }

    #[test]
    fn user_space_ends_where_the_machine_says() {
        assert_eq!(Space::of(4096, "x86_64"), Space { page_shift: 12, user_end: USER_END });
        let arm = Space::of(1 << 16, "aarch64");
        assert_eq!(arm, Space { page_shift: 16, user_end: 1 << 48 });
        assert_eq!(arm.last_page(), 0xffff_ffff_0000..0x1_0000_0000_0000);
    }

    #[test]
    fn removing_what_was_added_leaves_nothing() {
        let mut g = Gaps::default();
        for size in [4096, 4096, 1 << 30, 0] {
            g.add(size);
        }
        assert_eq!(g.largest(), 1 << 30);
        assert_eq!(g.histogram().counts[12], 2);
        for size in [1 << 30, 4096, 0, 4096] {
            g.remove(size);
        }
        assert_eq!((g.largest(), g.classes()), (0, [(0, 0); 3]));
    }
}
