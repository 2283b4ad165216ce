//! A model with its cache memory.

use std::sync::Arc;

use candle_core::DType;
use moesaic_kernels::cuda::{ChosenTokens, Gpu};
use moesaic_kernels::{Device, Tensor};
use moesaic_model::{CausalLm, KvCache, ModelError, ModelInput};

use crate::input_batch::{InputBuffer, InputLimits};
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

/// Settings of a runner.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Where the model is.
    pub device: Device,
    /// Blocks of the cache.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Type of the cache.
    pub cache_dtype: DType,
    /// How much may influence the bits.
    pub numerics: Numerics,
    /// Longest sequence that the model was loaded for.
    pub max_model_len: usize,
    /// Tokens that the model knows.
    pub vocab_size: usize,
}

/// Runs forward passes.
pub struct ModelRunner {
    model: Box<dyn CausalLm>,
    cache: KvCache,
    config: RunnerConfig,
    inputs: Option<InputBuffer>,
    chosen: Option<ChosenTokens>,
}

impl std::fmt::Debug for ModelRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelRunner({:?})", self.config)
    }
}

fn cache(model: &dyn CausalLm, config: &RunnerConfig) -> Result<KvCache, ModelError> {
    // On a GPU one block more, for the rows that pad recorded steps.
    let num_blocks = config.num_blocks + usize::from(config.device.gpu().is_some());
    KvCache::new(&model.kv_cache_spec(), num_blocks, config.block_size, config.cache_dtype, &config.device)
}

impl ModelRunner {
    /// Reserves cache memory.
    ///
    /// # Errors
    /// When the cache cannot be of this type, or a GPU's memory is too small.
    pub fn new(model: Box<dyn CausalLm>, config: RunnerConfig) -> Result<Self, ModelError> {
        let cache = cache(model.as_ref(), &config)?;
        let inputs = config.device.gpu().map(|gpu| InputBuffer::new(gpu, 1 << 16)).transpose()?;
        Ok(Self { model, cache, config, inputs, chosen: None })
    }

    /// Another size of the cache, and of the longest sequence, which must not be longer than before. What was cached is
    /// gone.
    ///
    /// # Errors
    /// When a GPU's memory is too small.
    pub fn resize_cache(&mut self, num_blocks: usize, max_model_len: usize) -> Result<(), ModelError> {
        assert!(max_model_len <= self.config.max_model_len, "the model was loaded for shorter sequences");
        let config = RunnerConfig { num_blocks, max_model_len, ..self.config.clone() };
        self.cache = cache(self.model.as_ref(), &config)?;
        self.config = config;
        Ok(())
    }

    /// Where [`BatchSequence::chosen_row`] finds its tokens.
    pub fn take_tokens_from(&mut self, chosen: ChosenTokens) {
        self.chosen = Some(chosen);
    }

    /// Its settings.
    pub fn config(&self) -> &RunnerConfig {
        &self.config
    }

    /// The GPU, where it runs on one.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.config.device.gpu()
    }

    /// Lays a batch out.
    ///
    /// # Errors
    /// When it does not fit the model or the cache.
    pub fn batch(&self, sequences: &[BatchSequence]) -> Result<InputBatch, ModelError> {
        let naive_min_tokens = match self.config.numerics {
            Numerics::Strict => usize::MAX,
            Numerics::Fast { naive_min_tokens } => naive_min_tokens,
        };
        let limits = InputLimits {
            vocab_size: self.config.vocab_size,
            max_model_len: self.config.max_model_len,
            num_blocks: self.config.num_blocks,
            block_size: self.config.block_size,
        };
        Ok(InputBatch::build(sequences, limits, naive_min_tokens)?)
    }

    /// Computes a batch. Gives the hidden states of the wanted rows and, per sequence, where its
    /// rows start among them.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    pub fn forward(&self, sequences: &[BatchSequence]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let batch = self.batch(sequences)?;
        Ok((self.forward_batch(&batch)?, batch.first_logit_row))
    }

    /// As [`Self::forward`] of a batch that is laid out.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward_batch(&self, batch: &InputBatch) -> Result<Tensor, ModelError> {
        match &self.inputs {
            Some(inputs) => inputs.with(batch, |input| self.forward_input(input)),
            None => self.forward_input(&batch.on_host()?),
        }
    }

    /// As [`Self::forward`] of what is on the device already.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward_input(&self, input: &ModelInput) -> Result<Tensor, ModelError> {
        if let (Some(chosen), Tensor::Device(token_ids)) = (&self.chosen, &input.token_ids) {
            chosen.fill_in(token_ids)?;
        }
        self.model.forward(input, &self.cache)
    }

    /// f32 logits of hidden states.
    ///
    /// # Errors
    /// When the hidden states do not fit the model.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.model.logits(hidden)
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
        let num_rows = hidden.dims2()?.0;
        for start in (0..num_rows).step_by(MAX_LOGIT_ROWS) {
            let part = hidden.rows(start, MAX_LOGIT_ROWS.min(num_rows - start))?;
            visit(start, to_host(&self.model.logits(&part)?)?);
        }
        Ok(())
    }
}

fn to_host(logits: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let (_, width) = logits.dims2()?;
    match logits {
        Tensor::Device(logits) => {
            let bytes = logits.to_bytes()?;
            let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            Ok(bytes.chunks_exact(4 * width).map(|row| row.chunks_exact(4).map(number).collect()).collect())
        }
        Tensor::Host(logits) => Ok(logits.to_vec2()?),
    }
}
