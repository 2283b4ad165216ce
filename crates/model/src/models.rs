//! One file per architecture.

pub mod deepseek;

use moesaic_kernels::Tensor;

use crate::{KvCache, KvCacheSpec, ModelError, ModelInput};

/// A model that continues text.
pub trait CausalLm: Send + Sync {
    /// What it caches per token.
    fn kv_cache_spec(&self) -> KvCacheSpec;

    /// Computes a batch: writes the rows' cache entries and gives the final, normalised hidden
    /// states of the wanted rows, `(logit_rows, hidden)`.
    ///
    /// # Errors
    /// When the input does not fit the model; the cache entries of the batch are then undefined.
    fn forward(&self, input: &ModelInput, cache: &KvCache) -> Result<Tensor, ModelError>;

    /// f32 logits of hidden states: `(rows, hidden) → (rows, vocabulary)`.
    ///
    /// # Errors
    /// When the width is not the model's.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError>;
}
