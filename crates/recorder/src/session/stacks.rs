//! Numbers for stacks. The kernel names a stack by its hash and sends the frames once.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::probes::wire::StackRecord;

/// Frames that are kept for the symboliser: 32 MiB of addresses. Stacks beyond it are counted as lost.
const MAX_FRAMES: usize = 4 << 20;

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
    pub(crate) image: u32,
    first: usize,
    len: usize,
}

/// All stacks of a recording.
#[derive(Default)]
pub(crate) struct Stacks {
    ids: HashMap<u64, u32, BuildHasherDefault<KeyIsHash>>,
    ips: Vec<u64>,
    stacks: Vec<Stack>,
    images: HashSet<u32>,
    new: Vec<(u32, StackRecord)>,
    new_frames: usize,
}

impl Stacks {
    /// Takes a stack that the kernel sent; nothing happens if it is known already or there is no room.
    pub(crate) fn define(&mut self, record: StackRecord) {
        let frames = record.ips.len() + 1;
        if self.ids.contains_key(&record.hash) || self.ips.len() + self.new_frames + frames > MAX_FRAMES {
            return;
        }
        let Ok(id) = u32::try_from(self.ids.len() + 1) else { return };
        self.ids.insert(record.hash, id);
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
        self.ips.len()
    }

    /// The number of the stack with this hash.
    pub(crate) fn id(&self, hash: u64) -> Option<u32> {
        self.ids.get(&hash).copied()
    }

    /// The stacks that came since the last call, with their numbers, for [`Stacks::keep`].
    pub(crate) fn take_new(&mut self) -> Vec<(u32, StackRecord)> {
        self.new_frames = 0;
        std::mem::take(&mut self.new)
    }

    /// Keeps the frames of a new stack, when it is known what they are.
    pub(crate) fn keep(&mut self, id: u32, image: u32, ips: &[u64]) {
        self.stacks.push(Stack { id, image, first: self.ips.len(), len: ips.len() });
        self.ips.extend(ips);
    }

    pub(crate) fn all(&self) -> &[Stack] {
        &self.stacks
    }

    pub(crate) fn ips(&self, stack: &Stack) -> &[u64] {
        &self.ips[stack.first..stack.first + stack.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_numbered_once_and_its_frames_are_kept() {
        let mut s = Stacks::default();
        let record = |hash| StackRecord { pid: 1, image: 4, hash, top: 0, ips: vec![hash, 2] };
        for hash in [99, 98, 99] {
            s.define(record(hash));
        }
        let new = s.take_new();
        assert_eq!(new.iter().map(|(id, r)| (*id, r.hash)).collect::<Vec<_>>(), [(1, 99), (2, 98)]);
        assert_eq!((s.id(99), s.id(98), s.id(1)), (Some(1), Some(2), None));
        for (id, r) in new {
            s.keep(id, r.image, &r.ips);
        }
        s.define(record(99));
        assert!(s.take_new().is_empty());
        let kept: Vec<_> = s.all().iter().map(|stack| (stack.id, s.ips(stack).to_vec())).collect();
        assert_eq!(kept, [(1, vec![99, 2]), (2, vec![98, 2])]);
    }
}
