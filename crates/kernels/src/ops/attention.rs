//! Multi-head latent attention over the paged cache, in its two forms.
//!
//! *Absorbed*: queries are carried into latent space, so that every head reads the same cached row. *Naive*: cached rows
//! are expanded to keys and values of each head. Equal in exact arithmetic; the absorbed form reads less, the naive one
//! computes less for long prompts (DeepSeek-V2 report, section 2.1).

use candle_core::{DType, Result, bail};

use super::cache::check_cache;
use super::{Weight, linear};
use crate::cuda::DeviceTensor;
use crate::{Tensor, cuda, host};

/// Cached tokens that the naive form expands at a time; bounds its workspace. Cut at absolute positions, so results do not
/// depend on where a chunk began.
const NAIVE_PIECE: usize = 1024;

/// Which cached tokens the rows of an absorbed batch see.
#[derive(Debug, Clone, Copy)]
pub struct AbsorbedRows<'a> {
    /// Block ids, u32 `(sequences, max_blocks)`; unused places hold anything in range.
    pub block_tables: &'a Tensor,
    /// Row of `block_tables`, u32 `(rows)`.
    pub row_sequences: &'a Tensor,
    /// Each row sees the cached positions `0 ..= position`, u32 `(rows)`.
    pub positions: &'a Tensor,
    /// Tokens per block.
    pub block_size: usize,
}

/// Attention in latent space.
///
/// `q`: `(rows, heads, latent + rope)`, the absorbed part first; `cache`: `(slots, latent + rope)`; gives
/// `(rows, heads, latent)`, the weighted latents: f32 on the CPU, bf16 on a GPU.
///
/// # Errors
/// When sizes or types do not fit, or, on the CPU, a table or position points outside the cache. (A GPU's caller checks
/// them: they are not looked at on the host.)
pub fn mla_absorbed(q: &Tensor, cache: &Tensor, rows: &AbsorbedRows, latent: usize, scale: f32) -> Result<Tensor> {
    let (num_rows, _, width) = q.dims3()?;
    if latent > width
        || rows.positions.dims1()? != num_rows
        || rows.row_sequences.dims1()? != num_rows
        || rows.block_tables.dims2()?.1 == 0
    {
        bail!("mla_absorbed: q {:?}, cache {:?}, positions {:?}", q.dims(), cache.dims(), rows.positions.dims());
    }
    check_cache(cache, latent, width - latent)?;
    match q {
        Tensor::Host(q) => {
            let rows = host::AbsorbedRows {
                block_tables: rows.block_tables.host()?,
                row_sequences: rows.row_sequences.host()?,
                positions: rows.positions.host()?,
                block_size: rows.block_size,
            };
            Ok(host::mla_absorbed(q, cache.host()?, &rows, latent, scale)?.into())
        }
        Tensor::Device(q) => {
            let form = cuda::AbsorbedForm {
                q,
                cache: cache.device()?,
                tables: rows.block_tables.device()?,
                row_sequences: rows.row_sequences.device()?,
                positions: rows.positions.device()?,
                block_size: rows.block_size,
                latent,
                scale,
            };
            Ok(cuda::attend(&form)?.into())
        }
    }
}

/// Queries of one sequence for the naive form, and what they see.
#[derive(Debug, Clone, Copy)]
pub struct NaiveRows<'a> {
    /// `(rows, heads, nope + rope)`.
    pub q: &'a Tensor,
    /// Position of the first row; the others follow.
    pub start: usize,
    /// Cache slots of positions `0 .. start + rows`, u32.
    pub slots: &'a Tensor,
    /// Width of the cached latents, and of the keys behind them.
    pub widths: (usize, usize),
}

