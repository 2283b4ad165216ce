//! Products with weights: `gemm.cu`.

use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Result, bail};

use super::DeviceTensor;
use super::gpu::Grid;

const THIN_THREADS: usize = 256;
const TILED_STAGE_BYTES: usize = 32 * 2;
const STAGES: usize = 4;

/// Weights `(groups, parts · out, in)`: bf16, or e4m3 with scales of blocks.
#[derive(Debug, Clone)]
pub struct DeviceMatrix {
    /// bf16 or u8.
    pub(crate) values: DeviceTensor,
    pub(crate) scales: Option<BlockScales>,
    /// Gate rows, then as many up rows.
    pub(crate) is_gated: bool,
}

/// f32 scales `(groups, parts, ceil(out / rows), ceil(in / columns))`.
#[derive(Debug, Clone)]
pub struct BlockScales {
    pub(crate) values: DeviceTensor,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl DeviceMatrix {
    /// From bf16 `(groups, out, in)`. `is_gated`: out is gate rows, then as many up rows.
    ///
    /// # Errors
    /// When the shape is another or `in` is no multiple of 8.
    pub fn new(values: DeviceTensor, is_gated: bool) -> Result<Self> {
        values.expect(DType::BF16)?;
        Self { values, scales: None, is_gated }.checked()
    }

    /// From e4m3 as u8 `(groups, out, in)` and f32 scales `(groups, parts, ceil(out / parts / rows), ceil(in / columns))`
    /// of blocks of rows and columns, parts being 2 where `is_gated`.
    ///
    /// # Errors
    /// As [`Self::new`], and when the scales do not fit or a block's columns are no power of two from 8 on.
    pub fn fp8(values: DeviceTensor, scales: DeviceTensor, block: (usize, usize), is_gated: bool) -> Result<Self> {
        values.expect(DType::U8)?;
        scales.expect(DType::F32)?;
        let num_parts = if is_gated { 2 } else { 1 };
        let [groups, num_out, num_in] = *values.shape() else { bail!("fp8: {:?} are not matrices", values.shape()) };
        let (rows, columns) = block;
        let expected = [groups, num_parts, (num_out / num_parts).div_ceil(rows), num_in.div_ceil(columns)];
        if columns < 8 || !columns.is_power_of_two() {
            bail!("GPU: fp8 blocks of {columns} columns: powers of two from 8 on are supported");
        }
        if scales.shape() != expected {
            bail!("fp8: scales {:?} of blocks {block:?} for {:?}", scales.shape(), values.shape());
        }
        Self { values, scales: Some(BlockScales { values: scales, rows, columns }), is_gated }.checked()
    }

    fn checked(self) -> Result<Self> {
        match *self.values.shape() {
            [_, num_out, num_in] if num_in % 8 == 0 && (!self.is_gated || num_out % 2 == 0) => Ok(self),
            _ => bail!("GPU: weights {:?}: the inner size must be a multiple of 8", self.values.shape()),
        }
    }

    /// Groups, outputs (gate and up both) and inputs.
    pub fn dims(&self) -> (usize, usize, usize) {
        (self.values.shape()[0], self.values.shape()[1], self.values.shape()[2])
    }
}

/// Pointers and sizes of a launch, as `gemm.cuh` declares them.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct GemmArgs {
    pub x: u64,
    pub w: u64,
    pub scales: u64,
    pub out: u64,
    pub tiles: u64,
    pub x_rows: u64,
    pub out_rows: u64,
    pub row_weights: u64,
    pub x_stride: i64,
    pub x_group_stride: i64,
    pub out_stride: i64,
    pub out_group_stride: i64,
    pub m: i32,
    pub n: i32,
    pub k: i32,
    pub block_rows: i32,
    pub block_columns: i32,
    pub slots: i32,
    pub out_slots: i32,
    pub unused: i32,
}

