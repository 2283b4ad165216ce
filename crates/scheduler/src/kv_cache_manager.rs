//! Which blocks a sequence holds: prefix hits, growth, commit and release.

use crate::{BlockHash, BlockId, BlockPool, Sequence};

/// How full the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvUsage {
    /// Blocks held by sequences.
    pub used_blocks: usize,
    /// Blocks in all.
    pub num_blocks: usize,
}

/// Moves blocks between the pool and the sequences.
#[derive(Debug)]
pub struct KvCacheManager {
    pool: BlockPool,
    block_size: usize,
    prefix_caching: bool,
}

impl KvCacheManager {
    /// `block_size` in tokens.
    pub fn new(num_blocks: usize, block_size: usize, prefix_caching: bool) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        Self { pool: BlockPool::new(num_blocks), block_size, prefix_caching }
    }

    /// Tokens that fit in the whole cache.
    pub fn capacity_tokens(&self) -> usize {
        self.pool.num_blocks() * self.block_size
    }

    /// How full the cache is.
    pub fn usage(&self) -> KvUsage {
        let num_blocks = self.pool.num_blocks();
        KvUsage { used_blocks: num_blocks - self.pool.num_free(), num_blocks }
    }

    /// Cached blocks that a waiting sequence can start from. At least one token is left to
    /// compute, because sampling needs its logits.
    pub fn match_prefix(&self, sequence: &mut Sequence) -> Vec<BlockId> {
        if !self.prefix_caching || !sequence.reads_prefix_cache() {
            return Vec::new();
        }
        let num_full = (sequence.token_ids.len() - 1) / self.block_size;
        self.extend_hashes(sequence, num_full);
        sequence.block_hashes[..num_full].iter().map_while(|&hash| self.pool.lookup(hash)).collect()
    }

    /// Whether a sequence starting from `prefix` can grow to `num_tokens`.
    pub fn can_admit(&self, prefix: &[BlockId], num_tokens: usize) -> bool {
        let from_free_queue = prefix.iter().filter(|&&block| self.pool.is_free(block)).count();
        let fresh = num_tokens.div_ceil(self.block_size).saturating_sub(prefix.len());
        from_free_queue + fresh <= self.pool.num_free()
    }

    /// Gives the cached blocks to the sequence and marks their tokens computed.
    pub fn attach_prefix(&mut self, sequence: &mut Sequence, prefix: Vec<BlockId>) {
        for &block in &prefix {
            self.pool.share(block);
        }
        sequence.num_computed_tokens = prefix.len() * self.block_size;
        sequence.num_committed_blocks = prefix.len();
        sequence.block_table = prefix;
    }

    /// Grows the sequence's table to hold `num_tokens`; returns the blocks added, or `None` and
    /// no change when the pool cannot.
    pub fn grow(&mut self, sequence: &mut Sequence, num_tokens: usize) -> Option<Vec<BlockId>> {
        let wanted = num_tokens.div_ceil(self.block_size).saturating_sub(sequence.block_table.len());
        if wanted > self.pool.num_free() {
            return None;
        }
        let blocks: Vec<BlockId> = (0..wanted).map_while(|_| self.pool.allocate()).collect();
        sequence.block_table.extend_from_slice(&blocks);
        Some(blocks)
    }

    /// Registers the full blocks of the sequence's first `num_tokens` for others to find.
    pub fn commit(&mut self, sequence: &mut Sequence, num_tokens: usize) {
        if !self.prefix_caching {
            return;
        }
        let num_full = num_tokens / self.block_size;
        self.extend_hashes(sequence, num_full);
        for index in sequence.num_committed_blocks..num_full {
            self.pool.commit(sequence.block_table[index], sequence.block_hashes[index]);
        }
        sequence.num_committed_blocks = num_full;
    }

    /// Takes all blocks back, last first, so that a prefix outlives its continuation.
    pub fn release(&mut self, sequence: &mut Sequence) {
        for block in sequence.block_table.drain(..).rev() {
            self.pool.release(block);
        }
        sequence.num_computed_tokens = 0;
        sequence.num_committed_blocks = 0;
    }

    /// See [`BlockPool::check_integrity`].
    pub fn check_integrity<'a>(&self, held: impl Iterator<Item = &'a BlockId>) {
        self.pool.check_integrity(held);
    }

    fn extend_hashes(&self, sequence: &mut Sequence, num_full: usize) {
        while sequence.block_hashes.len() < num_full {
            let start = sequence.block_hashes.len() * self.block_size;
            let tokens = &sequence.token_ids[start..start + self.block_size];
            let parent = sequence.block_hashes.last().copied();
            sequence.block_hashes.push(BlockHash::chain(parent, tokens, sequence.cache_salt));
        }
    }
}
