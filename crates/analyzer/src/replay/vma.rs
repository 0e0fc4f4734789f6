//! One mapping, and the address space as an ordered set of them.
//!
//! A mapping here may be a part of what the kernel shows as one VMA: the kernel merges neighbours that look the same,
//! this set keeps them apart because different code mapped them. `vmas()` counts as the kernel does.

use std::collections::BTreeMap;

use super::gaps::{Gaps, USER_END, USER_START};
use crate::load::NONE;

/// Permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Perms(u8);

impl Perms {
    const READ: u8 = 1;
    const WRITE: u8 = 2;
    const EXEC: u8 = 4;
    const SHARED: u8 = 8;

    /// From PROT_* bits (asm-generic/mman-common.h).
    pub fn from_prot(prot: u32, shared: bool) -> Self {
        Self((prot & 7) as u8 | if shared { Self::SHARED } else { 0 })
    }

    /// From the letters of /proc/PID/maps.
    pub fn from_letters(letters: &str) -> Self {
        let bit = |c: char, bit: u8| if letters.contains(c) { bit } else { 0 };
        Self(bit('r', Self::READ) | bit('w', Self::WRITE) | bit('x', Self::EXEC) | bit('s', Self::SHARED))
    }

    /// With other PROT_* bits.
    pub fn with_prot(self, prot: u32) -> Self {
        Self::from_prot(prot, self.is_shared())
    }

    /// Anything but PROT_NONE.
    pub fn is_accessible(self) -> bool {
        self.0 & (Self::READ | Self::WRITE | Self::EXEC) != 0
    }

    /// Can be written.
    pub fn is_writable(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// MAP_SHARED.
    pub fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }
}

impl std::fmt::Display for Perms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = |bit: u8, c: char| if self.0 & bit != 0 { c } else { '-' };
        let share = if self.is_shared() { 's' } else { 'p' };
        write!(f, "{}{}{}{share}", letter(Self::READ, 'r'), letter(Self::WRITE, 'w'), letter(Self::EXEC, 'x'))
    }
}

/// What is behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// The brk heap; private anonymous memory as well.
    Heap,
    /// The main thread's stack, which grows by faults.
    Stack,
    /// MAP_SHARED | MAP_ANONYMOUS.
    SharedAnonymous,
    /// A file, as a number of the file table.
    File(u32),
    /// A file that could not be identified.
    UnknownFile,
    /// `[vdso]` and its like, as a number of the file table.
    Special(u32),
}

impl Backing {
    /// Anonymous for the purposes of faults and flags.
    pub fn is_anonymous(self) -> bool {
        !matches!(self, Self::File(_) | Self::UnknownFile | Self::Special(_))
    }

    /// Offsets in it mean something.
    pub fn has_offset(self) -> bool {
        matches!(self, Self::File(_) | Self::UnknownFile | Self::SharedAnonymous)
    }

    fn merges_with(self, other: Self) -> bool {
        let plain = |b: Self| matches!(b, Self::Anonymous | Self::Heap);
        self == other && self != Self::UnknownFile || plain(self) && plain(other)
    }
}

/// Flags of a mapping that keep the kernel from merging it with a neighbour.
pub(crate) mod attr {
    /// MAP_NORESERVE.
    pub(crate) const NORESERVE: u16 = 1;
    /// Counted as committed memory (was private and writable at some time).
    pub(crate) const ACCOUNTED: u16 = 1 << 1;
    /// Was accessible at some time: mprotect to PROT_NONE and back does not make it new memory.
    pub(crate) const WAS_ACCESSIBLE: u16 = 1 << 2;
    /// First of the bits that madvise sets and clears; see `advice`.
    pub(crate) const ADVICE_SHIFT: u32 = 4;
    /// Bits that a merge looks at.
    pub(crate) const MERGE_MASK: u16 = !WAS_ACCESSIBLE;
}

/// A mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Permissions.
    pub perms: Perms,
    /// What is behind it.
    pub backing: Backing,
    /// Offset in the file; 0 where offsets mean nothing.
    pub offset: u64,
    /// See [`attr`].
    pub(crate) attrs: u16,
    /// Stack of the call that made it usable; [`NONE`] for maps older than the capture.
    pub owner: u32,
    /// When.
    pub born: i64,
}