/// Causal attention of one sequence over its cached rows, expanded by `kv_b (heads · (nope + value), latent)`:
/// `(rows, heads, value)`, f32 on the CPU, bf16 on a GPU.
///
/// # Errors
/// When sizes or types do not fit, or, on the CPU, a slot is out of range.
pub fn mla_naive(rows: &NaiveRows, cache: &Tensor, kv_b: &Weight, scale: f32) -> Result<Tensor> {
    let (num_rows, num_heads, q_width) = rows.q.dims3()?;
    let ((num_out, num_in), (latent, rope), num_keys) = (kv_b.matrix()?, rows.widths, rows.slots.dims1()?);
    check_cache(cache, latent, rope)?;
    let kv_width = num_out / num_heads.max(1);
    if num_in != latent || num_keys != rows.start + num_rows || q_width < rope || kv_width * num_heads != num_out {
        bail!("mla_naive: q {:?} from {}, {num_keys} slots, kv_b ({num_out}, {num_in})", rows.q.dims(), rows.start);
    }
    match rows.q {
        Tensor::Host(q) => naive_on_host(q, rows, cache, kv_b, scale),
        Tensor::Device(q) => {
            let num_pieces = num_keys.div_ceil(NAIVE_PIECE);
            let value = kv_width - (q_width - rope);
            let cache = cache.device()?;
            let state = cuda::NaiveState::new(q, value, num_pieces)?;
            for piece in 0..num_pieces {
                let first = piece * NAIVE_PIECE;
                let slots = rows.slots.rows(first, NAIVE_PIECE.min(num_keys - first))?;
                let (latents, k_rope) = cuda::gather(cache, slots.device()?, rows.widths)?;
                let count = latents.shape()[0];
                let kv = cuda::linear(&latents, kv_b.device()?, DType::BF16)?.reshape(&[count, num_heads, kv_width])?;
                let form =
                    cuda::NaiveForm { q, kv: &kv, k_rope: &k_rope, query_start: rows.start, key_start: first, scale };
                cuda::naive(&form, &state, piece)?;
            }
            Ok(state.finish().into())
        }
    }
}

fn naive_on_host(
    q: &candle_core::Tensor,
    rows: &NaiveRows,
    cache: &Tensor,
    kv_b: &Weight,
    scale: f32,
) -> Result<Tensor> {
    let ((_, num_heads, _), (latent, _)) = (q.dims3()?, rows.widths);
    let q = q.to_dtype(DType::F32)?;
    let form = host::NaiveRows { q: &q, start: rows.start };
    let slots: Vec<u32> = rows.slots.host()?.to_vec1()?;
    let mut parts = Vec::new();
    for (piece, slots) in slots.chunks(NAIVE_PIECE).enumerate() {
        let cached = host::gather_cache_rows(cache.host()?, slots)?;
        let latents = cached.narrow(1, 0, latent)?.contiguous()?;
        let k_rope = cached.narrow(1, latent, cached.dim(1)? - latent)?.contiguous()?;
        let kv = linear(&latents.into(), kv_b)?.host()?.reshape((slots.len(), num_heads, ()))?;
        parts.push(host::mla_naive(&form, &kv, &k_rope, piece * NAIVE_PIECE, scale)?);
    }
    Ok(host::merge_attention(&parts)?.into())
}

/// Rows one behind the other.
///
/// # Errors
/// When there are none, or widths or types differ.
pub fn concat_rows(parts: Vec<Tensor>) -> Result<Tensor> {
    let [first, _, ..] = &parts[..] else {
        return parts.into_iter().next().ok_or_else(|| candle_core::Error::msg("concat_rows: nothing"));
    };
    match first {
        Tensor::Host(_) => {
            let parts = parts.iter().map(Tensor::host).collect::<Result<Vec<_>>>()?;
            Ok(candle_core::Tensor::cat(&parts, 0)?.into())
        }
        Tensor::Device(first) => {
            let mut shape = first.shape().to_vec();
            shape[0] = parts.iter().map(|part| part.dims()[0]).sum();
            let out = DeviceTensor::temporary(first.gpu(), &shape, first.dtype())?;
            let mut start = 0;
            for part in &parts {
                part.device()?.copy_to_rows(&out, start)?;
                start += part.dims()[0];
            }
            Ok(out.into())
        }
    }
}
