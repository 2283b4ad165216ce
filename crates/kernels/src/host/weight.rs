//! Weights in the form in which their device reads them.

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;

use super::operand::Operand;
use crate::cpu::{PackedMatrix, WeightForm};

/// Matrices `(groups, out, in)` that activations are multiplied with.
#[derive(Debug)]
pub enum Weight {
    /// As they were: f32 on the CPU.
    Plain(Tensor),
    /// bf16 on the CPU, quantised or not.
    Packed(PackedMatrix),
}

impl Weight {
    /// Whether matrices of a type are packed.
    pub fn is_packed(dtype: DType, device: &Device) -> bool {
        dtype == DType::BF16 && device.is_cpu()
    }

    /// From `(out, in)` or `(groups, out, in)`. `form`: of what is packed; `is_gated`: gate rows, then as many up rows, for [`super::gated_mlp`].
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(tensor: Tensor, form: WeightForm, is_gated: bool) -> Result<Self> {
        let tensor = if tensor.rank() == 2 { tensor.unsqueeze(0)? } else { tensor };
        if !Self::is_packed(tensor.dtype(), tensor.device()) {
            return Ok(Self::Plain(tensor));
        }
        let (num_groups, num_out, num_in) = tensor.dims3()?;
        let view = Operand::new(&tensor);
        let values = view.slice::<bf16>()?;
        let read = |group: usize, row: usize, out: &mut [bf16]| {
            let start = (group * num_out + row) * num_in;
            out.copy_from_slice(&values[start..start + out.len()]);
            Ok::<(), candle_core::Error>(())
        };
        Ok(Self::Packed(PackedMatrix::pack(form, (num_groups, num_out, num_in), is_gated, read)?))
    }

    /// Groups, outputs and inputs.
    ///
    /// # Errors
    /// Never for weights made by [`Self::new`].
    pub fn dims(&self) -> Result<(usize, usize, usize)> {
        match self {
            Self::Plain(tensor) => tensor.dims3(),
            Self::Packed(packed) => Ok(packed.dims()),
        }
    }

    /// As a plain matrix `(out, in)` of one group.
    pub(super) fn matrix(&self) -> Result<(usize, usize)> {
        match self.dims()? {
            (1, num_out, num_in) => Ok((num_out, num_in)),
            (num_groups, ..) => bail!("{num_groups} matrices where one is needed"),
        }
    }
}