impl GemmArgs {
    /// Rows that lie one behind the other, of a single group.
    pub fn new(weights: &DeviceMatrix, m: usize, x: u64, out: u64) -> Self {
        let (_, num_out, k) = weights.dims();
        let n = if weights.is_gated { num_out / 2 } else { num_out };
        let (scales, block_rows, block_columns) =
            weights.scales.as_ref().map_or((0, 1, 8), |scales| (scales.values.address(), scales.rows, scales.columns));
        Self {
            x,
            w: weights.values.address(),
            scales,
            out,
            tiles: 0,
            x_rows: 0,
            out_rows: 0,
            row_weights: 0,
            x_stride: k as i64,
            x_group_stride: 0,
            out_stride: n as i64,
            out_group_stride: 0,
            m: m as i32,
            n: n as i32,
            k: k as i32,
            block_rows: block_rows as i32,
            block_columns: block_columns as i32,
            slots: 1,
            out_slots: 1,
            unused: 0,
        }
    }
}

/// What a product is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Bf16,
    F32,
    /// `silu(gate) · up`, bf16.
    Gated,
}

/// The kernel for so many rows per group. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Thin16,
    Thin32,
    Thin64,
    Tiled64,
    Tiled128,
}

impl Shape {
    /// Reading weights once matters most for few rows, filling the multiprocessors next.
    pub fn choose(rows: usize, columns: usize, num_groups: usize, num_multiprocessors: usize) -> Self {
        let large_tiles = rows.div_ceil(128) * columns.div_ceil(128) * num_groups;
        match rows {
            0..=16 => Self::Thin16,
            17..=32 => Self::Thin32,
            33..=64 => Self::Thin64,
            _ if large_tiles >= num_multiprocessors => Self::Tiled128,
            _ => Self::Tiled64,
        }
    }

    pub fn rows(self) -> usize {
        match self {
            Self::Thin16 => 16,
            Self::Thin32 => 32,
            Self::Thin64 | Self::Tiled64 => 64,
            Self::Tiled128 => 128,
        }
    }

    fn columns(self) -> usize {
        match self {
            Self::Thin16 | Self::Thin32 | Self::Thin64 => 16,
            Self::Tiled64 => 64,
            Self::Tiled128 => 128,
        }
    }

    fn is_thin(self) -> bool {
        self.columns() == 16
    }

    fn threads(self) -> usize {
        match self {
            Self::Tiled64 => 128,
            _ => THIN_THREADS,
        }
    }

    fn shared_bytes(self) -> usize {
        if self.is_thin() {
            8 * self.rows() * 16 * 4
        } else {
            STAGES * (self.rows() + self.columns()) * TILED_STAGE_BYTES
        }
    }

    fn kernel(self, output: Output, is_fp8: bool) -> &'static str {
        macro_rules! names {
            ($shape:literal) => {
                match (is_fp8, output) {
                    (false, Output::Bf16) => concat!("gemm_", $shape, "_bf16_to_bf16"),
                    (false, Output::F32) => concat!("gemm_", $shape, "_bf16_to_f32"),
                    (false, Output::Gated) => concat!("gemm_", $shape, "_bf16_gated"),
                    (true, Output::Bf16) => concat!("gemm_", $shape, "_fp8_to_bf16"),
                    (true, Output::F32) => concat!("gemm_", $shape, "_fp8_to_f32"),
                    (true, Output::Gated) => concat!("gemm_", $shape, "_fp8_gated"),
                }
            };
        }
        match self {
            Self::Thin16 => names!("thin16"),
            Self::Thin32 => names!("thin32"),
            Self::Thin64 => names!("thin64"),
            Self::Tiled64 => names!("tiled64"),
            Self::Tiled128 => names!("tiled128"),
        }
    }
}

/// Launches over `num_tiles` tiles of rows of each of `num_groups` groups.
pub(super) fn launch(
    weights: &DeviceMatrix,
    args: GemmArgs,
    output: Output,
    shape: Shape,
    (num_tiles, num_groups): (usize, usize),
) -> Result<()> {
    // 16 bytes are read at a time.
    if !args.x.is_multiple_of(16) || args.x_stride % 8 != 0 || args.x_group_stride % 8 != 0 {
        bail!("GPU: rows {} and {} elements apart: multiples of 8 are supported", args.x_stride, args.x_group_stride);
    }
    let columns = if output == Output::Gated { shape.columns() / 2 } else { shape.columns() };
    let blocks = ((args.n as usize).div_ceil(columns), num_tiles, num_groups);
    let grid = Grid { blocks, threads: shape.threads(), shared_bytes: shape.shared_bytes() };
    let kernel = shape.kernel(output, weights.scales.is_some());
    weights.values.gpu().launch(kernel, grid, &[&args])
}

