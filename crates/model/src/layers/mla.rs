//! Multi-head latent attention (DeepSeek-V2 report, section 2.1) over a paged latent cache.
//!
//! Per token and layer the cache holds the normalised latent and the rotated shared key:
//! `latent + rope` values, nothing per head.

use candle_core::{D, Result, Tensor};
use moesaic_kernels::WeightForm;
use moesaic_kernels::ops::{self, AbsorbedRows, NaiveRows, Weight};

use super::{Linear, RmsNorm, Rotary};
use crate::{AttentionMetadata, ModelError, NaiveSequence, Weights};

/// The latent norms use this whatever `rms_norm_eps` says, as the models' own code does.
const LATENT_NORM_EPS: f64 = 1e-6;
/// Cached tokens that the naive form expands at a time; bounds its workspace. Cut at absolute
/// positions, so results do not depend on where a chunk began.
const NAIVE_PIECE: usize = 1024;

/// Sizes of the attention.
#[derive(Debug, Clone)]
pub struct MlaConfig {
    /// Model width.
    pub hidden: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of the query latent; `None` projects queries directly.
    pub q_lora_rank: Option<usize>,
    /// Width of the cached latent.
    pub kv_lora_rank: usize,
    /// Head width without position.
    pub nope: usize,
    /// Head width with position.
    pub rope: usize,
    /// Value width.
    pub value: usize,
    /// Softmax scale, YaRN's m² included.
    pub softmax_scale: f32,
}

/// How queries are made.
#[derive(Debug)]
enum QueryProjection {
    /// V2-Lite.
    Full(Linear),
    /// Through a normalised latent.
    LowRank {
        /// hidden → latent.
        down: Linear,
        /// Norm of the latent.
        norm: RmsNorm,
        /// latent → heads.
        up: Linear,
    },
}

