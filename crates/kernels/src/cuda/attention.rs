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

/// A kernel for so many heads per block, with so many tiles of keys in shared memory.
#[derive(Debug, Clone, Copy)]
struct Variant {
    kernel: &'static str,
    heads: usize,
    stages: usize,
}

/// Those that read the cache least often first.
const VARIANTS: [Variant; 4] = [
    Variant { kernel: "mla_attend64_2", heads: 64, stages: 2 },
    Variant { kernel: "mla_attend32_2", heads: 32, stages: 2 },
    Variant { kernel: "mla_attend16_3", heads: 16, stages: 3 },
    Variant { kernel: "mla_attend16_2", heads: 16, stages: 2 },
];

impl Variant {
    /// The one with fewest idle places among those that the GPU has the shared memory for. All give the same bits.
    fn choose(num_heads: usize, width: usize, shared_bytes: usize) -> Result<Self> {
        let fits = |variant: &&Self| variant.shared_bytes(width) <= shared_bytes;
        let wanted = |variant: &&Self| variant.heads == 16 || num_heads > variant.heads / 2;
        match VARIANTS.iter().filter(fits).find(wanted) {
            Some(variant) => Ok(*variant),
            None => bail!("GPU: attention over {width} values needs more shared memory than {shared_bytes} bytes"),
        }
    }

    fn shared_bytes(self, width: usize) -> usize {
        let Self { heads, stages, .. } = self;
        (heads + stages * KEYS) * (width + PAD) * 2 + 2 * heads * KEYS * 4 + heads * (KEYS + PAD) * 2 + 2 * heads * 4
    }
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
    let variant = Variant::choose(num_heads, width, gpu.info().shared_bytes_per_block)?;
    let (kernel, heads, shared_bytes) = (variant.kernel, variant.heads, variant.shared_bytes(width));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// DeepSeek's sizes on an H100, an A100 and a card for games.
    #[test]
    fn variants_fit_the_gpu() {
        for (num_heads, shared_kib, kernel) in [
            (16, 227, "mla_attend16_3"),
            (128, 227, "mla_attend64_2"),
            (128, 163, "mla_attend32_2"),
            (24, 163, "mla_attend32_2"),
            (128, 99, "mla_attend16_2"),
        ] {
            let variant = Variant::choose(num_heads, 576, shared_kib << 10).expect("one fits");
            assert_eq!(variant.kernel, kernel, "{num_heads} heads, {shared_kib} KiB");
        }
        assert!(Variant::choose(16, 576, 48 << 10).is_err());
    }
}
