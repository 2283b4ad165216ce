//! Reference-counted blocks with a least-recently-freed queue.
//!
//! A freed block keeps its contents and its hash until it is taken again, so the free queue is
//! the prefix cache's eviction order. The queue is a doubly linked list over arrays: a prefix
//! hit takes a block out of the middle in constant time.

use crate::{BlockHash, BlockId, PrefixCache};

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Block {
    ref_count: u32,
    hash: Option<BlockHash>,
    previous: u32,
    next: u32,
}

/// All blocks of one KV cache.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    cache: PrefixCache,
    head: u32,
    tail: u32,
    num_free: usize,
}

impl BlockPool {
    /// A pool of `num_blocks` free, empty blocks.
    pub fn new(num_blocks: usize) -> Self {
        assert!(num_blocks > 0 && num_blocks < NONE as usize, "a pool needs 1 to 2^32 - 2 blocks");
        let mut pool = Self {
            blocks: vec![Block { ref_count: 0, hash: None, previous: NONE, next: NONE }; num_blocks],
            cache: PrefixCache::default(),
            head: NONE,
            tail: NONE,
            num_free: 0,
        };
        for index in 0..num_blocks as u32 {
            pool.push_free(index);
        }
        pool
    }

    /// Blocks in all.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that no sequence holds (cached ones included).
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// Takes the least recently freed block; its old contents leave the prefix cache.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let index = self.head;
        if index == NONE {
            return None;
        }
        self.unlink(index);
        let block = &mut self.blocks[index as usize];
        block.ref_count = 1;
        if let Some(hash) = block.hash.take() {
            self.cache.remove(hash);
        }
        Some(BlockId(index))
    }

    /// The cached block of a prefix, without taking it.
    pub fn lookup(&self, hash: BlockHash) -> Option<BlockId> {
        self.cache.get(hash)
    }

    /// Whether no sequence holds the block.
    pub fn is_free(&self, block: BlockId) -> bool {
        self.blocks[block.index()].ref_count == 0
    }

    /// Takes a share in a cached block found by [`Self::lookup`].
    pub fn share(&mut self, block: BlockId) {
        if self.is_free(block) {
            self.unlink(block.0);
        }
        self.blocks[block.index()].ref_count += 1;
    }

    /// Gives a share back; the last one returns the block to the end of the free queue.
    pub fn release(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block.index()];
        assert!(entry.ref_count > 0, "block {block:?} was freed twice");
        entry.ref_count -= 1;
        if entry.ref_count == 0 {
            self.push_free(block.0);
        }
    }

    /// Registers a held, full block under its hash.
    pub fn commit(&mut self, block: BlockId, hash: BlockHash) {
        let entry = &mut self.blocks[block.index()];
        assert!(entry.ref_count > 0, "only a held block can be committed");
        if entry.hash.is_none() && self.cache.insert(hash, block) {
            entry.hash = Some(hash);
        }
    }

    /// Checks every internal agreement against the blocks that sequences say they hold.
    ///
    /// # Panics
    /// When a count is off: that is a bug, and going on would hand one sequence another's cache.
    pub fn check_integrity<'a>(&self, held: impl Iterator<Item = &'a BlockId>) {
        let mut expected = vec![0_u32; self.blocks.len()];
        for block in held {
            expected[block.index()] += 1;
        }
        let mut num_hashed = 0;
        for (index, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.ref_count, expected[index], "reference count of block {index}");
            if let Some(hash) = block.hash {
                num_hashed += 1;
                assert_eq!(self.cache.get(hash), Some(BlockId(index as u32)), "cache entry of block {index}");
            }
        }
        assert_eq!(num_hashed, self.cache.len(), "cached prefixes");
        let mut num_linked = 0;
        let mut index = self.head;
        while index != NONE {
            assert_eq!(self.blocks[index as usize].ref_count, 0, "block {index} is free and held");
            num_linked += 1;
            assert!(num_linked <= self.blocks.len(), "the free queue has a loop");
            index = self.blocks[index as usize].next;
        }
        assert_eq!(num_linked, self.num_free, "length of the free queue");
        let num_held = expected.iter().filter(|&&count| count > 0).count();
        assert_eq!(num_linked + num_held, self.blocks.len(), "blocks leaked");
    }

    fn push_free(&mut self, index: u32) {
        let tail = self.tail;
        let block = &mut self.blocks[index as usize];
        block.previous = tail;
        block.next = NONE;
        if tail == NONE {
            self.head = index;
        } else {
            self.blocks[tail as usize].next = index;
        }
        self.tail = index;
        self.num_free += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Block { previous, next, .. } = self.blocks[index as usize];
        if previous == NONE {
            self.head = next;
        } else {
            self.blocks[previous as usize].next = next;
        }
        if next == NONE {
            self.tail = previous;
        } else {
            self.blocks[next as usize].previous = previous;
        }
        self.num_free -= 1;
    }
}
