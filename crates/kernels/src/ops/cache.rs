//! The latent cache's entries, in the two forms that they have.

use candle_core::{DType, Result, bail};

use crate::Tensor;

/// Latents that share a scale in 8 bits.
const SCALE_GROUP: usize = 128;

/// Bytes of a cache entry of `latent` and `rope` values in 8 bits: e4m3 latents, an f32 scale per 128 of them and bf16
/// keys, each part padded to 16 bytes. 656 for DeepSeek's sizes, as peers lay it out.
pub fn fp8_entry_bytes(latent: usize, rope: usize) -> usize {
    let parts = [latent, latent.div_ceil(SCALE_GROUP) * size_of::<f32>(), rope * 2];
    parts.into_iter().map(|bytes| bytes.next_multiple_of(16)).sum()
}

/// That a cache holds entries of these sizes: `(slots, latent + rope)`, or on a GPU u8 `(slots, bytes)`.
pub(super) fn check_cache(cache: &Tensor, latent: usize, rope: usize) -> Result<()> {
    let expected = if cache.dtype() == DType::U8 { fp8_entry_bytes(latent, rope) } else { latent + rope };
    let is_possible = matches!(
        (cache, cache.dtype()),
        (Tensor::Host(_), DType::F32 | DType::BF16) | (Tensor::Device(_), DType::BF16 | DType::U8)
    );
    if cache.dims2()?.1 != expected || !is_possible {
        bail!("a cache {:?} of {:?} for a latent of {latent} and {rope} behind", cache.dims(), cache.dtype());
    }
    Ok(())
}
