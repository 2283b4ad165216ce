//! Multi-head latent attention (DeepSeek-V2 report, section 2.1) over a paged latent cache.
//!
//! Per token and layer the cache holds the normalised latent and the rotated shared key:
//! `latent + rope` values, nothing per head.

use candle_core::Result;
use moesaic_kernels::ops::{self, AbsorbedRows, MlaQueries, NaiveRows, Weight};
use moesaic_kernels::{Tensor, WeightForm};

use super::{Linear, RmsNorm, Rotary};
use crate::{AttentionMetadata, ModelError, NaiveSequence, Weights};

/// The latent norms use this whatever `rms_norm_eps` says, as the models' own code does.
const LATENT_NORM_EPS: f64 = 1e-6;

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
        let shape = [num_heads * per_head, kv_lora_rank];
        let kv_b = weights.host_tensor(&format!("{name}.kv_b_proj.weight"), &shape, weights.dtype())?;
        let heads = kv_b.reshape((num_heads, per_head, kv_lora_rank))?;
        let weight = |tensor| Weight::new(tensor, WeightForm::Bf16, false, weights.device());
        Ok(Self {
            query: QueryProjection::load(weights, name, config)?,
            kv_a: Linear::load(weights, &format!("{name}.kv_a_proj_with_mqa"), kv_lora_rank + rope, hidden)?,
            kv_a_norm: RmsNorm::load(weights, &format!("{name}.kv_a_layernorm"), kv_lora_rank, LATENT_NORM_EPS)?,
            key_up: weight(heads.narrow(1, 0, nope)?.transpose(1, 2)?.contiguous()?)?,
            value_up: weight(heads.narrow(1, nope, value)?.contiguous()?)?,
            kv_b: Linear::new(weight(kv_b)?),
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
        let MlaConfig { num_heads, kv_lora_rank, nope, rope, value, softmax_scale, .. } = self.config;
        let num_rows = x.dims2()?.0;
        let q = self.query.forward(x)?.reshape(&[num_rows, num_heads, nope + rope])?;
        let rotation = rotary.rotation(&self.kv_a_norm, &attention.positions, &attention.slots);
        let queries = ops::mla_rotate(q, &self.kv_a.forward(x)?, cache, &rotation)?;

        let mut parts = Vec::new();
        let mut start = 0;
        for NaiveSequence { start: position, num_rows, slots } in &attention.naive {
            let widths = (kv_lora_rank, rope);
            let rows = NaiveRows { q: &queries.rows(start, *num_rows)?, start: *position, slots, widths };
            parts.push(ops::mla_naive(&rows, cache, self.kv_b.weight(), softmax_scale)?);
            start += num_rows;
        }
        if num_rows > start {
            parts.push(self.absorbed(&queries, (start, num_rows - start), attention, cache)?);
        }
        let heads = ops::concat_rows(parts)?.reshape(&[num_rows, num_heads * value])?;
        self.output.forward_f32(&heads)
    }

    /// Some of the rows: `(count, heads, value)`.
    fn absorbed(
        &self,
        queries: &MlaQueries,
        (start, count): (usize, usize),
        attention: &AttentionMetadata,
        cache: &Tensor,
    ) -> Result<Tensor> {
        let q = queries.absorbed(start, count, &self.key_up)?;
        let rows = AbsorbedRows {
            block_tables: &attention.block_tables,
            row_sequences: &attention.row_sequences,
            positions: &attention.positions.rows(start, count)?,
            block_size: attention.block_size,
        };
        let MlaConfig { kv_lora_rank, softmax_scale, .. } = self.config;
        let latents = ops::mla_absorbed(&q, cache, &rows, kv_lora_rank, softmax_scale)?;
        ops::batched_linear(&latents, &self.value_up)
    }
}
