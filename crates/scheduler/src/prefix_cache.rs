//! Full blocks by the hash of everything before and in them.
//!
//! A hash chain: a block's hash covers its parent's hash, so equal hashes mean equal prefixes.
//! SHA-256 because a collision would show one tenant another's keys and values.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::BlockId;

/// 128 bits of the SHA-256 chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash(u128);

impl BlockHash {
    /// Hash of a full block after `parent` (`None` for a sequence's first block).
    /// `extra` separates what must never be shared: tenant, adapter, numeric mode.
    pub fn chain(parent: Option<Self>, token_ids: &[u32], extra: u64) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(parent.map_or(0, |hash| hash.0).to_le_bytes());
        hasher.update(extra.to_le_bytes());
        for id in token_ids {
            hasher.update(id.to_le_bytes());
        }
        let digest = hasher.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(u128::from_le_bytes(bytes))
    }
}

/// The map from hash to the block that holds it.
#[derive(Debug, Default)]
pub struct PrefixCache {
    blocks: HashMap<BlockHash, BlockId>,
}

impl PrefixCache {
    /// The block holding this prefix, if any.
    pub fn get(&self, hash: BlockHash) -> Option<BlockId> {
        self.blocks.get(&hash).copied()
    }

    /// Registers a block; a block that already holds the same prefix stays the registered one.
    /// Returns whether this block is now the registered one.
    pub fn insert(&mut self, hash: BlockHash, block: BlockId) -> bool {
        *self.blocks.entry(hash).or_insert(block) == block
    }

    /// Forgets a prefix.
    pub fn remove(&mut self, hash: BlockHash) {
        self.blocks.remove(&hash);
    }

    /// Registered prefixes.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
