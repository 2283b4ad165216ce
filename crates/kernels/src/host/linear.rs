//! Matrix products with weights: `x · wᵀ`, accumulated in f32 in a fixed order.

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::Weight;
use super::operand::{Operand, to_bf16, to_f32, with_float};
use crate::{Element, cpu};

/// `x (.., in) · w (out, in)ᵀ → (.., out)` in the type of `x`. For packed weights `x` is rounded to bf16.
///
/// # Errors
/// When the inner sizes differ or a type is not f32 or bf16.
pub fn linear(x: &Tensor, w: &Weight) -> Result<Tensor> {
    linear_into(x, w, x.dtype())
}

/// As [`linear`], but keeps the f32 sums: for logits, router scores and what feeds a softmax.
///
/// # Errors
/// As [`linear`].
pub fn linear_f32(x: &Tensor, w: &Weight) -> Result<Tensor> {
    linear_into(x, w, DType::F32)
}

fn linear_into(x: &Tensor, w: &Weight, dtype: DType) -> Result<Tensor> {
    let (num_out, num_in) = w.matrix()?;
    let mut shape = x.dims().to_vec();
    if shape.last() != Some(&num_in) {
        bail!("linear: x {shape:?} does not fit w ({num_out}, {num_in})");
    }
    *shape.last_mut().expect("checked above") = num_out;
    with_float!(dtype, T => Tensor::from_vec(product::<T>(x, w, num_in)?, shape, x.device()))
}

fn product<T: Element>(x: &Tensor, w: &Weight, num_in: usize) -> Result<Vec<T>> {
    let x_view = Operand::new(x);
    match w {
        Weight::Packed(packed) => Ok(cpu::packed_linear(&to_bf16(x.dtype(), &x_view)?, packed)),
        Weight::Plain(w) => {
            let x_f32 = with_float!(x.dtype(), X => to_f32::<X>(&x_view)?);
            let w_view = Operand::new(w);
            let sums = with_float!(w.dtype(), W => cpu::matmul_nt(&x_f32, w_view.slice::<W>()?, num_in));
            Ok(sums.into_iter().map(T::narrow).collect())
        }
    }
}

/// Per-head product `x (tokens, heads, in) · w (heads, out, in)ᵀ → (tokens, heads, out)`, f32.
///
/// # Errors
/// When the sizes do not fit or a type is not f32 or bf16.
pub fn batched_linear_f32(x: &Tensor, w: &Weight) -> Result<Tensor> {
    let (num_tokens, num_heads, num_in) = x.dims3()?;
    let (w_heads, num_out, w_in) = w.dims()?;
    if (w_heads, w_in) != (num_heads, num_in) {
        bail!("batched_linear: x {:?} does not fit w {:?}", x.dims(), w.dims()?);
    }
    let x_view = Operand::new(x);
    let sums = match w {
        Weight::Packed(packed) => {
            let x: &[bf16] = &to_bf16(x.dtype(), &x_view)?;
            cpu::packed_batched_linear(x, packed)
        }
        Weight::Plain(w) => {
            let x_f32 = with_float!(x.dtype(), T => to_f32::<T>(&x_view)?);
            let w_view = Operand::new(w);
            with_float!(w.dtype(), T => {
                cpu::batched_matmul_nt(&x_f32, w_view.slice::<T>()?, num_heads, num_in, num_out)
            })
        }
    };
    Tensor::from_vec(sums, (num_tokens, num_heads, num_out), x.device())
}
