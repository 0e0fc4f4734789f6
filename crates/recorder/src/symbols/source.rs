//! Bounded random access to a file that may be large, hostile, or changing.
//!
//! Nothing here maps the file: a file truncated by somebody else turns a
//! mapped page into SIGBUS, and touched pages of a mapping count into the
//! recorder's RSS until they are unmapped. `pread` into a small block cache
//! gives an ordinary error for the former and a fixed ceiling for the latter,
//! and symbol lookups touch few blocks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes in one cached block.
const BLOCK_BYTES: usize = 16 * 1024;
/// Blocks kept at most (3 MiB in all).
const MAX_BLOCKS: usize = 192;

/// A file, or bytes in memory, read at offsets.
pub(crate) struct Source {
    backing: Backing,
    len_bytes: u64,
    cache: RefCell<BlockCache>,
}

enum Backing {
    File(File),
    Bytes(Vec<u8>),
}

impl Source {
    /// A source over an open regular file; its size is taken once, now.
    pub(crate) fn from_file(file: File) -> std::io::Result<Self> {
        let len_bytes = file.metadata()?.len();
        Ok(Self { backing: Backing::File(file), len_bytes, cache: RefCell::default() })
    }

    /// A source over bytes in memory.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        let len_bytes = bytes.len() as u64;
        Self { backing: Backing::Bytes(bytes), len_bytes, cache: RefCell::default() }
    }

    /// Size in bytes when it was opened.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Fill `out` from `offset`; `None` when any byte of it cannot be read.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(out.len() as u64)?;
        if end > self.len_bytes {
            return None;
        }
        match &self.backing {
            Backing::Bytes(bytes) => {
                out.copy_from_slice(bytes.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)?);
                Some(())
            }
            Backing::File(file) => self.cache.borrow_mut().read(file, offset, out),
        }
    }

    /// Like [`Source::read`], past the cache: for long sequential scans, which
    /// would only evict what lookups need.
    pub(crate) fn read_uncached(&self, offset: u64, out: &mut [u8]) -> Option<()> {
        match &self.backing {
            Backing::Bytes(_) => self.read(offset, out),
            Backing::File(file) => file.read_exact_at(out, offset).ok(),
        }
    }

    /// Call `visit(offset, bytes)` over `len_bytes` bytes from `start`, in
    /// chunks that overlap by `overlap` bytes, until it returns `false` or a
    /// read fails. Bytes past the end of the file are left out.
    pub(crate) fn scan(&self, start: u64, len_bytes: u64, overlap: usize, mut visit: impl FnMut(u64, &[u8]) -> bool) {
        const CHUNK: usize = 256 * 1024;
        let end = start.saturating_add(len_bytes).min(self.len_bytes);
        let mut buffer = Vec::new();
        let mut at = start;
        while at < end {
            let take = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            buffer.resize(take, 0);
            if self.read_uncached(at, &mut buffer).is_none() || !visit(at, &buffer) {
                return;
            }
            if take <= overlap || at + take as u64 == end {
                return;
            }
            at += (take - overlap) as u64;
        }
    }
}

/// Least-recently-inserted block cache; `last` short-cuts runs in one block.
#[derive(Default)]
struct BlockCache {
    slots: Vec<Block>,
    index: HashMap<u64, usize>,
    next_victim: usize,
    last: usize,
}

struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl BlockCache {
    fn read(&mut self, file: &File, mut offset: u64, mut out: &mut [u8]) -> Option<()> {
        while !out.is_empty() {
            let number = offset / BLOCK_BYTES as u64;
            let within = (offset % BLOCK_BYTES as u64) as usize;
            let slot = self.load(file, number)?;
            let bytes = self.slots.get(slot)?.bytes.get(within..)?;
            let take = bytes.len().min(out.len());
            if take == 0 {
                return None;
            }
            let (head, tail) = out.split_at_mut(take);
            head.copy_from_slice(bytes.get(..take)?);
            out = tail;
            offset += take as u64;
        }
        Some(())
    }

    fn load(&mut self, file: &File, number: u64) -> Option<usize> {
        if self.slots.get(self.last).is_some_and(|block| block.number == number) {
            return Some(self.last);
        }
        if let Some(&slot) = self.index.get(&number) {
            self.last = slot;
            return Some(slot);
        }
        let mut bytes = vec![0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match file.read_at(bytes.get_mut(filled..)?, number * BLOCK_BYTES as u64 + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        bytes.truncate(filled);
        let slot = self.place(Block { number, bytes });
        self.last = slot;
        Some(slot)
    }

    fn place(&mut self, block: Block) -> usize {
        let number = block.number;
        let slot = if self.slots.len() < MAX_BLOCKS {
            self.slots.push(block);
            self.slots.len() - 1
        } else {
            let slot = self.next_victim;
            self.next_victim = (slot + 1) % MAX_BLOCKS;
            if let Some(old) = self.slots.get_mut(slot) {
                self.index.remove(&old.number);
                *old = block;
            }
            slot
        };
        self.index.insert(number, slot);
        slot
    }
}
