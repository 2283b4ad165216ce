//! A model with its cache memory.

use candle_core::{DType, Device, Tensor};
use moesaic_model::{CausalLm, KvCache, ModelError};

use crate::{BatchSequence, InputBatch};

/// Rows whose logits are held at once: bounds memory when a whole prompt's are asked for.
const MAX_LOGIT_ROWS: usize = 64;

/// How much may influence the bits of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numerics {
    /// Nothing but the sequence itself: one attention form for everything.
    Strict,
    /// Also where prefill chunks are cut: chunks of at least this many tokens use the naive form,
    /// which needs fewer operations.
    Fast {
        /// Break-even between the forms; about 170 for DeepSeek's sizes.
        naive_min_tokens: usize,
    },
}

/// Runs forward passes.
pub struct ModelRunner {
    model: Box<dyn CausalLm>,
    cache: KvCache,
    numerics: Numerics,
}

impl std::fmt::Debug for ModelRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelRunner({:?})", self.numerics)
    }
}

impl ModelRunner {
    /// Reserves cache memory for `num_blocks` blocks of `block_size` tokens.
    ///
    /// # Errors
    /// When the cache cannot be of this type.
    pub fn new(
        model: Box<dyn CausalLm>,
        num_blocks: usize,
        block_size: usize,
        cache_dtype: DType,
        numerics: Numerics,
    ) -> Result<Self, ModelError> {
        let cache = KvCache::new(&model.kv_cache_spec(), num_blocks, block_size, cache_dtype, &Device::Cpu)?;
        Ok(Self { model, cache, numerics })
    }

    /// Computes a batch. Gives the hidden states of the wanted rows and, per sequence, where its
    /// rows start among them.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn forward(&self, sequences: &[BatchSequence]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let naive_min_tokens = match self.numerics {
            Numerics::Strict => usize::MAX,
            Numerics::Fast { naive_min_tokens } => naive_min_tokens,
        };
        let batch = InputBatch::build(sequences, self.cache.block_size(), naive_min_tokens, &Device::Cpu)?;
        Ok((self.model.forward(&batch.input, &self.cache)?, batch.first_logit_row))
    }

    /// Calls `visit` with each row's index and logits, in order, a bounded number at a time.
    ///
    /// # Errors
    /// When the hidden states do not fit the model.
    pub fn for_each_logits(
        &self,
        hidden: &Tensor,
        mut visit: impl FnMut(usize, Vec<Vec<f32>>),
    ) -> Result<(), ModelError> {
        let num_rows = hidden.dim(0)?;
        for start in (0..num_rows).step_by(MAX_LOGIT_ROWS) {
            let part = hidden.narrow(0, start, MAX_LOGIT_ROWS.min(num_rows - start))?;
            visit(start, self.model.logits(&part)?.to_vec2()?);
        }
        Ok(())
    }
}
