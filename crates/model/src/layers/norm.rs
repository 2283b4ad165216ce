//! RMS normalisation with its weight.

use candle_core::{Result, Tensor};
use moesaic_kernels::ops;

use crate::{ModelError, Weights};

/// `x / rms(x) · weight`.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Reads `{name}.weight`.
    pub fn load(weights: &Weights, name: &str, width: usize, eps: f64) -> std::result::Result<Self, ModelError> {
        Ok(Self { weight: weights.tensor(&format!("{name}.weight"), &[width])?, eps })
    }

    /// Normalises the last dimension.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}
