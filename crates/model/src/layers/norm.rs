//! RMS normalisation with its weight.

use candle_core::Result;
use moesaic_kernels::{Tensor, ops};

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

    /// Adds to the residual stream what the layer before gave, where there was one; the new stream and its norm.
    pub fn add_forward(&self, x: Tensor, delta: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let Some(delta) = delta else {
            let normed = ops::first_rms_norm(&x, &self.weight, self.eps)?;
            return Ok((x, normed));
        };
        ops::add_rms_norm(&x, delta, &self.weight, self.eps)
    }

    /// The norm of some rows of the finished stream.
    pub fn last_forward(&self, x: &Tensor, delta: &Tensor, row_ids: &Tensor) -> Result<Tensor> {
        ops::last_rms_norm(x, delta, row_ids, &self.weight, self.eps)
    }

    /// The weight, for ops that normalise on their way.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Added to the mean of squares.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}
