//! Root-mean-square normalisation.

use candle_core::{Result, Tensor, bail};

use super::operand::{Operand, to_f32, with_float};
use crate::{Element, dot, parallel_chunks};

/// Rows that a task normalises: more work than a hand-over costs.
const ROWS_PER_TASK: usize = 16;

/// `x / rms(x) · weight` over the last dimension, in the type of the weight: statistics in f32,
/// cast, then the weight (the order of the reference implementation, which shows in bf16).
/// `x` may be f32 whatever the weight is: a residual stream is.
///
/// # Errors
/// When the sizes or types do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let width = weight.dims1()?;
    if x.dims().last() != Some(&width) {
        bail!("rms_norm: x {:?} does not fit weight {:?}", x.dims(), weight.dims());
    }
    let (x_view, weight_view) = (Operand::new(x), Operand::new(weight));
    let values = with_float!(x.dtype(), T => to_f32::<T>(&x_view)?);
    with_float!(weight.dtype(), T => {
        let out = normalise::<T>(&values, weight_view.slice::<T>()?, eps as f32);
        Tensor::from_vec(out, x.shape(), x.device())
    })
}

fn normalise<T: Element>(values: &[f32], weight: &[T], eps: f32) -> Vec<T> {
    let width = weight.len();
    let mut out = vec![T::ZERO; values.len()];
    parallel_chunks(&mut out, ROWS_PER_TASK * width, |start, out| {
        for (row, out) in values[start..].chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let scale = 1.0 / (dot(row, row) / width as f32 + eps).sqrt();
            for ((out, value), weight) in out.iter_mut().zip(row).zip(weight) {
                *out = T::narrow(T::narrow(value * scale).widen() * weight.widen());
            }
        }
    });
    out
}
