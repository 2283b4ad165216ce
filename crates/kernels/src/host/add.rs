//! Sums of activations.

use candle_core::{Result, Tensor, bail};

use super::operand::Operand;
use crate::cpu::parallel_chunks;

/// Values that a task adds: more than a hand-over costs.
const CHUNK: usize = 1 << 15;

/// `a + b`, f32 of one shape.
///
/// # Errors
/// When the shapes differ or a type is not f32.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("add: {:?} and {:?}", a.dims(), b.dims());
    }
    let (a_view, b_view) = (Operand::new(a), Operand::new(b));
    let (a_values, b_values) = (a_view.slice::<f32>()?, b_view.slice::<f32>()?);
    let mut out = vec![0.0; a_values.len()];
    parallel_chunks(&mut out, CHUNK, |start, out| {
        for ((out, a), b) in out.iter_mut().zip(&a_values[start..]).zip(&b_values[start..]) {
            *out = a + b;
        }
    });
    Tensor::from_vec(out, a.shape(), a.device())
}
