//! Matrix products with weights: `x · wᵀ`, accumulated in f32 in a fixed order.

use candle_core::{DType, Result, bail};

use super::Weight;
use crate::{Tensor, cuda, host};

/// `x (.., in) · w (out, in)ᵀ → (.., out)` in the type of `x`. Where weights are bf16 or less `x` is rounded to bf16.
///
/// # Errors
/// When the sizes or types do not fit.
pub fn linear(x: &Tensor, w: &Weight) -> Result<Tensor> {
    product(x, w, x.dtype())
}

/// As [`linear`], but keeps the f32 sums: for logits, router scores and what feeds a softmax.
///
/// # Errors
/// As [`linear`].
pub fn linear_f32(x: &Tensor, w: &Weight) -> Result<Tensor> {
    product(x, w, DType::F32)
}

fn product(x: &Tensor, w: &Weight, dtype: DType) -> Result<Tensor> {
    let (num_out, num_in) = w.matrix()?;
    let mut shape = x.dims().to_vec();
    if shape.last() != Some(&num_in) {
        bail!("linear: x {shape:?} does not fit w ({num_out}, {num_in})");
    }
    *shape.last_mut().expect("checked above") = num_out;
    match (x, w) {
        (Tensor::Host(x), _) if dtype == x.dtype() => Ok(host::linear(x, w.host()?)?.into()),
        (Tensor::Host(x), _) => Ok(host::linear_f32(x, w.host()?)?.into()),
        (Tensor::Device(x), Weight::Exact(w)) => {
            let rows = x.reshape(&[x.len() / num_in, num_in])?;
            Tensor::Device(cuda::gate_logits(&rows, w)?).reshape(&shape)
        }
        (Tensor::Device(x), _) if !w.device()?.is_gated => {
            Tensor::Device(cuda::linear(x, w.device()?, dtype)?).reshape(&shape)
        }
        (Tensor::Device(_), _) => bail!("linear: gated weights"),
    }
}

/// Per-head product `x (rows, heads, in) · w (heads, out, in)ᵀ → (rows, heads, out)`: f32 on the CPU, bf16 on a GPU.
///
/// # Errors
/// When the sizes or types do not fit.
pub fn batched_linear(x: &Tensor, w: &Weight) -> Result<Tensor> {
    let (_, num_heads, num_in) = x.dims3()?;
    let (w_heads, _, w_in) = w.dims();
    if (w_heads, w_in) != (num_heads, num_in) {
        bail!("batched_linear: x {:?} does not fit w {:?}", x.dims(), w.dims());
    }
    match x {
        Tensor::Host(x) => Ok(host::batched_linear_f32(x, w.host()?)?.into()),
        Tensor::Device(x) => Ok(cuda::batched_linear(x, w.device()?)?.into()),
    }
}
