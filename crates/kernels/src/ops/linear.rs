//! Matrix products with weights: `x · wᵀ`, accumulated in f32 in a fixed order.

use candle_core::{DType, Result, Tensor, bail};

use super::operand::{Operand, to_f32, with_float};
use crate::{Element, cpu};

/// `x (.., in) · w (out, in)ᵀ → (.., out)` in the type of `x`.
///
/// # Errors
/// When the inner sizes differ or a type is not f32 or bf16.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    linear_into(x, w, x.dtype())
}

/// As [`linear`], but keeps the f32 sums: for logits, router scores and what feeds a softmax.
///
/// # Errors
/// As [`linear`].
pub fn linear_f32(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    linear_into(x, w, DType::F32)
}

fn linear_into(x: &Tensor, w: &Tensor, dtype: DType) -> Result<Tensor> {
    let (num_out, num_in) = w.dims2()?;
    let mut shape = x.dims().to_vec();
    if shape.last() != Some(&num_in) {
        bail!("linear: x {shape:?} does not fit w ({num_out}, {num_in})");
    }
    *shape.last_mut().expect("checked above") = num_out;
    let (x_view, w_view) = (Operand::new(x), Operand::new(w));
    let x_f32 = with_float!(x.dtype(), T => to_f32::<T>(&x_view)?);
    let sums = with_float!(w.dtype(), T => cpu::matmul_nt(&x_f32, w_view.slice::<T>()?, num_in));
    with_float!(dtype, T => from_sums::<T>(sums, shape, x))
}

fn from_sums<T: Element>(sums: Vec<f32>, shape: Vec<usize>, like: &Tensor) -> Result<Tensor> {
    let values: Vec<T> = sums.into_iter().map(T::narrow).collect();
    Tensor::from_vec(values, shape, like.device())
}

/// Per-head product `x (tokens, heads, in) · w (heads, out, in)ᵀ → (tokens, heads, out)`, f32.
///
/// # Errors
/// When the sizes do not fit or a type is not f32 or bf16.
pub fn batched_linear_f32(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (num_tokens, num_heads, num_in) = x.dims3()?;
    let (w_heads, num_out, w_in) = w.dims3()?;
    if (w_heads, w_in) != (num_heads, num_in) {
        bail!("batched_linear: x {:?} does not fit w {:?}", x.dims(), w.dims());
    }
    let (x_view, w_view) = (Operand::new(x), Operand::new(w));
    let x_f32 = with_float!(x.dtype(), T => to_f32::<T>(&x_view)?);
    let sums = with_float!(w.dtype(), T => {
        cpu::batched_matmul_nt(&x_f32, w_view.slice::<T>()?, num_heads, num_in, num_out)
    });
    Tensor::from_vec(sums, (num_tokens, num_heads, num_out), x.device())
}