impl Vma {
    /// Length.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// The part `[start, end)` of it.
    pub(crate) fn part(&self, start: u64, end: u64) -> Self {
        let offset = if self.backing.has_offset() { self.offset.wrapping_add(start - self.start) } else { self.offset };
        Self { start, end, offset, ..*self }
    }

    /// True if the kernel would show both as one.
    fn joins(&self, next: &Self) -> bool {
        self.end == next.start
            && self.perms == next.perms
            && (self.attrs ^ next.attrs) & attr::MERGE_MASK == 0
            && self.backing.merges_with(next.backing)
            && (!self.backing.has_offset() || self.offset.wrapping_add(self.bytes()) == next.offset)
    }

    /// Counted by RLIMIT_DATA (`is_data_mapping`, mm/mmap.c): private, writable, not a stack.
    fn is_data(&self) -> bool {
        self.perms.is_writable() && !self.perms.is_shared() && self.backing != Backing::Stack
    }
}

/// What happened to the mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmaCounts {
    /// Mappings made.
    pub births: u64,
    /// Mappings gone completely.
    pub deaths: u64,
    /// Cuts through a mapping.
    pub splits: u64,
    /// Neighbours that became one for the kernel.
    pub merges: u64,
}

/// An address space.
#[derive(Debug, Clone)]
pub struct AddressMap {
    parts: BTreeMap<u64, Vma>,
    gaps: Gaps,
    user_end: u64,
    joined: u64,
    mapped: u64,
    accessible: u64,
    data: u64,
    /// Births, deaths, splits and merges so far.
    pub counts: VmaCounts,
    /// Parts visited so far: lets a replay of a hostile capture stop.
    pub(crate) work: u64,
}

impl Default for AddressMap {
    fn default() -> Self {
        Self::until(USER_END)
    }
}

impl AddressMap {
    /// Nothing below this address, the end of user space, is mapped.
    pub(crate) fn until(user_end: u64) -> Self {
        let mut gaps = Gaps::default();
        gaps.add(user_end - USER_START);
        Self {
            parts: BTreeMap::new(),
            gaps,
            user_end,
            joined: 0,
            mapped: 0,
            accessible: 0,
            data: 0,
            counts: VmaCounts::default(),
            work: 0,
        }
    }

    /// Number of VMAs as the kernel counts them against `vm.max_map_count`.
    pub fn vmas(&self) -> u64 {
        self.parts.len() as u64 - self.joined
    }

