//! Absorbed attention over the paged cache: `attention.cu`.

use std::ops::RangeInclusive;

use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Result, bail};

use super::DeviceTensor;
use super::gpu::{Grid, SharedMemory};

const THREADS: usize = 256;
const MAX_SPLITS: usize = 64;
const MIN_SPLIT: usize = 256;
/// What the driver keeps for itself of each block's shared memory.
const RESERVED_BYTES: usize = 1 << 10;
const KEYS: usize = 32;
const PAD: usize = 8;
const MAX_LATENT: usize = 512;
/// Rows times splits of a launch at most: bounds the memory of the parts.
const MAX_PARTS: usize = 2048;
/// Heads of a block.
const HEADS: RangeInclusive<usize> = 16..=64;
/// With 16 heads.
const MAX_ROWS_PER_BLOCK: usize = 4;

/// Rows of queries and what they see.
pub(crate) struct AbsorbedForm<'a> {
    /// `(rows, heads, latent + rope)`.
    pub q: &'a DeviceTensor,
    /// `(slots, latent + rope)`, or u8 entries of 8 bits.
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
    num_splits: i32,
    num_rows: i32,
    rows_per_block: i32,
    unused: i32,
    scale: f32,
}

/// A kernel for so many heads per block, with so many tiles of keys in shared memory; chosen where so many blocks find
/// room on a multiprocessor.
#[derive(Debug, Clone, Copy)]
struct Variant {
    kernel: &'static str,
    fp8_kernel: &'static str,
    heads: usize,
    stages: usize,
    blocks: usize,
}

/// Sizes of a cached entry.
#[derive(Debug, Clone, Copy)]
struct EntrySize {
    width: usize,
    /// Of an entry in 8 bits.
    fp8_bytes: Option<usize>,
}

/// Those that read the cache least often first, then those of which one block computes while another waits.
const VARIANTS: [Variant; 5] = [
    Variant { kernel: "mla_attend64_2", fp8_kernel: "mla_attend64_2_fp8", heads: 64, stages: 2, blocks: 1 },
    Variant { kernel: "mla_attend32_2", fp8_kernel: "mla_attend32_2_fp8", heads: 32, stages: 2, blocks: 1 },
    Variant { kernel: "mla_attend16_2", fp8_kernel: "mla_attend16_2_fp8", heads: 16, stages: 2, blocks: 2 },
    Variant { kernel: "mla_attend16_3", fp8_kernel: "mla_attend16_3_fp8", heads: 16, stages: 3, blocks: 1 },
    Variant { kernel: "mla_attend16_2", fp8_kernel: "mla_attend16_2_fp8", heads: 16, stages: 2, blocks: 1 },
];

impl Variant {
    /// The one with fewest idle places among those that the GPU has the shared memory for. All give the same bits.
    fn choose(num_heads: usize, size: EntrySize, shared: SharedMemory) -> Result<Self> {
        let fits = |variant: &&Self| {
            let bytes = variant.shared_bytes(size);
            bytes <= shared.per_block && variant.blocks * (bytes + RESERVED_BYTES) <= shared.per_multiprocessor
        };
        let wanted = |variant: &&Self| variant.heads == *HEADS.start() || num_heads > variant.heads / 2;
        match VARIANTS.iter().filter(fits).find(wanted) {
            Some(variant) => Ok(*variant),
            None => {
                bail!(
                    "GPU: attention over {} values per token needs more shared memory than the {} bytes of this GPU",
                    size.width,
                    shared.per_block
                )
            }
        }
    }

    fn shared_bytes(self, size: EntrySize) -> usize {
        let Self { heads, stages, .. } = self;
        let (tiles, entries) = match size.fp8_bytes {
            None => (stages, 0),
            Some(bytes) => (1, stages * KEYS * bytes),
        };
        (heads + tiles * KEYS) * (size.width + PAD) * 2
            + entries
            + 2 * heads * (KEYS + PAD) * 4
            + heads * (KEYS + PAD) * 2
            + 2 * heads * 4
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
    // No row has more keys than its table leads to.
    let max_keys = form.tables.shape()[1] * form.block_size;
    let num_splits = MAX_SPLITS.min(max_keys.div_ceil(MIN_SPLIT)).max(1);
    let part_rows = num_rows.min((MAX_PARTS / num_splits).max(MAX_ROWS_PER_BLOCK));
    let parts = DeviceTensor::temporary(gpu, &[part_rows, num_splits, num_heads, latent], DType::F32)?;
    let log_sum_exps = DeviceTensor::temporary(gpu, &[part_rows, num_splits, num_heads], DType::F32)?;
    let is_fp8 = form.cache.dtype() == DType::U8;
    let size = EntrySize { width, fp8_bytes: is_fp8.then(|| form.cache.shape()[1]) };
    // Where sequences have several rows (chunks of prompts, guesses to be verified), neighbours share what is read.
    let shares = num_rows >= 2 * form.tables.shape()[0];
    let wanted_heads = if shares { num_heads.max(*HEADS.end()) } else { num_heads };
    let variant = Variant::choose(wanted_heads, size, gpu.info().shared_memory)?;
    let (heads, shared_bytes) = (variant.heads, variant.shared_bytes(size));
    let rows_per_block = if shares { (heads / num_heads.next_multiple_of(16)).max(1) } else { 1 };
    // A power of two, since the places of a block are divided evenly.
    let rows_per_block = 1 << rows_per_block.ilog2();
    let kernel = if is_fp8 { variant.fp8_kernel } else { variant.kernel };
    for first in (0..num_rows).step_by(part_rows.max(1)) {
        let count = part_rows.min(num_rows - first);
        let args = AttentionArgs {
            q: form.q.rows(first, count)?.expect(DType::BF16)?,
            cache: form.cache.address(),
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
            num_splits: num_splits as i32,
            num_rows: count as i32,
            rows_per_block: rows_per_block as i32,
            unused: 0,
            scale: form.scale,
        };
        // Splits that a row does not have end at once.
        let blocks = (num_heads.div_ceil(heads), num_splits, count.div_ceil(rows_per_block));
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
        let size = EntrySize { width: 576, fp8_bytes: None };
        // A kibibyte of a multiprocessor's shared memory is the driver's.
        let shared = |kib: usize| SharedMemory { per_block: kib << 10, per_multiprocessor: (kib + 1) << 10 };
        for (num_heads, shared_kib, kernel, blocks) in [
            (16, 227, "mla_attend16_2", 2),
            (16, 163, "mla_attend16_3", 1),
            (128, 227, "mla_attend64_2", 1),
            (128, 163, "mla_attend32_2", 1),
            (24, 163, "mla_attend32_2", 1),
            (128, 99, "mla_attend16_2", 1),
        ] {
            let variant = Variant::choose(num_heads, size, shared(shared_kib)).expect("one fits");
            assert_eq!((variant.kernel, variant.blocks), (kernel, blocks), "{num_heads} heads, {shared_kib} KiB");
        }
        assert!(Variant::choose(16, size, shared(48)).is_err());
    }
}
