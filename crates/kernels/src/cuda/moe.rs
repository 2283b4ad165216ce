//! Routing and grouped products: `moe.cu`, `gemm.cu`.

use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Result, bail};

use super::gemm::{self, DeviceMatrix, GemmArgs, Output, Shape};
use super::gpu::Grid;
use super::{DeviceTensor, linear};
use crate::ops::{GroupScore, RouterConfig, Scoring};

const GATE_ROWS: usize = 8;
const GATE_WARPS: usize = 8;
/// Up to so many rows each expert has a block of its own.
const FEW_GATE_ROWS: usize = 64;
const SORT_THREADS: usize = 1024;
/// Bytes of a tile's description.
const TILE_BYTES: usize = 16;
/// A lane keeps a choice.
const MAX_TOP_K: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GateArgs {
    x: u64,
    weight: u64,
    logits: u64,
    num_rows: i32,
    num_experts: i32,
    k: i32,
    unused: i32,
}

/// f32 `(rows, experts)` of `x (rows, hidden)` and f32 weights `(experts, hidden)`.
pub(crate) fn gate_logits(x: &DeviceTensor, weight: &DeviceTensor) -> Result<DeviceTensor> {
    let (&[num_rows, hidden], num_experts) = (x.shape(), weight.len() / x.shape()[1]) else {
        bail!("gate: x {:?}", x.shape());
    };
    let logits = DeviceTensor::temporary(x.gpu(), &[num_rows, num_experts], DType::F32)?;
    if !hidden.is_multiple_of(8) {
        bail!("GPU: a hidden size of {hidden}: multiples of 8 are supported");
    }
    let args = GateArgs {
        x: x.expect(DType::BF16)?,
        weight: weight.expect(DType::F32)?,
        logits: logits.address(),
        num_rows: num_rows as i32,
        num_experts: num_experts as i32,
        k: hidden as i32,
        unused: 0,
    };
    let (kernel, num_blocks, shared_bytes) = if num_rows <= FEW_GATE_ROWS {
        ("gate_logits_thin", num_experts, GATE_WARPS * GATE_ROWS * 32 * size_of::<f32>())
    } else {
        ("gate_logits", num_experts.div_ceil(GATE_WARPS), 0)
    };
    let blocks = (num_blocks, num_rows.div_ceil(GATE_ROWS), 1);
    x.gpu().launch(kernel, Grid { blocks, threads: GATE_WARPS * 32, shared_bytes }, &[&args])?;
    Ok(logits)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RouteArgs {
    logits: u64,
    bias: u64,
    ids: u64,
    weights: u64,
    num_experts: i32,
    top_k: i32,
    num_groups: i32,
    top_groups: i32,
    sigmoid: i32,
    top_two: i32,
    normalise: i32,
    scale: f32,
}

/// u32 ids and f32 weights `(rows, top_k)`.
pub(crate) fn route(
    logits: &DeviceTensor,
    bias: Option<&DeviceTensor>,
    config: &RouterConfig,
) -> Result<(DeviceTensor, DeviceTensor)> {
    let (num_rows, num_experts) = (logits.shape()[0], logits.shape()[1]);
    if config.top_k > MAX_TOP_K {
        bail!("GPU: {} experts per token; up to {MAX_TOP_K} are supported", config.top_k);
    }
    let shape = [num_rows, config.top_k];
    let ids = DeviceTensor::temporary(logits.gpu(), &shape, DType::U32)?;
    let weights = DeviceTensor::temporary(logits.gpu(), &shape, DType::F32)?;
    let args = RouteArgs {
        logits: logits.expect(DType::F32)?,
        bias: bias.map_or(Ok(0), |bias| bias.expect(DType::F32))?,
        ids: ids.address(),
        weights: weights.address(),
        num_experts: num_experts as i32,
        top_k: config.top_k as i32,
        num_groups: config.num_groups as i32,
        top_groups: config.top_groups as i32,
        sigmoid: i32::from(config.scoring == Scoring::Sigmoid),
        top_two: i32::from(config.group_score == GroupScore::TopTwo),
        normalise: i32::from(config.normalise),
        scale: config.scale,
    };
    let shared_bytes = (3 * num_experts + config.num_groups) * 4;
    logits.gpu().launch("route", Grid { blocks: (num_rows, 1, 1), threads: 32, shared_bytes }, &[&args])?;
    Ok((ids, weights))
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SortArgs {
    ids: u64,
    order: u64,
    rows: u64,
    tiles: u64,
    num_pairs: i32,
    num_slots: i32,
    num_experts: i32,
    tile_rows: i32,
    max_tiles: i32,
    unused: i32,
}

/// `weight · down(silu(gate x) · up x)` of each row and choice, then what the shared expert gives: f32
/// `(rows, top_k + 1, hidden)` (top_k without a shared expert), to be summed.
///
/// `x`: bf16 `(rows, hidden)`; `ids`, `weights`: `(rows, top_k)`; `shared`: gate and up, and down.
pub(crate) fn experts(
    x: &DeviceTensor,
    ids: &DeviceTensor,
    weights: &DeviceTensor,
    gate_up: &DeviceMatrix,
    down: &DeviceMatrix,
    shared: Option<(&DeviceMatrix, &DeviceMatrix)>,
) -> Result<DeviceTensor> {
    let (gpu, num_rows, top_k) = (x.gpu(), ids.shape()[0], ids.shape()[1]);
    let ((num_experts, double_inner, _), (_, hidden, _)) = (gate_up.dims(), down.dims());
    let (num_pairs, inner) = (num_rows * top_k, double_inner / 2);
    // As many rows as an expert gets on average, and half as many again.
    let rows_per_expert = (num_pairs * 3).div_ceil(2 * num_experts);
    let active = num_experts.min(num_pairs);
    let shape = Shape::choose(rows_per_expert, double_inner, active, gpu.info().num_multiprocessors);
    let max_tiles = num_pairs / shape.rows() + active;

    let order = DeviceTensor::temporary(gpu, &[num_pairs], DType::U32)?;
    let rows = DeviceTensor::temporary(gpu, &[num_pairs], DType::U32)?;
    let tiles = DeviceTensor::temporary(gpu, &[max_tiles * TILE_BYTES], DType::U8)?;
    let args = SortArgs {
        ids: ids.expect(DType::U32)?,
        order: order.address(),
        rows: rows.address(),
        tiles: tiles.address(),
        num_pairs: num_pairs as i32,
        num_slots: top_k as i32,
        num_experts: num_experts as i32,
        tile_rows: shape.rows() as i32,
        max_tiles: max_tiles as i32,
        unused: 0,
    };
    let shared_bytes = 2 * (num_experts + 1) * 4;
    gpu.launch("sort_by_expert", Grid { blocks: (1, 1, 1), threads: SORT_THREADS, shared_bytes }, &[&args])?;

    let activated = DeviceTensor::temporary(gpu, &[num_pairs, inner], DType::BF16)?;
    let args = GemmArgs {
        tiles: tiles.address(),
        x_rows: rows.address(),
        ..GemmArgs::new(gate_up, num_pairs, x.expect(DType::BF16)?, activated.address())
    };
    gemm::launch(gate_up, args, Output::Gated, shape, (max_tiles, 1))?;
    let num_parts = top_k + usize::from(shared.is_some());
    let out = DeviceTensor::temporary(gpu, &[num_rows, num_parts, hidden], DType::F32)?;
    let args = GemmArgs {
        tiles: tiles.address(),
        out_rows: order.address(),
        row_weights: weights.expect(DType::F32)?,
        slots: top_k as i32,
        out_slots: num_parts as i32,
        ..GemmArgs::new(down, num_pairs, activated.address(), out.address())
    };
    gemm::launch(down, args, Output::F32, shape, (max_tiles, 1))?;
    if let Some((gate_up, down)) = shared {
        let activated = linear(x, gate_up, DType::BF16)?;
        gemm::linear_into(&activated, down, &out, (top_k * hidden, num_parts * hidden))?;
    }
    Ok(out)
}

/// `down(silu(gate x) · up x)`: f32 `(rows, hidden)`.
pub(crate) fn gated(x: &DeviceTensor, gate_up: &DeviceMatrix, down: &DeviceMatrix) -> Result<DeviceTensor> {
    linear(&linear(x, gate_up, DType::BF16)?, down, DType::F32)
}
