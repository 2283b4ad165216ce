//! The one place where activations meet weights. Quantised, sharded and adapted forms go here.

use candle_core::{DType, Result, Tensor};
use moesaic_kernels::WeightForm;
use moesaic_kernels::ops::{self, Weight};

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
        let weight = weights.tensor_as(&format!("{name}.weight"), &[num_out, num_in], DType::F32)?;
        Ok(Self { weight: Weight::new(weight, WeightForm::Bf16, false)? })
    }

    /// Wraps a weight `(out, in)`.
    pub fn new(weight: Tensor) -> Result<Self> {
        Ok(Self { weight: Weight::new(weight, WeightForm::Bf16, false)? })
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
