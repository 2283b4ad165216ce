//! A tensor on its device. What is done with one is in [`crate::ops`].

use std::sync::Arc;

use candle_core::{DType, Result, bail};
use half::{bf16, slice::HalfFloatSliceExt as _};

use crate::cuda::{DeviceTensor, Gpu};

/// Where is computed.
#[derive(Debug, Clone)]
pub enum Device {
    /// On the threads of a pool.
    Cpu,
    /// On a GPU.
    Gpu(Arc<Gpu>),
}

/// Values in the memory of the device that computes with them.
#[derive(Debug, Clone)]
pub enum Tensor {
    /// On the CPU.
    Host(candle_core::Tensor),
    /// On a GPU.
    Device(DeviceTensor),
}

impl Device {
    /// The GPU, where it is one.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match self {
            Self::Cpu => None,
            Self::Gpu(gpu) => Some(gpu),
        }
    }

    /// Brings a tensor there, to stay.
    ///
    /// # Errors
    /// When there is no memory, or the type is none that kernels read.
    pub fn keep(&self, tensor: candle_core::Tensor) -> Result<Tensor> {
        let Self::Gpu(gpu) = self else { return Ok(Tensor::Host(tensor)) };
        let bytes = bytes_of(&tensor)?;
        let device = DeviceTensor::from_pieces(gpu, tensor.dims(), tensor.dtype(), |start, out| {
            out.copy_from_slice(&bytes[start..start + out.len()]);
            Ok::<(), candle_core::Error>(())
        })?;
        Ok(Tensor::Device(device))
    }
}

impl Tensor {
    /// Sizes.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Host(tensor) => tensor.dims(),
            Self::Device(tensor) => tensor.shape(),
        }
    }

    /// Of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Host(tensor) => tensor.dtype(),
            Self::Device(tensor) => tensor.dtype(),
        }
    }

    /// The only size of a vector.
    ///
    /// # Errors
    /// When it is none.
    pub fn dims1(&self) -> Result<usize> {
        match *self.dims() {
            [size] => Ok(size),
            ref other => bail!("{other:?} where a vector is needed"),
        }
    }

    /// The sizes of a matrix.
    ///
    /// # Errors
    /// When it is none.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match *self.dims() {
            [rows, columns] => Ok((rows, columns)),
            ref other => bail!("{other:?} where a matrix is needed"),
        }
    }

    /// Three sizes.
    ///
    /// # Errors
    /// When there are more or fewer.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        match *self.dims() {
            [a, b, c] => Ok((a, b, c)),
            ref other => bail!("{other:?} where three sizes are needed"),
        }
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// When their number differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Host(tensor) => Self::Host(tensor.reshape(shape)?),
            Self::Device(tensor) => Self::Device(tensor.reshape(shape)?),
        })
    }

    /// Some of the rows, by the first dimension.
    ///
    /// # Errors
    /// When they are not all there.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        Ok(match self {
            Self::Host(tensor) => Self::Host(tensor.narrow(0, start, count)?),
            Self::Device(tensor) => Self::Device(tensor.rows(start, count)?),
        })
    }

    /// The values of a tensor on the CPU.
    ///
    /// # Errors
    /// When it is on a GPU.
    pub fn host(&self) -> Result<&candle_core::Tensor> {
        match self {
            Self::Host(tensor) => Ok(tensor),
            Self::Device(_) => bail!("an operand is on a GPU, another on the CPU"),
        }
    }

    /// The values of a tensor on a GPU.
    ///
    /// # Errors
    /// When it is on the CPU.
    pub fn device(&self) -> Result<&DeviceTensor> {
        match self {
            Self::Device(tensor) => Ok(tensor),
            Self::Host(_) => bail!("an operand is on the CPU, another on a GPU"),
        }
    }
}

impl From<candle_core::Tensor> for Tensor {
    fn from(tensor: candle_core::Tensor) -> Self {
        Self::Host(tensor)
    }
}

impl From<DeviceTensor> for Tensor {
    fn from(tensor: DeviceTensor) -> Self {
        Self::Device(tensor)
    }
}

/// The values in row-major order, as bytes.
fn bytes_of(tensor: &candle_core::Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => bytemuck::cast_slice(&flat.to_vec1::<f32>()?).to_vec(),
        DType::U32 => bytemuck::cast_slice(&flat.to_vec1::<u32>()?).to_vec(),
        DType::BF16 => bytemuck::cast_slice(flat.to_vec1::<bf16>()?.reinterpret_cast()).to_vec(),
        DType::U8 => flat.to_vec1::<u8>()?,
        other => bail!("GPU: {other:?} is not kept"),
    })
}
