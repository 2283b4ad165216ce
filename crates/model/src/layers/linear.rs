//! The one place where activations meet weights. Quantised, sharded and adapted forms go here.

use candle_core::{DType, Result};
use moesaic_kernels::ops::{self, Weight};
use moesaic_kernels::{Tensor, WeightForm};

use crate::{ModelError, Role, Weights};

/// A weight matrix `(out, in)`.
#[derive(Debug)]
pub struct Linear {
    weight: Weight,
}

impl Linear {
    /// Reads `{name}.weight` in the compute type, quantised where that is asked for.
    pub fn load(weights: &Weights, name: &str, num_out: usize, num_in: usize) -> std::result::Result<Self, ModelError> {
        Ok(Self { weight: weights.matrices(&[vec![format!("{name}.weight")]], [num_out, num_in], Role::Projection)? })
    }

    /// Reads `{name}.weight` in f32, for routers, whose choices flip on small differences.
    pub fn load_f32(
        weights: &Weights,
        name: &str,
        num_out: usize,
        num_in: usize,
    ) -> std::result::Result<Self, ModelError> {
        let weight = weights.host_tensor(&format!("{name}.weight"), &[num_out, num_in], DType::F32)?;
        Ok(Self { weight: Weight::new(weight, WeightForm::Bf16, false, weights.device())? })
    }

    /// Wraps a weight `(out, in)`.
    pub fn new(weight: Weight) -> Self {
        Self { weight }
    }

    /// The weight itself.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// `x (.., in) → (.., out)` in the type of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight)
    }

    /// As [`Self::forward`] with f32 results.
    pub fn forward_f32(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear_f32(x, &self.weight)
    }
}
