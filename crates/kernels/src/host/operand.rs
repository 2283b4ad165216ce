//! Reading a candle tensor as a typed, contiguous CPU slice.

use std::borrow::Cow;

use candle_core::{DType, Layout, Result, Storage, StorageRef, Tensor, bail};
use half::bf16;

use crate::Element;

/// A tensor held for reading.
pub(super) struct Operand<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Operand<'a> {
    pub(super) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// When the tensor is strided, of another type or on a device without a form of the op.
    pub(super) fn slice<T: candle_core::WithDType>(&self) -> Result<&[T]> {
        let Some((start, end)) = self.layout.contiguous_offsets() else {
            bail!("the operand is not contiguous: {:?}", self.layout)
        };
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&storage.as_slice::<T>()?[start..end]),
            _ => bail!("this build has no kernels for the device of the operand"),
        }
    }
}

/// Widens a whole tensor to f32.
pub(super) fn to_f32<T: Element>(operand: &Operand) -> Result<Vec<f32>> {
    Ok(operand.slice::<T>()?.iter().map(|value| value.widen()).collect())
}

/// The elements as bf16, rounded where they are f32.
pub(super) fn to_bf16<'a>(dtype: DType, operand: &'a Operand) -> Result<Cow<'a, [bf16]>> {
    match dtype {
        DType::BF16 => Ok(Cow::Borrowed(operand.slice::<bf16>()?)),
        _ => Ok(operand.slice::<f32>()?.iter().map(|value| <bf16 as Element>::narrow(*value)).collect()),
    }
}

/// Calls a generic function with the Rust type of a float dtype.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            other => candle_core::bail!("{other:?} is not computed in; use f32 or bf16"),
        }
    };
}
pub(super) use with_float;
