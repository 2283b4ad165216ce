//! Embedding, norms and rotation: `rows.cu`.

use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Result};

use super::DeviceTensor;
use super::gpu::{Argument, Grid};

const MAX_THREADS: usize = 1024;
/// A number per warp.
const SCRATCH_BYTES: usize = MAX_THREADS / 32 * 4;

/// A block per row, with a thread for four of its values.
pub(super) fn rows(count: usize, width: usize, shared_bytes: usize) -> Grid {
    let threads = (width / 4).next_multiple_of(32).clamp(32, MAX_THREADS);
    Grid { blocks: (count, 1, 1), threads, shared_bytes }
}

/// f32 `(ids, width)`.
pub(crate) fn embed(table: &DeviceTensor, ids: &DeviceTensor) -> Result<DeviceTensor> {
    let (num_rows, width) = (ids.len(), table.shape()[1]);
    let out = DeviceTensor::temporary(table.gpu(), &[num_rows, width], DType::F32)?;
    let (table, ids) = (table.expect(DType::BF16)?, ids.expect(DType::U32)?);
    out.gpu().launch("embed", rows(num_rows, width, 0), &[&table, &ids, &out.address(), &(width as i32)])?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AddNormArgs {
    x: u64,
    delta: u64,
    row_ids: u64,
    weight: u64,
    sum: u64,
    out: u64,
    num_parts: i32,
    width: i32,
    eps: f32,
    unused: i32,
}

/// `x + delta` (of all rows; not for chosen ones) and its norm, bf16.
pub(crate) fn add_rms_norm(
    x: &DeviceTensor,
    delta: Option<&DeviceTensor>,
    row_ids: Option<&DeviceTensor>,
    weight: &DeviceTensor,
    eps: f64,
) -> Result<(Option<DeviceTensor>, DeviceTensor)> {
    let (gpu, width) = (x.gpu(), x.shape()[1]);
    let num_rows = row_ids.map_or(x.shape()[0], DeviceTensor::len);
    let needs_sum = delta.is_some() && row_ids.is_none();
    let sum = needs_sum.then(|| DeviceTensor::temporary(gpu, &[num_rows, width], DType::F32)).transpose()?;
    let out = DeviceTensor::temporary(gpu, &[num_rows, width], DType::BF16)?;
    let args = AddNormArgs {
        x: x.expect(DType::F32)?,
        delta: delta.map_or(Ok(0), |delta| delta.expect(DType::F32))?,
        row_ids: row_ids.map_or(Ok(0), |ids| ids.expect(DType::U32))?,
        weight: weight.expect(DType::BF16)?,
        sum: sum.as_ref().map_or(0, DeviceTensor::address),
        out: out.address(),
        num_parts: delta.map_or(0, |delta| (delta.len() / (x.len().max(1))) as i32),
        width: width as i32,
        eps: eps as f32,
        unused: 0,
    };
    gpu.launch("add_rms_norm", rows(num_rows, width, width * 4 + SCRATCH_BYTES), &[&args])?;
    Ok((sum, out))
}

/// bf16 of one shape.
pub(crate) fn rms_norm(x: &DeviceTensor, weight: &DeviceTensor, eps: f64) -> Result<DeviceTensor> {
    let width = weight.len();
    let num_rows = x.len() / width;
    let out = DeviceTensor::temporary(x.gpu(), x.shape(), DType::BF16)?;
    let (x, weight) = (x.expect(DType::BF16)?, weight.expect(DType::BF16)?);
    let arguments: [&dyn Argument; 5] = [&x, &weight, &out.address(), &(width as i32), &(eps as f32)];
    out.gpu().launch("rms_norm", rows(num_rows, width, SCRATCH_BYTES), &arguments)?;
    Ok(out)
}

/// What [`rotate`] needs besides queries and latents.
pub(crate) struct Rotation<'a> {
    pub norm_weight: &'a DeviceTensor,
    pub eps: f64,
    pub cos: &'a DeviceTensor,
    pub sin: &'a DeviceTensor,
    pub positions: &'a DeviceTensor,
    pub slots: &'a DeviceTensor,
    pub is_interleaved: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RotateArgs {
    q: u64,
    q_latent: u64,
    latent_and_key: u64,
    norm_weight: u64,
    cos: u64,
    sin: u64,
    positions: u64,
    slots: u64,
    cache: u64,
    num_heads: i32,
    nope: i32,
    rope: i32,
    latent: i32,
    eps: f32,
    interleaved: i32,
    is_fp8: i32,
    unused: i32,
}

/// Rotates `q (rows, heads, nope + rope)` in place and writes the cache; gives `(rows, heads, latent + rope)` whose last
/// part holds the rotated values.
pub(crate) fn rotate(
    q: &DeviceTensor,
    latent_and_key: &DeviceTensor,
    cache: &DeviceTensor,
    rotation: &Rotation,
) -> Result<DeviceTensor> {
    let (num_rows, num_heads, q_width) = (q.shape()[0], q.shape()[1], q.shape()[2]);
    let (rope, width) = (2 * rotation.cos.shape()[1], latent_and_key.shape()[1]);
    let q_latent = DeviceTensor::temporary(q.gpu(), &[num_rows, num_heads, width], DType::BF16)?;
    let args = RotateArgs {
        q: q.expect(DType::BF16)?,
        q_latent: q_latent.address(),
        latent_and_key: latent_and_key.expect(DType::BF16)?,
        norm_weight: rotation.norm_weight.expect(DType::BF16)?,
        cos: rotation.cos.expect(DType::F32)?,
        sin: rotation.sin.expect(DType::F32)?,
        positions: rotation.positions.expect(DType::U32)?,
        slots: rotation.slots.expect(DType::U32)?,
        cache: cache.address(),
        num_heads: num_heads as i32,
        nope: (q_width - rope) as i32,
        rope: rope as i32,
        latent: (width - rope) as i32,
        eps: rotation.eps as f32,
        interleaved: i32::from(rotation.is_interleaved),
        is_fp8: i32::from(cache.dtype() == DType::U8),
        unused: 0,
    };
    q.gpu().launch("mla_rotate", rows(num_rows, num_heads * rope + width, SCRATCH_BYTES), &[&args])?;
    Ok(q_latent)
}
