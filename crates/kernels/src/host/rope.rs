//! Rotary position embedding.

use candle_core::{Result, Tensor, bail};

use super::operand::{Operand, with_float};
use crate::Element;
use crate::ops::RopeLayout;

/// Rotates `x (tokens, heads, d)` by the angles of `positions (tokens)`.
/// `cos`, `sin`: f32 `(max_positions, d / 2)`, any multiplier included. Computed in f32.
///
/// # Errors
/// When the sizes or types do not fit or a position has no row in the tables.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, positions: &Tensor, layout: RopeLayout) -> Result<Tensor> {
    let (num_tokens, num_heads, dim) = x.dims3()?;
    let (max_positions, half) = cos.dims2()?;
    if positions.dims1()? != num_tokens || sin.dims() != cos.dims() || 2 * half != dim {
        bail!("rope: x {:?}, cos {:?}, sin {:?}, positions {:?}", x.dims(), cos.dims(), sin.dims(), positions.dims());
    }
    let views = (Operand::new(cos), Operand::new(sin), Operand::new(positions));
    let (cos, sin, positions) = (views.0.slice::<f32>()?, views.1.slice::<f32>()?, views.2.slice::<u32>()?);
    if let Some(position) = positions.iter().find(|&&position| position as usize >= max_positions) {
        bail!("rope: position {position} of {max_positions}");
    }
    with_float!(x.dtype(), T => {
        let view = Operand::new(x);
        let mut out = vec![<T as Element>::ZERO; num_tokens * num_heads * dim];
        let rows = view.slice::<T>()?.chunks_exact(num_heads * dim);
        for ((heads, out), position) in rows.zip(out.chunks_exact_mut(num_heads * dim)).zip(positions) {
            let angles = *position as usize * half..(*position as usize + 1) * half;
            for (head, out) in heads.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
                rotate::<T>(head, &cos[angles.clone()], &sin[angles.clone()], layout, out);
            }
        }
        Tensor::from_vec(out, (num_tokens, num_heads, dim), x.device())
    })
}

fn rotate<T: Element>(head: &[T], cos: &[f32], sin: &[f32], layout: RopeLayout, out: &mut [T]) {
    let half = cos.len();
    for pair in 0..half {
        let (i, j) = match layout {
            RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
            RopeLayout::Half => (pair, pair + half),
        };
        let (a, b) = (head[i].widen(), head[j].widen());
        out[i] = T::narrow(a * cos[pair] - b * sin[pair]);
        out[j] = T::narrow(b * cos[pair] + a * sin[pair]);
    }
}
