//! The gated feed-forward layer.

use candle_core::Result;
use moesaic_kernels::Tensor;
use moesaic_kernels::ops::{self, GatedWeights, Weight};

use crate::{ModelError, Role, Weights};

/// `down(silu(gate x) · up x)`, gate and up as one product.
#[derive(Debug)]
pub struct Mlp {
    gate_up: Weight,
    down: Weight,
}

impl Mlp {
    /// Reads `{name}.{gate,up,down}_proj`.
    pub fn load(weights: &Weights, name: &str, hidden: usize, inner: usize) -> std::result::Result<Self, ModelError> {
        let names = |parts: &[&str]| parts.iter().map(|part| format!("{name}.{part}_proj.weight")).collect();
        Ok(Self {
            gate_up: weights.matrices(&[names(&["gate", "up"])], [inner, hidden], Role::GateUp)?,
            down: weights.matrices(&[names(&["down"])], [hidden, inner], Role::Down)?,
        })
    }

    /// `(rows, hidden) → (rows, hidden)`, f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::gated_mlp(x, self.weights())
    }

    /// The weights themselves.
    pub fn weights(&self) -> GatedWeights<'_> {
        GatedWeights { gate_up: &self.gate_up, down: &self.down }
    }
}
