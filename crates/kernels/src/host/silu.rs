//! The gated activation of the feed-forward layers.

use candle_core::{Result, Tensor, bail};

use super::operand::{Operand, with_float};
use crate::Element;

/// `silu(gate) · up` for `gate_up (.., 2 · width)` holding gate, then up; gives `(.., width)`.
///
/// # Errors
/// When the last dimension is odd or the type is not f32 or bf16.
pub fn silu_mul(gate_up: &Tensor) -> Result<Tensor> {
    let mut shape = gate_up.dims().to_vec();
    let Some(last) = shape.last_mut().filter(|last| **last % 2 == 0) else {
        bail!("silu_mul: {:?} is not a pair of halves", gate_up.dims());
    };
    *last /= 2;
    let width = *last;
    with_float!(gate_up.dtype(), T => {
        let view = Operand::new(gate_up);
        let mut out = Vec::with_capacity(shape.iter().product());
        for row in view.slice::<T>()?.chunks_exact(2 * width) {
            let (gate, up) = row.split_at(width);
            out.extend(gate.iter().zip(up).map(|(gate, up)| {
                <T as Element>::narrow(silu(gate.widen()) * up.widen())
            }));
        }
        Tensor::from_vec(out, shape, gate_up.device())
    })
}

/// `x · sigmoid(x)`.
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}
