//! Numbers for stacks. The kernel names a stack by its hash and sends the frames once.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::probes::wire::StackRecord;

/// Frames that are kept for the symboliser: 32 MiB of addresses. Stacks beyond it are counted as lost.
const MAX_FRAMES: usize = 4 << 20;

/// Stacks that are kept without asking whether they are used still.
const ROOMY: usize = 32 * 1024;

/// The key is a good hash already.
#[derive(Default)]
pub(crate) struct KeyIsHash(u64);

impl Hasher for KeyIsHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// Where a stack belongs and where its frames are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) id: u32,
    pub(crate) pid: u32,
    pub(crate) image: u32,
    first: usize,
    len: usize,
}

/// Stacks with their frames.
#[derive(Debug, Default)]
pub(crate) struct StackSet {
    ips: Vec<u64>,
    stacks: Vec<Stack>,
}

impl StackSet {
    fn add(&mut self, id: u32, pid: u32, image: u32, ips: &[u64]) {
        self.stacks.push(Stack { id, pid, image, first: self.ips.len(), len: ips.len() });
        self.ips.extend(ips);
    }

    /// In the order in which they were first seen.
    pub(crate) fn all(&self) -> &[Stack] {
        &self.stacks
    }

    pub(crate) fn ips(&self, stack: &Stack) -> &[u64] {
        &self.ips[stack.first..stack.first + stack.len]
    }

    /// Those with these numbers.
    fn only(&self, ids: &HashSet<u32>) -> Self {
        let mut kept = Self::default();
        for s in self.stacks.iter().filter(|s| ids.contains(&s.id)) {
            kept.add(s.id, s.pid, s.image, self.ips(s));
        }
        kept
    }
}

/// What is known of a hash.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: u32,
    /// The period in which a row last referred to it.
    used: u32,
    /// False once the kernel was told to send it again.
    sent: bool,
}

/// All stacks of a recording; of a flight recorder those that were used lately.
#[derive(Default)]
pub(crate) struct Stacks {
    ids: HashMap<u64, Known, BuildHasherDefault<KeyIsHash>>,
    last_id: u32,
    /// Periods of the flight recorder; always 0 without one.
    period: u32,
    set: StackSet,
    /// Address spaces of the stacks.
    images: HashSet<u32>,
    new: Vec<(u32, StackRecord)>,
    new_frames: usize,
}

impl Stacks {
    /// Takes a stack that the kernel sent; nothing happens if it is known already or there is no room.
    pub(crate) fn define(&mut self, record: StackRecord) {
        let frames = record.ips.len() + 1;
        if let Some(known) = self.ids.get_mut(&record.hash) {
            known.sent = true;
            return;
        }
        let Some(id) = self.last_id.checked_add(1) else { return };
        if self.set.ips.len() + self.new_frames + frames > MAX_FRAMES {
            return;
        }
        self.last_id = id;
        self.ids.insert(record.hash, Known { id, used: self.period, sent: true });
        self.images.insert(record.image);
        self.new_frames += frames;
        self.new.push((id, record));
    }

    /// True if a stack belongs to this image.
    pub(crate) fn use_image(&self, image: u32) -> bool {
        self.images.contains(&image)
    }

    /// Frames kept so far.
    pub(crate) fn frames(&self) -> usize {
        self.set.ips.len()
    }

    /// The number of the stack with this hash, which is in use now.
    pub(crate) fn id(&mut self, hash: u64) -> Option<u32> {
        let known = self.ids.get_mut(&hash)?;
        known.used = self.period;
        Some(known.id)
    }

    /// The stacks that came since the last call, with their numbers, for [`Stacks::keep`].
    pub(crate) fn take_new(&mut self) -> Vec<(u32, StackRecord)> {
        self.new_frames = 0;
        std::mem::take(&mut self.new)
    }

    /// Keeps the frames of a new stack, when it is known what they are.
    pub(crate) fn keep(&mut self, id: u32, pid: u32, image: u32, ips: &[u64]) {
        self.set.add(id, pid, image, ips);
    }

    pub(crate) fn set(&self) -> &StackSet {
        &self.set
    }

    /// A new period begins.
    pub(crate) fn begin_period(&mut self, period: u32) {
        self.period = period;
    }

