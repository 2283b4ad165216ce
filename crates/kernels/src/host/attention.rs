//! Multi-head latent attention over the paged cache, in its two forms.
//!
//! *Absorbed*: queries are carried into latent space, so that every head reads the same cached
//! row. *Naive*: cached rows are expanded to keys and values of each head. Equal in exact
//! arithmetic; the absorbed form reads less, the naive one computes less for long prompts
//! (DeepSeek-V2 report, section 2.1).

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::operand::{Operand, with_float};
use crate::cpu::{self, KeyValues};

/// Which cached tokens the rows of an absorbed batch see.
#[derive(Debug)]
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
/// `q`: f32 `(rows, heads, latent + rope)`, the absorbed part first; `cache`: `(slots, latent +
/// rope)`; gives f32 `(rows, heads, latent)`, the weighted latents.
///
/// # Errors
/// When sizes or types do not fit, or a table or position points outside the cache.
pub fn mla_absorbed(q: &Tensor, cache: &Tensor, rows: &AbsorbedRows, latent: usize, scale: f32) -> Result<Tensor> {
    let (num_rows, num_heads, width) = q.dims3()?;
    let (num_slots, cache_width) = cache.dims2()?;
    let (num_sequences, max_blocks) = rows.block_tables.dims2()?;
    if cache_width != width
        || latent > width
        || rows.positions.dims1()? != num_rows
        || rows.row_sequences.dims1()? != num_rows
    {
        bail!("mla_absorbed: q {:?}, cache {:?}, positions {:?}", q.dims(), cache.dims(), rows.positions.dims());
    }
    let views = [q, rows.block_tables, rows.row_sequences, rows.positions].map(Operand::new);
    let (tables, sequences, positions) = (views[1].slice::<u32>()?, views[2].slice::<u32>()?, views[3].slice::<u32>()?);
    for (sequence, position) in sequences.iter().zip(positions) {
        let num_blocks = *position as usize / rows.block_size + 1;
        let blocks = tables.chunks(max_blocks.max(1)).nth(*sequence as usize);
        let in_cache = |block: &u32| (*block as usize + 1) * rows.block_size <= num_slots;
        if !blocks.is_some_and(|blocks| num_blocks <= max_blocks && blocks[..num_blocks].iter().all(in_cache)) {
            bail!("mla_absorbed: position {position} of sequence {sequence} of {num_sequences} lies outside the cache");
        }
    }
    let shape = cpu::AttentionShape { num_heads, width, latent, scale };
    let (q_values, cache_view, block_size) = (views[0].slice::<f32>()?, Operand::new(cache), rows.block_size);
    let out = if cache.dtype() == DType::BF16 {
        let pages = cpu::Pages { cache: cache_view.slice::<bf16>()?, tables, max_blocks, block_size };
        let arithmetic = cpu::Arithmetic::best(cpu::WeightForm::Bf16);
        cpu::latent_attention(&cpu::LatentRows { q: q_values, pages, sequences, positions, shape, arithmetic })
    } else {
        let pages = cpu::Pages { cache: cache_view.slice::<f32>()?, tables, max_blocks, block_size };
        cpu::absorbed_attention(q_values, &pages, sequences, positions, &shape)
    };
    Tensor::from_vec(out, (num_rows, num_heads, latent), q.device())
}

/// Queries of one sequence for the naive form.
#[derive(Debug)]
pub struct NaiveRows<'a> {
    /// f32 `(rows, heads, nope + rope)`.
    pub q: &'a Tensor,
    /// Position of the first row; the others follow.
    pub start: usize,
}

/// Attention over some of the keys, to be merged with the rest.
#[derive(Debug)]
pub struct NaivePart {
    /// Softmax-weighted values of this part, f32 `(rows, heads, value)`.
    pub output: Tensor,
    /// Logarithm of this part's softmax denominator, f32 `(rows, heads)`; -inf where no key is seen.
    pub log_sum_exp: Tensor,
}

/// Causal attention of one sequence over a run of expanded keys.
///
/// `kv`: `(keys, heads, nope + value)`; `k_rope`: `(keys, rope)`, shared by the heads;
/// `key_start`: position of the first key.
///
/// # Errors
/// When sizes or types do not fit.
pub fn mla_naive(rows: &NaiveRows, kv: &Tensor, k_rope: &Tensor, key_start: usize, scale: f32) -> Result<NaivePart> {
    let (num_rows, num_heads, width) = rows.q.dims3()?;
    let (num_keys, kv_heads, kv_width) = kv.dims3()?;
    let (rope_keys, rope) = k_rope.dims2()?;
    let Some(nope) = width.checked_sub(rope).filter(|nope| *nope < kv_width) else {
        bail!("mla_naive: q {:?}, kv {:?}, k_rope {:?}", rows.q.dims(), kv.dims(), k_rope.dims());
    };
    if kv_heads != num_heads || rope_keys != num_keys || kv.dtype() != k_rope.dtype() {
        bail!("mla_naive: q {:?}, kv {:?}, k_rope {:?}", rows.q.dims(), kv.dims(), k_rope.dims());
    }
    let views = [rows.q, kv, k_rope].map(Operand::new);
    let value = kv_width - nope;
    let q = views[0].slice::<f32>()?;
    let (output, log_sum_exp) = if kv.dtype() == DType::BF16 {
        let (kv, k_rope) = (views[1].slice::<bf16>()?, views[2].slice::<bf16>()?);
        let keys = KeyValues { kv, k_rope, num_heads, nope, rope, value, start: key_start };
        cpu::tiled_naive_attention(cpu::Arithmetic::best(cpu::WeightForm::Bf16), q, rows.start, &keys, scale)
    } else {
        with_float!(kv.dtype(), T => {
            let (kv, k_rope) = (views[1].slice::<T>()?, views[2].slice::<T>()?);
            let keys = KeyValues { kv, k_rope, num_heads, nope, rope, value, start: key_start };
            cpu::naive_attention(q, rows.start, &keys, scale)
        })
    };
    Ok(NaivePart {
        output: Tensor::from_vec(output, (num_rows, num_heads, value), rows.q.device())?,
        log_sum_exp: Tensor::from_vec(log_sum_exp, (num_rows, num_heads), rows.q.device())?,
    })
}

/// Joins parts over disjoint keys into attention over all of them: f32 `(rows, heads, value)`.
///
/// # Errors
/// When there is no part or their shapes differ.
pub fn merge_attention(parts: &[NaivePart]) -> Result<Tensor> {
    let Some(first) = parts.first() else { bail!("merge_attention: nothing to merge") };
    if parts.len() == 1 {
        return Ok(first.output.clone());
    }
    let (_, _, value) = first.output.dims3()?;
    if parts.iter().any(|part| part.output.dims() != first.output.dims()) {
        bail!("merge_attention: the parts differ in shape");
    }
    let views: Vec<_> =
        parts.iter().map(|part| (Operand::new(&part.output), Operand::new(&part.log_sum_exp))).collect();
    let slices = views
        .iter()
        .map(|(output, lse)| Ok((output.slice::<f32>()?, lse.slice::<f32>()?)))
        .collect::<Result<Vec<_>>>()?;
    Tensor::from_vec(cpu::merge_parts(&slices, value), first.output.shape(), first.output.device())
}
