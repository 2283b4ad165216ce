//! Naive attention: `naive.cu`, and the reading of cached rows for it.

use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Result, bail};

use super::DeviceTensor;
use super::gpu::{Argument, Grid};
use super::rows::rows;

const THREADS: usize = 128;
const ROWS: usize = 64;
const KEYS: usize = 64;
const PAD: usize = 8;
const MAX_VALUE: usize = 128;

/// Queries of one sequence and a run of expanded keys.
pub(crate) struct NaiveForm<'a> {
    /// `(rows, heads, nope + rope)`.
    pub q: &'a DeviceTensor,
    /// `(keys, heads, nope + value)`.
    pub kv: &'a DeviceTensor,
    /// `(keys, rope)`.
    pub k_rope: &'a DeviceTensor,
    pub query_start: usize,
    pub key_start: usize,
    pub scale: f32,
}

/// What the pieces of keys so far gave, while there are more to come.
pub(crate) struct NaiveState {
    parts: Option<DeviceTensor>, // (rows, heads, value)
    log_sum_exps: DeviceTensor,  // (rows, heads)
    out: DeviceTensor,           // (rows, heads, value)
    num_pieces: usize,
}

impl NaiveState {
    /// For queries `(rows, heads, ..)` over so many pieces.
    pub fn new(q: &DeviceTensor, value: usize, num_pieces: usize) -> Result<Self> {
        let (gpu, rows, heads) = (q.gpu(), q.shape()[0], q.shape()[1]);
        let parts = (num_pieces > 1).then(|| DeviceTensor::temporary(gpu, &[rows, heads, value], DType::F32));
        Ok(Self {
            parts: parts.transpose()?,
            log_sum_exps: DeviceTensor::temporary(gpu, &[rows, heads], DType::F32)?,
            out: DeviceTensor::temporary(gpu, &[rows, heads, value], DType::BF16)?,
            num_pieces,
        })
    }

    /// After the last piece: bf16 `(rows, heads, value)`.
    pub fn finish(self) -> DeviceTensor {
        self.out
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NaiveArgs {
    q: u64,
    kv: u64,
    k_rope: u64,
    parts: u64,
    log_sum_exps: u64,
    out: u64,
    num_rows: i32,
    num_keys: i32,
    num_heads: i32,
    nope: i32,
    rope: i32,
    value: i32,
    query_start: i32,
    key_start: i32,
    scale: f32,
    is_first: i32,
}

/// Adds a piece; they come in order.
pub(crate) fn naive(form: &NaiveForm, state: &NaiveState, piece: usize) -> Result<()> {
    let (&[num_rows, num_heads, width], &[num_keys, _, kv_width]) = (form.q.shape(), form.kv.shape()) else {
        bail!("naive: q {:?}, kv {:?}", form.q.shape(), form.kv.shape());
    };
    let rope = form.k_rope.shape()[1];
    let nope = width - rope;
    let value = kv_width - nope;
    if [nope, rope, value].iter().any(|width| *width == 0 || !width.is_multiple_of(8)) || value > MAX_VALUE {
        bail!("GPU: head sizes {nope}, {rope} and {value}: multiples of 8 are supported, values up to {MAX_VALUE}");
    }
    let args = NaiveArgs {
        q: form.q.expect(DType::BF16)?,
        kv: form.kv.expect(DType::BF16)?,
        k_rope: form.k_rope.expect(DType::BF16)?,
        parts: state.parts.as_ref().map_or(0, DeviceTensor::address),
        log_sum_exps: state.log_sum_exps.address(),
        out: if piece + 1 == state.num_pieces { state.out.address() } else { 0 },
        num_rows: num_rows as i32,
        num_keys: num_keys as i32,
        num_heads: num_heads as i32,
        nope: nope as i32,
        rope: rope as i32,
        value: value as i32,
        query_start: form.query_start as i32,
        key_start: form.key_start as i32,
        scale: form.scale,
        is_first: i32::from(piece == 0),
    };
    let (pitch, value_pitch) = (width.next_multiple_of(16) + PAD, value.next_multiple_of(16) + PAD);
    let shared_bytes = ((ROWS + KEYS) * pitch + KEYS * value_pitch) * 2;
    let blocks = (num_heads, num_rows.div_ceil(ROWS), 1);
    form.q.gpu().launch("mla_naive", Grid { blocks, threads: THREADS, shared_bytes }, &[&args])
}

/// The cached entries at `slots`: latents `(slots, latent)` and keys `(slots, rope)`.
pub(crate) fn gather(
    cache: &DeviceTensor,
    slots: &DeviceTensor,
    (latent, rope): (usize, usize),
) -> Result<(DeviceTensor, DeviceTensor)> {
    let count = slots.len();
    let latents = DeviceTensor::temporary(cache.gpu(), &[count, latent], DType::BF16)?;
    let keys = DeviceTensor::temporary(cache.gpu(), &[count, rope], DType::BF16)?;
    let pointers = [cache.address(), slots.expect(DType::U32)?, latents.address(), keys.address()];
    let sizes = [latent as i32, rope as i32, i32::from(cache.dtype() == DType::U8)];
    let arguments: [&dyn Argument; 7] =
        [&pointers[0], &pointers[1], &pointers[2], &pointers[3], &sizes[0], &sizes[1], &sizes[2]];
    cache.gpu().launch("gather_cache", rows(count, latent, 0), &arguments)?;
    Ok((latents, keys))
}
