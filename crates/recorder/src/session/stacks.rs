//! Numbers for stacks. The kernel names a stack by its hash and sends the frames once.

use std::collections::HashMap;
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
}

impl Stacks {
    /// Takes a stack that the kernel sent; `None` if it is known already or there is no room.
    pub(crate) fn define(&mut self, record: &StackRecord) -> Option<Stack> {
        if self.ids.contains_key(&record.hash) || self.ips.len() + record.ips.len() > MAX_FRAMES {
            return None;
        }
        let id = u32::try_from(self.stacks.len() + 1).ok()?;
        let stack = Stack { id, image: record.image, first: self.ips.len(), len: record.ips.len() };
        self.ids.insert(record.hash, id);
        self.ips.extend(&record.ips);
        self.stacks.push(stack);
        Some(stack)
    }

    /// The number of the stack with this hash.
    pub(crate) fn id(&self, hash: u64) -> Option<u32> {
        self.ids.get(&hash).copied()
    }

    pub(crate) fn all(&self) -> &[Stack] {
        &self.stacks
    }

    pub(crate) fn ips(&self, stack: &Stack) -> &[u64] {
        &self.ips[stack.first..stack.first + stack.len]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_numbered_once() {
        let mut s = Stacks::default();
        let record = |hash, ips: &[u64]| StackRecord { pid: 1, image: 4, hash, ips: ips.to_vec() };
        let first = s.define(&record(99, &[1, 2])).unwrap();
        assert!(s.define(&record(99, &[1, 2])).is_none());
        let second = s.define(&record(98, &[3])).unwrap();
        assert_eq!((s.id(99), s.id(98), s.id(1)), (Some(first.id), Some(second.id), None));
        assert_eq!((s.ips(&first), s.ips(&second)), (&[1, 2][..], &[3][..]));
    }
}
