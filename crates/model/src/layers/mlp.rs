//! The gated feed-forward layer.

use candle_core::{Result, Tensor};
use moesaic_kernels::ops;

use super::Linear;
use crate::{ModelError, Weights};

/// `down(silu(gate x) · up x)`, gate and up as one product.
#[derive(Debug)]
pub struct Mlp {
    gate_up: Linear,
    down: Linear,
}

impl Mlp {
    /// Reads `{name}.{gate,up,down}_proj`.
    pub fn load(weights: &Weights, name: &str, hidden: usize, inner: usize) -> std::result::Result<Self, ModelError> {
        let names = ["gate", "up"].map(|part| format!("{name}.{part}_proj.weight"));
        let gate_up = weights.stacked(&names, &[inner, hidden])?.reshape((2 * inner, hidden))?;
        Ok(Self {
            gate_up: Linear::new(gate_up),
            down: Linear::load(weights, &format!("{name}.down_proj"), hidden, inner)?,
        })
    }

    /// `(rows, hidden) → (rows, hidden)`, f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward_f32(&ops::silu_mul(&self.gate_up.forward(x)?)?)
    }
}
