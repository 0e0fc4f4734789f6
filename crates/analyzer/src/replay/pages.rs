//! Which pages of an address space were touched in the capture, and which call gave them back.
//!
//! Memory is bounded by the number of faults, never by the size of a range: a page enters by a fault, and a range
//! operation visits only what faults have entered.

use std::collections::BTreeMap;

/// Pages of a chunk: 2 MiB of address space.
const CHUNK: u64 = 512;

type Bits = [u64; (CHUNK / 64) as usize];

/// What was known of a page when a fault hit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Never touched in this mapping.
    Untouched,
    /// Touched, and still there as far as known.
    Touched,
    /// Touched, and given back by this release.
    Released(u32),
}

/// Page states of an address space; pages are addresses divided by the page size.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pages {
    touched: BTreeMap<u64, Bits>,
    released: BTreeMap<u64, u32>,
    /// Chunks and pages visited so far.
    pub(crate) work: u64,
}

impl Pages {
    /// A fault on a page: what was known of it before. It counts as touched from now on.
    pub(crate) fn touch(&mut self, page: u64) -> Before {
        let bits = self.touched.entry(page / CHUNK).or_default();
        let (word, bit) = position(page);
        let known = bits[word] & bit != 0;
        bits[word] |= bit;
        if known {
            return Before::Touched;
        }
        if self.released.is_empty() {
            return Before::Untouched;
        }
        self.released.remove(&page).map_or(Before::Untouched, Before::Released)
    }

    /// Gives the touched pages of `[start, end)` back; returns how many there were.
    pub(crate) fn release(&mut self, start: u64, end: u64, by: u32) -> u64 {
        let mut pages = Vec::new();
        self.clear(start, end, |page| pages.push(page));
        for page in &pages {
            self.released.insert(*page, by);
        }
        pages.len() as u64
    }

    /// Forgets everything about `[start, end)`: it was unmapped.
    pub(crate) fn forget(&mut self, start: u64, end: u64) {
        self.clear(start, end, |_| {});
        self.take_released(start, end);
    }

    /// Moves the pages of `[start, end)` so that they begin at `to`.
    pub(crate) fn shift(&mut self, start: u64, end: u64, to: u64) {
        let mut touched = Vec::new();
        self.clear(start, end, |page| touched.push(page));
        let released = self.take_released(start, end);
        for page in touched {
            let page = page - start + to;
            let (word, bit) = position(page);
            self.touched.entry(page / CHUNK).or_default()[word] |= bit;
        }
        for (page, by) in released {
            self.released.insert(page - start + to, by);
        }
    }

    /// Entries, as a measure of what a copy costs.
    pub(crate) fn size(&self) -> u64 {
        (self.touched.len() + self.released.len()) as u64
    }

    fn take_released(&mut self, start: u64, end: u64) -> Vec<(u64, u32)> {
        if start >= end || self.released.is_empty() {
            return Vec::new();
        }
        let taken: Vec<(u64, u32)> = self.released.range(start..end).map(|(p, by)| (*p, *by)).collect();
        for (page, _) in &taken {
            self.released.remove(page);
        }
        self.work += taken.len() as u64;
        taken
    }

    fn clear(&mut self, start: u64, end: u64, mut each: impl FnMut(u64)) {
        if start >= end {
            return;
        }
        let mut empty = Vec::new();
        for (chunk, bits) in self.touched.range_mut(start / CHUNK..=(end - 1) / CHUNK) {
            self.work += 1;
            let first = chunk * CHUNK;
            let mut left = 0;
            for (i, word) in bits.iter_mut().enumerate() {
                let base = first + i as u64 * 64;
                let hit = *word & mask(base, start, end);
                *word &= !hit;
                left |= *word;
                let mut rest = hit;
                while rest != 0 {
                    each(base + u64::from(rest.trailing_zeros()));
                    rest &= rest - 1;
                }
            }
            if left == 0 {
                empty.push(*chunk);
            }
        }
        for chunk in empty {
            self.touched.remove(&chunk);
        }
    }
}

fn position(page: u64) -> (usize, u64) {
    (((page % CHUNK) / 64) as usize, 1 << (page % 64))
}

/// The bits of the word that begins at page `base` and lie in `[start, end)`.
fn mask(base: u64, start: u64, end: u64) -> u64 {
    let low = start.saturating_sub(base).min(64);
    let high = end.saturating_sub(base).min(64);
    let below = |n: u64| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    below(high) & !below(low)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_release_of_everything_finds_only_what_was_touched() {
        let mut p = Pages::default();
        for page in [1, 600, 601] {
            assert_eq!(p.touch(page), Before::Untouched);
        }
        assert_eq!(p.release(0, u64::MAX / 4096, 9), 3);
        assert_eq!(p.release(0, u64::MAX / 4096, 9), 0);
        assert_eq!(p.touch(600), Before::Released(9));
        assert_eq!(p.touch(600), Before::Touched);
        p.forget(0, 1000);
        assert_eq!(p.touch(1), Before::Untouched);
    }

    #[test]
    fn a_move_takes_both_states_along() {
        let mut p = Pages::default();
        p.touch(10);
        p.touch(11);
        p.release(11, 12, 3);
        p.shift(10, 12, 5000);
        assert_eq!(p.touch(5000), Before::Touched);
        assert_eq!(p.touch(5001), Before::Released(3));
        assert_eq!(p.touch(10), Before::Untouched);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map_of_pages(
            ops in proptest::collection::vec((0_u8..4, 0_u64..2000, 1_u64..1500), 1..200)
        ) {
            let mut pages = Pages::default();
            let mut naive: BTreeMap<u64, Before> = BTreeMap::new();
            for (i, (op, start, len)) in ops.into_iter().enumerate() {
                let by = i as u32;
                match op {
                    0 | 1 => {
                        let before = naive.insert(start, Before::Touched).unwrap_or(Before::Untouched);
                        prop_assert_eq!(pages.touch(start), before);
                    }
                    2 => {
                        let mut n = 0;
                        for (_, s) in naive.range_mut(start..start + len) {
                            if *s == Before::Touched {
                                *s = Before::Released(by);
                                n += 1;
                            }
                        }
                        prop_assert_eq!(pages.release(start, start + len, by), n);
                    }
                    _ => {
                        naive.retain(|p, _| !(start..start + len).contains(p));
                        pages.forget(start, start + len);
                    }
                }
            }
        }
    }
}