    /// Mapped bytes, PROT_NONE included.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped
    }

    /// Mapped bytes, PROT_NONE excluded.
    pub fn accessible_bytes(&self) -> u64 {
        self.accessible
    }

    /// Private writable bytes.
    pub fn data_bytes(&self) -> u64 {
        self.data
    }

    pub(crate) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// The mapping at an address.
    pub fn find(&self, addr: u64) -> Option<&Vma> {
        self.parts.range(..=addr).next_back().map(|(_, v)| v).filter(|v| addr < v.end)
    }

    /// The first mapping above an address.
    pub fn above(&self, addr: u64) -> Option<&Vma> {
        self.parts.range(addr..).next().map(|(_, v)| v)
    }

    /// All mappings in order.
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.parts.values()
    }

    /// The parts of mappings inside a range.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = Vma> {
        let first = self.parts.range(..start).next_back().map_or(start, |(s, _)| *s);
        self.parts
            .range(first..end.max(first))
            .map(|(_, v)| v)
            .filter(move |v| v.end > start && v.start < end)
            .map(move |v| v.part(v.start.max(start), v.end.min(end)))
    }

    /// Unmaps a range; returns what was there.
    pub fn remove(&mut self, start: u64, end: u64) -> Vec<Vma> {
        self.edit(start, end, |map| map.take(start, end))
    }

    /// Maps a range, replacing what is there; returns what was there.
    pub fn insert(&mut self, vma: Vma) -> Vec<Vma> {
        if vma.start >= vma.end {
            return Vec::new();
        }
        self.edit(vma.start, vma.end, |map| {
            let removed = map.take(vma.start, vma.end);
            map.put(vma);
            map.counts.births += 1;
            removed
        })
    }

    /// Changes the mappings inside a range, splitting at its ends.
    pub fn update(&mut self, start: u64, end: u64, mut change: impl FnMut(&mut Vma)) {
        self.edit(start, end, |map| {
            for mut v in map.take_quietly(start, end) {
                change(&mut v);
                map.put(v);
            }
        });
    }

    /// Lowers the start of the mapping that begins at `start`: stack growth.
    pub fn grow_down(&mut self, start: u64, new_start: u64) {
        self.edit(new_start, start.saturating_add(1), |map| {
            if let Some(mut v) = map.parts.remove(&start) {
                map.account(&v, false);
                v.start = new_start;
                map.put(v);
            }
        });
    }

    /// Takes the range out of the sums and gaps, lets `op` change it, and puts it back.
    fn edit<T>(&mut self, start: u64, end: u64, op: impl FnOnce(&mut Self) -> T) -> T {
        let low = self.parts.range(..start).next_back().map_or(0, |(s, _)| *s);
        let high = self.parts.range(end..).next().map_or(u64::MAX, |(s, _)| *s);
        let before = self.neighbours(low, high, |gaps, bytes| gaps.remove(bytes));
        let result = op(self);
        let after = self.neighbours(low, high, |gaps, bytes| gaps.add(bytes));
        self.joined = self.joined + after - before;
        self.counts.merges += after.saturating_sub(before);
        result
    }

    /// Visits the parts from `low` to `high` (both included): passes on every gap, returns the joined pairs.
    fn neighbours(&mut self, low: u64, high: u64, mut gap: impl FnMut(&mut Gaps, u64)) -> u64 {
        let (mut joined, user_end) = (0, self.user_end);
        let mut previous: Option<&Vma> = None;
        let mut visit = |from: u64, to: u64| {
            let (from, to) = (from.clamp(USER_START, user_end), to.clamp(USER_START, user_end));
            gap(&mut self.gaps, to.saturating_sub(from));
        };
        for v in self.parts.range(low..=high).map(|(_, v)| v) {
            self.work += 1;
            match previous {
                Some(p) => {
                    joined += u64::from(p.joins(v));
                    visit(p.end, v.start);
                }
                // The neighbour below is part of the range unless there is none.
                None if low == 0 => visit(USER_START, v.start),
                None => {}
            }
            previous = Some(v);
        }
        if high == u64::MAX {
            visit(previous.map_or(USER_START, |p| p.end), user_end);
        }
        joined
    }

    fn put(&mut self, v: Vma) {
        self.account(&v, true);
        self.parts.insert(v.start, v);
    }

    fn account(&mut self, v: &Vma, added: bool) {
        let apply = |sum: &mut u64, bytes: u64| *sum = if added { *sum + bytes } else { *sum - bytes };
        apply(&mut self.mapped, v.bytes());
        if v.perms.is_accessible() {
            apply(&mut self.accessible, v.bytes());
        }
        if v.is_data() {
            apply(&mut self.data, v.bytes());
        }
    }

    /// Takes out a range, counting deaths.
    fn take(&mut self, start: u64, end: u64) -> Vec<Vma> {
        let splits = self.counts.splits;
        let taken = self.take_quietly(start, end);
        // A part that was cut lives on in its remainder.
        let cut = (self.counts.splits - splits).min(taken.len() as u64);
        self.counts.deaths += taken.len() as u64 - cut;
        taken
    }

    fn take_quietly(&mut self, start: u64, end: u64) -> Vec<Vma> {
        if start >= end {
            return Vec::new();
        }
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.parts.range(start..end).map(|(s, _)| *s).collect();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(v) = self.parts.remove(&key) {
                self.account(&v, false);
                taken.push(v);
            }
        }
        taken
    }

    fn split(&mut self, at: u64) {
        let Some(v) = self.find(at).copied().filter(|v| v.start < at) else { return };
        self.parts.insert(v.start, v.part(v.start, at));
        self.parts.insert(at, v.part(at, v.end));
        self.counts.splits += 1;
    }
}

/// A mapping that is not charged to any call.
pub(crate) fn unowned(start: u64, end: u64, perms: Perms, backing: Backing, offset: u64, born: i64) -> Vma {
    let mut attrs = 0;
    if perms.is_accessible() {
        attrs |= attr::WAS_ACCESSIBLE;
    }
    if perms.is_writable() && !perms.is_shared() {
        attrs |= attr::ACCOUNTED;
    }
    Vma { start, end, perms, backing, offset, attrs, owner: NONE, born }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "vma_tests.rs"]
mod tests;
