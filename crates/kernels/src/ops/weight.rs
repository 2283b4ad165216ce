//! Weights in the form in which their device reads them.

use candle_core::{DType, Result, bail};

use crate::cuda::{DeviceMatrix, DeviceTensor};
use crate::{Device, PackedMatrix, Tensor, WeightForm, host};

/// Matrices `(groups, out, in)` that activations are multiplied with.
#[derive(Debug)]
pub enum Weight {
    /// On the CPU.
    Host(host::Weight),
    /// On a GPU, bf16 or block-scaled e4m3.
    Device(DeviceMatrix),
    /// On a GPU, f32 `(1, out, in)`: of routers, whose choices flip on small differences.
    Exact(DeviceTensor),
}

impl Weight {
    /// From `(out, in)` or `(groups, out, in)`. `form`: of what is packed; `is_gated`: gate rows, then as many up rows, for
    /// [`super::gated_mlp`].
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(tensor: candle_core::Tensor, form: WeightForm, is_gated: bool, device: &Device) -> Result<Self> {
        if device.gpu().is_none() {
            return Ok(Self::Host(host::Weight::new(tensor, form, is_gated)?));
        }
        let tensor = if tensor.rank() == 2 { tensor.unsqueeze(0)? } else { tensor };
        let dtype = tensor.dtype();
        let kept = device.keep(tensor)?;
        match dtype {
            DType::BF16 => Ok(Self::Device(DeviceMatrix::new(kept.device()?.clone(), is_gated)?)),
            DType::F32 if !is_gated => Ok(Self::Exact(kept.device()?.clone())),
            other => bail!("GPU: weights of {other:?}"),
        }
    }

    /// Groups, outputs and inputs.
    pub fn dims(&self) -> (usize, usize, usize) {
        match self {
            Self::Host(weight) => weight.dims().expect("weights have three sizes"),
            Self::Device(matrix) => matrix.dims(),
            Self::Exact(tensor) => (tensor.shape()[0], tensor.shape()[1], tensor.shape()[2]),
        }
    }

    pub(super) fn host(&self) -> Result<&host::Weight> {
        match self {
            Self::Host(weight) => Ok(weight),
            _ => bail!("weights are on a GPU, activations on the CPU"),
        }
    }

    pub(super) fn device(&self) -> Result<&DeviceMatrix> {
        match self {
            Self::Device(matrix) => Ok(matrix),
            Self::Host(_) => bail!("weights are on the CPU, activations on a GPU"),
            Self::Exact(_) => bail!("GPU: f32 weights where bf16 ones are needed"),
        }
    }

    /// As a plain matrix `(out, in)` of one group.
    pub(super) fn matrix(&self) -> Result<(usize, usize)> {
        match self.dims() {
            (1, num_out, num_in) => Ok((num_out, num_in)),
            (num_groups, ..) => bail!("{num_groups} matrices where one is needed"),
        }
    }
}

impl From<PackedMatrix> for Weight {
    fn from(packed: PackedMatrix) -> Self {
        Self::Host(host::Weight::Packed(packed))
    }
}

impl Tensor {
    /// The same tensor as a weight that activations are multiplied with (the tied output head).
    ///
    /// # Errors
    /// When there is no memory.
    pub fn as_weight(&self) -> Result<Weight> {
        match self {
            Self::Host(tensor) => Ok(Weight::Host(host::Weight::new(tensor.clone(), WeightForm::Bf16, false)?)),
            Self::Device(tensor) => {
                let (num_out, num_in) = self.dims2()?;
                Ok(Weight::Device(DeviceMatrix::new(tensor.reshape(&[1, num_out, num_in])?, false)?))
            }
        }
    }
}