    /// The stacks that rows since the beginning of this period refer to.
    pub(crate) fn used_since(&self, period: u32) -> StackSet {
        let ids = self.ids.values().filter(|k| k.used >= period).map(|k| k.id).collect();
        self.set.only(&ids)
    }

    /// Makes room where it gets scarce: what no row since that period refers to goes, in two steps. First the kernel has
    /// to forget it (the answer), so that it sends it again when it sees it again; what has not come back until the next
    /// call is dropped. A CPU remembers the stack that it sent last besides: if it comes back to that very stack after
    /// all this time, having seen no other, the row is counted as one whose stack is lost.
    pub(crate) fn evict(&mut self, period: u32) -> Vec<u64> {
        if self.ids.len() <= ROOMY && self.set.ips.len() <= MAX_FRAMES / 2 {
            return Vec::new();
        }
        let before = self.ids.len();
        self.ids.retain(|_, k| k.sent || k.used >= period);
        if self.ids.len() < before {
            let mut left: HashSet<u32> = self.ids.values().map(|k| k.id).collect();
            left.extend(self.new.iter().map(|(id, _)| *id));
            self.set = self.set.only(&left);
            self.images = self.set.all().iter().map(|s| s.image).chain(self.new.iter().map(|(_, r)| r.image)).collect();
        }
        let mut forget = Vec::new();
        for (hash, known) in self.ids.iter_mut().filter(|(_, k)| k.sent && k.used < period) {
            known.sent = false;
            forget.push(*hash);
        }
        forget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(hash: u64) -> StackRecord {
        StackRecord { pid: 1, image: 4, hash, top: 0, ips: vec![hash, 2] }
    }

    fn settle(s: &mut Stacks) {
        for (id, r) in s.take_new() {
            s.keep(id, r.pid, r.image, &r.ips);
        }
    }

    fn kept(set: &StackSet) -> Vec<(u32, Vec<u64>)> {
        set.all().iter().map(|stack| (stack.id, set.ips(stack).to_vec())).collect()
    }

    #[test]
    fn a_stack_is_numbered_once_and_its_frames_are_kept() {
        let mut s = Stacks::default();
        for hash in [99, 98, 99] {
            s.define(record(hash));
        }
        let new = s.take_new();
        assert_eq!(new.iter().map(|(id, r)| (*id, r.hash)).collect::<Vec<_>>(), [(1, 99), (2, 98)]);
        assert_eq!((s.id(99), s.id(98), s.id(1)), (Some(1), Some(2), None));
        for (id, r) in new {
            s.keep(id, r.pid, r.image, &r.ips);
        }
        s.define(record(99));
        assert!(s.take_new().is_empty());
        assert_eq!(kept(s.set()), [(1, vec![99, 2]), (2, vec![98, 2])]);
    }

    #[test]
    fn what_a_period_used_is_found_whenever_it_was_first_seen() {
        let mut s = Stacks::default();
        (1..=3).for_each(|hash| s.define(record(hash + 10)));
        settle(&mut s);
        s.begin_period(1);
        s.id(12);
        assert_eq!(kept(&s.used_since(1)), [(2, vec![12, 2])]);
        assert_eq!(s.used_since(0).all().len(), 3);
    }

    #[test]
    fn stacks_go_only_when_room_is_scarce_and_after_the_kernel_has_forgotten_them() {
        let mut s = Stacks::default();
        s.define(record(11));
        settle(&mut s);
        s.begin_period(9);
        assert!(s.evict(9).is_empty(), "there is room");

        let many = ROOMY as u64 + 10;
        (0..many).for_each(|i| s.define(record(i + 1000)));
        settle(&mut s);
        // Used in this period: only the old one is to be forgotten, and is known still.
        assert_eq!(s.evict(9), [11]);
        assert_eq!(s.ids.len() as u64, many + 1);
        // The kernel sent it again.
        s.define(record(11));
        assert_eq!(s.evict(9), [11]);
        assert!(s.evict(9).is_empty());
        assert_eq!(s.id(11), None);
        assert_eq!(s.set().all().len() as u64, many);
        // It comes back under a number of its own.
        s.define(record(11));
        settle(&mut s);
        assert_eq!(s.id(11), Some(many as u32 + 2));
    }
}
