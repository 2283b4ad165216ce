//! Absorbed attention over the paged cache: `attention.cu`.

use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Result, bail};

use super::DeviceTensor;
use super::gpu::Grid;

const THREADS: usize = 256;
const MAX_SPLITS: usize = 16;
const KEYS: usize = 32;
const PAD: usize = 8;
const MAX_LATENT: usize = 512;
/// Rows of a launch at most: bounds the memory of the parts.
const MAX_ROWS: usize = 256;

/// Rows of queries and what they see.
pub(crate) struct AbsorbedForm<'a> {
    /// `(rows, heads, latent + rope)`.
    pub q: &'a DeviceTensor,
    /// `(slots, latent + rope)`.
    pub cache: &'a DeviceTensor,
    /// `(sequences, max_blocks)`.
    pub tables: &'a DeviceTensor,
    pub row_sequences: &'a DeviceTensor,
    pub positions: &'a DeviceTensor,
    pub block_size: usize,
    pub latent: usize,
    pub scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AttentionArgs {
    q: u64,
    cache: u64,
    tables: u64,
    row_sequences: u64,
    positions: u64,
    parts: u64,
    log_sum_exps: u64,
    out: u64,
    num_heads: i32,
    latent: i32,
    rope: i32,
    max_blocks: i32,
    block_size: i32,
    scale: f32,
}

/// bf16 `(rows, heads, latent)`.
pub(crate) fn attend(form: &AbsorbedForm) -> Result<DeviceTensor> {
    let &[num_rows, num_heads, width] = form.q.shape() else { bail!("attention: q {:?}", form.q.shape()) };
    let latent = form.latent;
    if !latent.is_multiple_of(16) || !width.is_multiple_of(16) || latent > MAX_LATENT {
        bail!(
            "GPU: a latent of {latent} with {} behind: multiples of 16 up to {MAX_LATENT} are supported",
            width - latent
        );
    }
    let gpu = form.q.gpu();
    let out = DeviceTensor::temporary(gpu, &[num_rows, num_heads, latent], DType::BF16)?;
    let part_rows = num_rows.min(MAX_ROWS);
    let parts = DeviceTensor::temporary(gpu, &[part_rows, MAX_SPLITS, num_heads, latent], DType::F32)?;
    let log_sum_exps = DeviceTensor::temporary(gpu, &[part_rows, MAX_SPLITS, num_heads], DType::F32)?;
    let (kernel, heads, stages) = match num_heads {
        0..=16 => ("mla_attend16", 16, 3),
        17..=32 => ("mla_attend32", 32, 2),
        _ => ("mla_attend64", 64, 2),
    };
    let pitch = width + PAD;
    let shared_bytes =
        (heads + stages * KEYS) * pitch * 2 + 2 * heads * KEYS * 4 + heads * (KEYS + PAD) * 2 + 2 * heads * 4;
    for first in (0..num_rows).step_by(MAX_ROWS) {
        let count = MAX_ROWS.min(num_rows - first);
        let args = AttentionArgs {
            q: form.q.rows(first, count)?.expect(DType::BF16)?,
            cache: form.cache.expect(DType::BF16)?,
            tables: form.tables.expect(DType::U32)?,
            row_sequences: form.row_sequences.rows(first, count)?.expect(DType::U32)?,
            positions: form.positions.rows(first, count)?.expect(DType::U32)?,
            parts: parts.address(),
            log_sum_exps: log_sum_exps.address(),
            out: out.rows(first, count)?.address(),
            num_heads: num_heads as i32,
            latent: latent as i32,
            rope: (width - latent) as i32,
            max_blocks: form.tables.shape()[1] as i32,
            block_size: form.block_size as i32,
            scale: form.scale,
        };
        // Splits that a row does not have end at once.
        let blocks = (num_heads.div_ceil(heads), MAX_SPLITS, count);
        gpu.launch(kernel, Grid { blocks, threads: THREADS, shared_bytes }, &[&args])?;
        let blocks = (num_heads, count, 1);
        gpu.launch("merge_splits", Grid { blocks, threads: THREADS, shared_bytes: 0 }, &[&args])?;
    }
    Ok(out)
}