/// `x (m, in) · wᵀ → (m, out)`, bf16 or f32; gated weights give `silu(gate) · up`, `(m, out / 2)`.
pub(crate) fn linear(x: &DeviceTensor, weights: &DeviceMatrix, dtype: DType) -> Result<DeviceTensor> {
    let (_, num_out, num_in) = weights.dims();
    let m = x.len() / num_in;
    let (output, columns, dtype) = match (weights.is_gated, dtype) {
        (true, _) => (Output::Gated, num_out / 2, DType::BF16),
        (false, DType::BF16) => (Output::Bf16, num_out, dtype),
        (false, _) => (Output::F32, num_out, DType::F32),
    };
    let gpu = x.gpu();
    let out = DeviceTensor::temporary(gpu, &[m, columns], dtype)?;
    let args = GemmArgs::new(weights, m, x.expect(DType::BF16)?, out.address());
    let shape = Shape::choose(m, num_out, 1, gpu.info().num_multiprocessors);
    launch(weights, args, output, shape, (m.div_ceil(shape.rows()), 1))?;
    Ok(out)
}

/// As [`linear`] of weights that are not gated, f32, into `out` from element `offset` on, each row `stride` elements
/// behind the one before.
pub(super) fn linear_into(
    x: &DeviceTensor,
    weights: &DeviceMatrix,
    out: &DeviceTensor,
    (offset, stride): (usize, usize),
) -> Result<()> {
    let (_, num_out, num_in) = weights.dims();
    let m = x.len() / num_in;
    let start = out.expect(DType::F32)? + (offset * size_of::<f32>()) as u64;
    let args = GemmArgs { out_stride: stride as i64, ..GemmArgs::new(weights, m, x.expect(DType::BF16)?, start) };
    let shape = Shape::choose(m, num_out, 1, x.gpu().info().num_multiprocessors);
    launch(weights, args, Output::F32, shape, (m.div_ceil(shape.rows()), 1))
}

/// Per-head `x (rows, heads, in) · w (heads, out, in)ᵀ → (rows, heads, out)`, bf16.
pub(crate) fn batched_linear(x: &DeviceTensor, weights: &DeviceMatrix) -> Result<DeviceTensor> {
    let (num_heads, num_out, num_in) = weights.dims();
    let out = DeviceTensor::temporary(x.gpu(), &[x.shape()[0], num_heads, num_out], DType::BF16)?;
    batched(x, num_in, weights, &out)?;
    Ok(out)
}

/// The first part of each query, `q (rows, heads, nope + rope)`, times `weights (heads, latent, nope)`, into the first part
/// of `out (rows, heads, latent + rope)`.
pub(crate) fn absorb(q: &DeviceTensor, weights: &DeviceMatrix, out: &DeviceTensor) -> Result<()> {
    let (&[rows, heads, q_width], &[out_rows, out_heads, width]) = (q.shape(), out.shape()) else {
        bail!("absorb: q {:?} into {:?}", q.shape(), out.shape());
    };
    let (w_heads, latent, nope) = weights.dims();
    let fits = (rows, heads) == (out_rows, out_heads) && heads == w_heads && latent <= width;
    if !fits || q_width.checked_sub(nope) != Some(width - latent) {
        bail!("absorb: q {:?}, weights {:?} into {:?}", q.shape(), weights.dims(), out.shape());
    }
    batched(q, q_width, weights, out)
}

/// Head by head, where a head's row of `x` has `x_width` elements, of which the first are multiplied.
fn batched(x: &DeviceTensor, x_width: usize, weights: &DeviceMatrix, out: &DeviceTensor) -> Result<()> {
    let (num_heads, num_out, _) = weights.dims();
    let (num_rows, out_width) = (x.shape()[0], out.shape()[2]);
    let args = GemmArgs {
        x_stride: (num_heads * x_width) as i64,
        x_group_stride: x_width as i64,
        out_stride: (num_heads * out_width) as i64,
        out_group_stride: out_width as i64,
        ..GemmArgs::new(weights, num_rows, x.expect(DType::BF16)?, out.expect(DType::BF16)?)
    };
    let shape = Shape::choose(num_rows, num_out, num_heads, x.gpu().info().num_multiprocessors);
    launch(weights, args, Output::Bf16, shape, (num_rows.div_ceil(shape.rows()), num_heads))
}
