//! Large uploads: weights, while their file is read.

use std::sync::Arc;

use candle_core::{DType, Error, Result, bail};
use cudarc::driver::result;

use super::gpu::failed;
use super::pinned::{ALIGNMENT, Piece};
use super::{DeviceTensor, Gpu};

/// Weights are brought in pieces of this many bytes.
const PIECE_BYTES: usize = 32 << 20;

/// Brings what is too large for one piece of pinned memory: while one piece is copied, the next is made.
pub struct Uploader {
    gpu: Arc<Gpu>,
    pieces: [Piece; 2],
}

impl std::fmt::Debug for Uploader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Uploader")
    }
}

impl Uploader {
    /// For tensors of any size, brought in pieces of at most `bytes`.
    ///
    /// # Errors
    /// When the host's memory cannot be pinned.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let bytes = bytes.clamp(ALIGNMENT, PIECE_BYTES);
        Ok(Self { gpu: Arc::clone(gpu), pieces: [Piece::new(gpu, bytes)?, Piece::new(gpu, bytes)?] })
    }

    /// A persistent tensor from values that `fill(first byte, bytes)` gives piece by piece, in order.
    ///
    /// # Errors
    /// Those of `fill`, and when there is no memory.
    pub fn tensor<E: From<Error>>(
        &mut self,
        shape: &[usize],
        dtype: DType,
        mut fill: impl FnMut(usize, &mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<DeviceTensor, E> {
        let tensor = DeviceTensor::persistent(&self.gpu, shape, dtype)?;
        let (size, piece) = (tensor.num_bytes(), self.pieces[0].len());
        for (index, start) in (0..size).step_by(piece).enumerate() {
            let buffer = &mut self.pieces[index % 2];
            buffer.copied.wait()?;
            let bytes = &mut buffer.bytes_mut()[..piece.min(size - start)];
            fill(start, bytes)?;
            self.gpu.bind()?;
            // SAFETY: inside the tensor; the piece is not touched again before its event has come.
            #[expect(unsafe_code, reason = "driver calls on valid handles")]
            unsafe { result::memcpy_htod_async(tensor.address() + start as u64, bytes, self.gpu.stream) }
                .map_err(failed("an upload failed"))?;
            buffer.copied.record()?;
        }
        for piece in &self.pieces {
            piece.copied.wait()?;
        }
        Ok(tensor)
    }
}

impl DeviceTensor {
    /// A persistent tensor from values that `fill(first byte, bytes)` gives piece by piece, in order.
    ///
    /// # Errors
    /// Those of `fill`, and when there is no memory.
    pub fn from_pieces<E: From<Error>>(
        gpu: &Arc<Gpu>,
        shape: &[usize],
        dtype: DType,
        fill: impl FnMut(usize, &mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        Uploader::new(gpu, shape.iter().product::<usize>() * dtype.size_in_bytes())?.tensor(shape, dtype, fill)
    }

    /// A persistent tensor of zeros.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn zeros(gpu: &Arc<Gpu>, shape: &[usize], dtype: DType) -> Result<Self> {
        let tensor = Self::persistent(gpu, shape, dtype)?;
        // SAFETY: the memory is this large.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::memset_d8_async(tensor.address(), 0, tensor.num_bytes(), gpu.stream) }
            .map_err(failed("cannot clear memory"))?;
        Ok(tensor)
    }

    /// Copies all elements to the rows from `start` on of `target`, which has rows of the same width.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn copy_to_rows(&self, target: &Self, start: usize) -> Result<()> {
        let part = target.rows(start, self.shape().first().copied().unwrap_or(0))?;
        if part.shape() != self.shape() || part.dtype() != self.dtype() {
            bail!("copy: {:?} to {:?}", self.shape(), part.shape());
        }
        let gpu = self.gpu();
        if self.is_empty() || gpu.is_planning() {
            return Ok(());
        }
        gpu.bind()?;
        // SAFETY: both are of this size, and the copy has its place in the stream.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::memcpy_dtod_async(part.address(), self.address(), self.num_bytes(), gpu.stream) }
            .map_err(failed("a copy failed"))
    }
}
