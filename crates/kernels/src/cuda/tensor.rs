//! Tensors in a GPU's memory: contiguous, in row-major order.

use std::sync::Arc;

use candle_core::{DType, Result, bail};

use super::Gpu;

/// Memory that is given back with its last user.
#[derive(Debug)]
struct Memory {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// From the driver.
    Own,
    /// A place in the workspace.
    Temporary(usize),
    /// Somebody else's.
    Borrowed,
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.kind {
            Kind::Own => self.gpu.free(self.address),
            Kind::Temporary(offset) => self.gpu.release(offset),
            Kind::Borrowed => {}
        }
    }
}

/// A tensor; clones and parts share memory.
#[derive(Debug, Clone)]
pub struct DeviceTensor {
    memory: Arc<Memory>,
    /// Bytes into the memory.
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

impl DeviceTensor {
    /// For as long as it is used: weights, caches.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn persistent(gpu: &Arc<Gpu>, shape: &[usize], dtype: DType) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * dtype.size_in_bytes();
        let memory = Memory { gpu: Arc::clone(gpu), address: gpu.allocate(bytes)?, bytes, kind: Kind::Own };
        Ok(Self { memory: Arc::new(memory), offset: 0, shape: shape.to_vec(), dtype })
    }

    /// For a step.
    ///
    /// # Errors
    /// When the workspace is too small.
    pub fn temporary(gpu: &Arc<Gpu>, shape: &[usize], dtype: DType) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * dtype.size_in_bytes();
        let (address, place) = gpu.allocate_temporary(bytes)?;
        let kind = place.map_or(Kind::Own, Kind::Temporary);
        let memory = Memory { gpu: Arc::clone(gpu), address, bytes, kind };
        Ok(Self { memory: Arc::new(memory), offset: 0, shape: shape.to_vec(), dtype })
    }

    /// The same values, which their owner may overwrite: for results of a captured step, until the next one.
    #[must_use]
    pub fn borrowed(&self) -> Self {
        let Memory { gpu, address, bytes, .. } = &*self.memory;
        let memory = Memory { gpu: Arc::clone(gpu), address: *address, bytes: *bytes, kind: Kind::Borrowed };
        Self { memory: Arc::new(memory), ..self.clone() }
    }

    /// Whose memory it is.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.memory.gpu
    }

    /// Sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.len() * self.dtype.size_in_bytes()
    }

    pub(super) fn address(&self) -> u64 {
        debug_assert!(self.offset + self.num_bytes() <= self.memory.bytes, "a part lies inside its whole");
        self.memory.address + self.offset as u64
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// When their number differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            bail!("reshape: {:?} to {shape:?}", self.shape);
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// Some of the rows, by the first dimension.
    ///
    /// # Errors
    /// When they are not all there.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        let (Some(&num_rows), width) = (self.shape.first(), self.shape.iter().skip(1).product::<usize>()) else {
            bail!("rows: of a number");
        };
        if start + count > num_rows {
            bail!("rows: {start} .. {} of {num_rows}", start + count);
        }
        let mut shape = self.shape.clone();
        shape[0] = count;
        Ok(Self { offset: self.offset + start * width * self.dtype.size_in_bytes(), shape, ..self.clone() })
    }

    /// That its type is what a kernel reads.
    pub(super) fn expect(&self, dtype: DType) -> Result<u64> {
        if self.dtype != dtype {
            bail!("GPU: {:?} where {dtype:?} is needed", self.dtype);
        }
        Ok(self.address())
    }
}

impl DeviceTensor {
    /// Whole numbers inside a buffer of bytes, from byte `start` on.
    ///
    /// # Errors
    /// When they are not all there or not at a multiple of their size.
    pub fn u32s(&self, start: usize, count: usize) -> Result<Self> {
        if !start.is_multiple_of(4) || start + 4 * count > self.num_bytes() {
            bail!("u32s: {count} from byte {start} of {}", self.num_bytes());
        }
        Ok(Self { offset: self.offset + start, shape: vec![count], dtype: DType::U32, ..self.clone() })
    }
}
