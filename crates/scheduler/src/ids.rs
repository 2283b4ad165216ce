//! Newtypes for the ids that cross crate borders.

use serde::{Deserialize, Serialize};

/// One block of the paged KV cache. All layers and groups use the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockId(pub u32);

impl BlockId {
    /// The id as an index into per-block arrays.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One sequence: a prompt and one choice of its continuation. Never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SequenceId(pub u64);
