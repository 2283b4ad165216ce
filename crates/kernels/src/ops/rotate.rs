//! What stands between the projections of latent attention and the attention itself.

use candle_core::{D, DType, Result, bail};

use super::cache::check_cache;
use crate::cuda::DeviceTensor;
use crate::{Tensor, cuda, host};

/// Which components are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Pairs of neighbours: (0, 1), (2, 3), … DeepSeek's MLA.
    Interleaved,
    /// A component and the one half a head further: (0, d/2), (1, d/2 + 1), …
    Half,
}

/// Tables, places and the latent's norm.
#[derive(Debug, Clone, Copy)]
pub struct MlaRotation<'a> {
    /// Weight of the latent's norm `(latent)`.
    pub norm_weight: &'a Tensor,
    /// Of that norm.
    pub eps: f64,
    /// f32 `(max_positions, rope / 2)`, any multiplier included.
    pub cos: &'a Tensor,
    /// As `cos`.
    pub sin: &'a Tensor,
    /// Which components are rotated together.
    pub layout: RopeLayout,
    /// u32 `(rows)`.
    pub positions: &'a Tensor,
    /// Cache slot of each row, u32 `(rows)`; [`host::NO_SLOT`] keeps nothing.
    pub slots: &'a Tensor,
}

/// Rotated queries.
#[derive(Debug)]
pub struct MlaQueries(Queries);

#[derive(Debug)]
enum Queries {
    /// `(rows, heads, nope)` and `(rows, heads, rope)`.
    Host(candle_core::Tensor, candle_core::Tensor),
    Device {
        /// `(rows, heads, nope + rope)`.
        q: DeviceTensor,
        /// `(rows, heads, latent + rope)`, of which the last part is there already.
        latent: DeviceTensor,
    },
}

/// Rotates `q (rows, heads, nope + rope)` and writes the cache entry of each row: the normalised latent and the rotated
/// shared key of `latent_and_key (rows, latent + rope)`. `q` may be changed in place.
///
/// # Errors
/// When the sizes or types do not fit, or, on the CPU, a position or slot is out of range.
pub fn mla_rotate(q: Tensor, latent_and_key: &Tensor, cache: &Tensor, rotation: &MlaRotation) -> Result<MlaQueries> {
    let ((num_rows, _, q_width), (entries, width)) = (q.dims3()?, latent_and_key.dims2()?);
    let rope = 2 * rotation.cos.dims2()?.1;
    let latent = rotation.norm_weight.dims1()?;
    let places_fit = rotation.positions.dims1()? == num_rows && rotation.slots.dims1()? == num_rows;
    if entries != num_rows
        || width != latent + rope
        || q_width < rope
        || rotation.sin.dims() != rotation.cos.dims()
        || !places_fit
    {
        bail!("mla_rotate: q {:?}, latent {latent_and_key:?}, cache {:?}", q.dims(), cache.dims());
    }
    check_cache(cache, latent, rope)?;
    match &q {
        Tensor::Host(rows) => {
            let (nope, rotated) = rotate_on_host(rows, latent_and_key.host()?, cache.host()?, rotation, rope)?;
            Ok(MlaQueries(Queries::Host(nope, rotated)))
        }
        Tensor::Device(rows) => {
            let form = cuda::Rotation {
                norm_weight: rotation.norm_weight.device()?,
                eps: rotation.eps,
                cos: rotation.cos.device()?,
                sin: rotation.sin.device()?,
                positions: rotation.positions.device()?,
                slots: rotation.slots.device()?,
                is_interleaved: rotation.layout == RopeLayout::Interleaved,
            };
            let latent = cuda::rotate(rows, latent_and_key.device()?, cache.device()?, &form)?;
            Ok(MlaQueries(Queries::Device { q: rows.clone(), latent }))
        }
    }
}

fn rotate_on_host(
    q: &candle_core::Tensor,
    latent_and_key: &candle_core::Tensor,
    cache: &candle_core::Tensor,
    rotation: &MlaRotation,
    rope: usize,
) -> Result<(candle_core::Tensor, candle_core::Tensor)> {
    let (cos, sin, positions) = (rotation.cos.host()?, rotation.sin.host()?, rotation.positions.host()?);
    let rotate = |x: &candle_core::Tensor| host::rope(x, cos, sin, positions, rotation.layout);
    let (nope, latent) = (q.dim(D::Minus1)? - rope, latent_and_key.dim(1)? - rope);
    let latents = latent_and_key.narrow(1, 0, latent)?.contiguous()?;
    let latents = host::rms_norm(&latents, rotation.norm_weight.host()?, rotation.eps)?;
    let keys = rotate(&latent_and_key.narrow(1, latent, rope)?.contiguous()?.unsqueeze(1)?)?.squeeze(1)?;
    let entries = candle_core::Tensor::cat(&[latents, keys], 1)?.to_dtype(cache.dtype())?;
    host::write_cache_rows(cache, &entries, rotation.slots.host()?)?;
    let rotated = rotate(&q.narrow(D::Minus1, nope, rope)?.contiguous()?)?;
    Ok((q.narrow(D::Minus1, 0, nope)?.contiguous()?, rotated))
}

impl MlaQueries {
    /// Some of the rows as they are, for the naive form: `(count, heads, nope + rope)`.
    ///
    /// # Errors
    /// When they are not all there.
    pub fn rows(&self, start: usize, count: usize) -> Result<Tensor> {
        match &self.0 {
            Queries::Host(nope, rotated) => {
                let parts = [nope.narrow(0, start, count)?, rotated.narrow(0, start, count)?];
                Ok(candle_core::Tensor::cat(&parts, D::Minus1)?.into())
            }
            Queries::Device { q, .. } => Ok(q.rows(start, count)?.into()),
        }
    }

    /// Some of the rows carried into latent space by `key_up (heads, latent, nope)`: `(count, heads, latent + rope)`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn absorbed(&self, start: usize, count: usize, key_up: &super::Weight) -> Result<Tensor> {
        match &self.0 {
            Queries::Host(nope, rotated) => {
                let carried = host::batched_linear_f32(&nope.narrow(0, start, count)?, key_up.host()?)?;
                let rotated = rotated.narrow(0, start, count)?.to_dtype(DType::F32)?;
                Ok(candle_core::Tensor::cat(&[carried, rotated], D::Minus1)?.into())
            }
            Queries::Device { q, latent } => {
                let (q, out) = (q.rows(start, count)?, latent.rows(start, count)?);
                cuda::absorb(&q, key_up.device()?, &out)?;
                Ok(out.into())
            }
        }
    }
}
