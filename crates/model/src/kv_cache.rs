//! The paged cache in a model's own shape.

use candle_core::DType;
use moesaic_kernels::cuda::DeviceTensor;
use moesaic_kernels::{Device, Tensor, host};

use crate::ModelError;

/// What a model stores per token. No groups means nothing (an embedding model).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvCacheSpec {
    /// Layers of equal shape.
    pub groups: Vec<KvCacheGroup>,
}

/// Layers that store rows of one width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvCacheGroup {
    /// Layers in the group.
    pub num_layers: usize,
    /// Values per token and layer.
    pub width: usize,
    /// Bytes of an entry in 8 bits, where the model has that form.
    pub fp8_bytes: Option<usize>,
    /// Positions after which an entry is never read again, if any.
    pub window: Option<usize>,
}

impl KvCacheGroup {
    /// Elements of a row.
    fn row(&self, dtype: DType) -> usize {
        if dtype == DType::U8 { self.fp8_bytes.unwrap_or(self.width) } else { self.width }
    }
}

impl KvCacheSpec {
    /// Bytes that one token takes over all layers, in values of a type, or, for u8, in 8-bit entries.
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        self.groups.iter().map(|group| group.num_layers * group.row(dtype) * dtype.size_in_bytes()).sum()
    }
}

/// Cache memory of all layers. Block ids index it; it does not know who holds them.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Tensor>,
    block_size: usize,
}

impl KvCache {
    /// Reserves `num_blocks` blocks; on the CPU memory is taken as blocks are written.
    ///
    /// # Errors
    /// For a type that no cache kernel handles, and when a GPU's memory is too small.
    pub fn new(
        spec: &KvCacheSpec,
        num_blocks: usize,
        block_size: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let has_fp8 = spec.groups.iter().all(|group| group.fp8_bytes.is_some());
        if dtype == DType::U8 && !(has_fp8 && device.gpu().is_some()) {
            return Err(ModelError::Unsupported(
                "a cache in FP8 needs a GPU and a model with latent attention".to_owned(),
            ));
        }
        let mut layers = Vec::new();
        for group in &spec.groups {
            for _ in 0..group.num_layers {
                let shape = (num_blocks * block_size, group.row(dtype));
                layers.push(match device {
                    Device::Cpu => host::lazy_zeros(shape, dtype, &candle_core::Device::Cpu)?.into(),
                    Device::Gpu(gpu) => DeviceTensor::zeros(gpu, &[shape.0, shape.1], dtype)?.into(),
                });
            }
        }
        Ok(Self { layers, block_size })
    }

    /// `(slots, width)` of one layer.
    pub fn layer(&self, index: usize) -> &Tensor {
        &self.layers[index]
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }
}