impl QueryProjection {
    fn load(weights: &Weights, name: &str, config: &MlaConfig) -> std::result::Result<Self, ModelError> {
        let num_out = config.num_heads * (config.nope + config.rope);
        Ok(match config.q_lora_rank {
            None => Self::Full(Linear::load(weights, &format!("{name}.q_proj"), num_out, config.hidden)?),
            Some(rank) => Self::LowRank {
                down: Linear::load(weights, &format!("{name}.q_a_proj"), rank, config.hidden)?,
                norm: RmsNorm::load(weights, &format!("{name}.q_a_layernorm"), rank, LATENT_NORM_EPS)?,
                up: Linear::load(weights, &format!("{name}.q_b_proj"), num_out, rank)?,
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Full(linear) => linear.forward(x),
            Self::LowRank { down, norm, up } => up.forward(&norm.forward(&down.forward(x)?)?),
        }
    }
}

/// Attention weights of a layer.
#[derive(Debug)]
pub struct Mla {
    query: QueryProjection,
    kv_a: Linear,
    kv_a_norm: RmsNorm,
    /// For the naive form: latent → (heads, nope + value).
    kv_b: Linear,
    /// For the absorbed form: `kv_b`'s key rows per head, transposed `(heads, latent, nope)`, …
    key_up: Weight,
    /// … and its value rows per head, `(heads, value, latent)`.
    value_up: Weight,
    output: Linear,
    config: MlaConfig,
}

impl Mla {
    /// Reads `{name}.{q…,kv_a_proj_with_mqa,kv_a_layernorm,kv_b_proj,o_proj}`.
    pub fn load(weights: &Weights, name: &str, config: &MlaConfig) -> std::result::Result<Self, ModelError> {
        let MlaConfig { hidden, num_heads, kv_lora_rank, nope, rope, value, .. } = *config;
        let per_head = nope + value;
        let kv_b = weights.tensor(&format!("{name}.kv_b_proj.weight"), &[num_heads * per_head, kv_lora_rank])?;
        let heads = kv_b.reshape((num_heads, per_head, kv_lora_rank))?;
        Ok(Self {
            query: QueryProjection::load(weights, name, config)?,
            kv_a: Linear::load(weights, &format!("{name}.kv_a_proj_with_mqa"), kv_lora_rank + rope, hidden)?,
            kv_a_norm: RmsNorm::load(weights, &format!("{name}.kv_a_layernorm"), kv_lora_rank, LATENT_NORM_EPS)?,
            key_up: Weight::new(heads.narrow(1, 0, nope)?.transpose(1, 2)?.contiguous()?, WeightForm::Bf16, false)?,
            value_up: Weight::new(heads.narrow(1, nope, value)?.contiguous()?, WeightForm::Bf16, false)?,
            kv_b: Linear::new(kv_b)?,
            output: Linear::load(weights, &format!("{name}.o_proj"), hidden, num_heads * value)?,
            config: config.clone(),
        })
    }

    /// `x (rows, hidden)`, normalised, → f32 `(rows, hidden)`; writes the rows' cache entries first,
    /// so that fresh tokens are read back exactly as cached ones will be.
    pub fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        attention: &AttentionMetadata,
        cache: &Tensor,
    ) -> Result<Tensor> {
        let MlaConfig { num_heads, nope, rope, value, .. } = self.config;
        let num_rows = x.dim(0)?;
        let q = self.query.forward(x)?.reshape((num_rows, num_heads, nope + rope))?;
        let q_rope = rotary.apply(&q.narrow(D::Minus1, nope, rope)?.contiguous()?, &attention.positions)?;
        let q_nope = q.narrow(D::Minus1, 0, nope)?.contiguous()?;
        self.write_latents(x, rotary, attention, cache)?;

        let num_naive = attention.num_naive_rows();
        let mut parts = Vec::new();
        let mut start = 0;
        for sequence in &attention.naive {
            let rows = |part: &Tensor| part.narrow(0, start, sequence.num_rows);
            parts.push(self.naive(&rows(&q_nope)?, &rows(&q_rope)?, sequence, cache)?);
            start += sequence.num_rows;
        }
        if num_rows > num_naive {
            let rows = |part: &Tensor| part.narrow(0, num_naive, num_rows - num_naive);
            parts.push(self.absorbed(&rows(&q_nope)?, &rows(&q_rope)?, attention, cache)?);
        }
        let heads = Tensor::cat(&parts, 0)?.reshape((num_rows, num_heads * value))?;
        self.output.forward_f32(&heads)
    }

    fn write_latents(&self, x: &Tensor, rotary: &Rotary, attention: &AttentionMetadata, cache: &Tensor) -> Result<()> {
        let MlaConfig { kv_lora_rank, rope, .. } = self.config;
        let latent_and_key = self.kv_a.forward(x)?; // (rows, latent + rope)
        let latent = self.kv_a_norm.forward(&latent_and_key.narrow(1, 0, kv_lora_rank)?.contiguous()?)?;
        let key = latent_and_key.narrow(1, kv_lora_rank, rope)?.contiguous()?.unsqueeze(1)?;
        let key = rotary.apply(&key, &attention.positions)?.squeeze(1)?;
        let rows = Tensor::cat(&[latent, key], 1)?.to_dtype(cache.dtype())?;
        ops::write_cache_rows(cache, &rows, &attention.slots)
    }

    /// f32 `(rows, heads, value)`.
    fn absorbed(
        &self,
        q_nope: &Tensor,
        q_rope: &Tensor,
        attention: &AttentionMetadata,
        cache: &Tensor,
    ) -> Result<Tensor> {
        let num_rows = q_nope.dim(0)?;
        let q_latent = ops::batched_linear_f32(q_nope, &self.key_up)?;
        let q = Tensor::cat(&[q_latent, q_rope.to_dtype(candle_core::DType::F32)?], D::Minus1)?;
        let positions = attention.positions.narrow(0, attention.num_naive_rows(), num_rows)?;
        let rows = AbsorbedRows {
            block_tables: &attention.block_tables,
            row_sequences: &attention.row_sequences,
            positions: &positions,
            block_size: attention.block_size,
        };
        let MlaConfig { kv_lora_rank, softmax_scale, .. } = self.config;
        let latents = ops::mla_absorbed(&q, cache, &rows, kv_lora_rank, softmax_scale)?;
        ops::batched_linear_f32(&latents, &self.value_up)
    }

    /// f32 `(rows, heads, value)`.
    fn naive(&self, q_nope: &Tensor, q_rope: &Tensor, sequence: &NaiveSequence, cache: &Tensor) -> Result<Tensor> {
        let MlaConfig { num_heads, kv_lora_rank, nope, rope, value, softmax_scale, .. } = self.config;
        let q = Tensor::cat(&[q_nope, q_rope], D::Minus1)?.to_dtype(candle_core::DType::F32)?;
        let rows = NaiveRows { q: &q, start: sequence.start };
        let mut parts = Vec::new();
        for (piece, slots) in sequence.slots.chunks(NAIVE_PIECE).enumerate() {
            let cached = ops::gather_cache_rows(cache, slots)?;
            let latent = cached.narrow(1, 0, kv_lora_rank)?.contiguous()?;
            let k_rope = cached.narrow(1, kv_lora_rank, rope)?.contiguous()?;
            let kv = self.kv_b.forward(&latent)?.reshape((slots.len(), num_heads, nope + value))?;
            parts.push(ops::mla_naive(&rows, &kv, &k_rope, piece * NAIVE_PIECE, softmax_scale)?);
        }
        ops::merge_attention(&parts)
    }
}
