//! Between the host's memory and the GPU's, through pinned memory: copies run beside everything else.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Error, Result, bail};
use cudarc::driver::{result, sys};

use super::gpu::failed;
use super::{DeviceTensor, Gpu};

/// Weights are brought in pieces of this many bytes.
const PIECE_BYTES: usize = 32 << 20;
/// Starts of inputs within one upload: every kernel's alignment.
const ALIGNMENT: usize = 256;

/// Host memory that the device reads and writes by itself.
struct Pinned {
    gpu: Arc<Gpu>,
    pointer: *mut c_void,
    bytes: usize,
}

// SAFETY: plain memory with one owner.
#[expect(unsafe_code, reason = "the pointer is owned")]
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        gpu.bind()?;
        // SAFETY: the memory is written before it is read.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(failed("cannot pin host memory"))?;
        // SAFETY: fresh memory of this size; so that a slice of it holds values.
        #[expect(unsafe_code, reason = "initialises memory")]
        unsafe {
            pointer.cast::<u8>().write_bytes(0, bytes);
        }
        Ok(Self { gpu: Arc::clone(gpu), pointer, bytes })
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `new` initialised this many bytes, and `self` owns them.
        #[expect(unsafe_code, reason = "a slice of owned memory")]
        unsafe {
            std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes)
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.bind().is_err() {
            return;
        }
        // SAFETY: from `malloc_host`, freed once.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let _ = unsafe { result::free_host(self.pointer) };
    }
}

/// Small uploads and downloads of one owner. What was uploaded since the last [`Self::download`] is still being read.
pub struct Staging {
    gpu: Arc<Gpu>,
    pinned: Mutex<(Pinned, usize)>,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Staging")
    }
}

impl Staging {
    /// With room for `bytes` per step; more is possible, but waits.
    ///
    /// # Errors
    /// When the host's memory cannot be pinned.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        Ok(Self { gpu: Arc::clone(gpu), pinned: Mutex::new((Pinned::new(gpu, bytes.max(ALIGNMENT))?, 0)) })
    }

    /// The GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Bytes that [`Self::upload_into`] needs for parts of these sizes.
    pub fn bytes_for(parts: impl IntoIterator<Item = usize>) -> usize {
        parts.into_iter().map(|bytes| bytes.next_multiple_of(ALIGNMENT)).sum()
    }

    /// Brings parts to the start of `target`, each at a multiple of 256 bytes, in one copy; gives where each begins.
    ///
    /// # Errors
    /// When they do not fit or the copy fails.
    pub fn upload_into(&self, target: &DeviceTensor, parts: &[&[u8]]) -> Result<Vec<usize>> {
        let mut starts = Vec::with_capacity(parts.len());
        let mut size = 0;
        for part in parts {
            starts.push(size);
            size += part.len().next_multiple_of(ALIGNMENT);
        }
        if size > target.num_bytes() {
            bail!("GPU: an upload of {size} bytes to {}", target.num_bytes());
        }
        if size == 0 || self.gpu.is_planning() {
            return Ok(starts);
        }
        let mut guard = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let (pinned, used) = &mut *guard;
        if *used + size > pinned.bytes {
            self.gpu.synchronize()?;
            *used = 0;
            if size > pinned.bytes {
                *pinned = Pinned::new(&self.gpu, size.next_power_of_two())?;
            }
        }
        let staged = &mut pinned.bytes_mut()[*used..*used + size];
        for (part, start) in parts.iter().zip(&starts) {
            staged[*start..start + part.len()].copy_from_slice(part);
        }
        *used += size;
        self.gpu.bind()?;
        // SAFETY: the target is large enough, and the pinned bytes stay untouched until the stream was waited for.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::memcpy_htod_async(target.address(), staged, self.gpu.stream) }
            .map_err(failed("an upload failed"))?;
        Ok(starts)
    }

    /// Waits for the stream and gives the bytes of a tensor.
    ///
    /// # Errors
    /// When the computation before it failed.
    pub fn download(&self, tensor: &DeviceTensor) -> Result<Vec<u8>> {
        let size = tensor.num_bytes();
        let mut guard = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let (pinned, used) = &mut *guard;
        if self.gpu.is_planning() {
            return Ok(vec![0; size]);
        }
        if *used + size > pinned.bytes {
            self.gpu.synchronize()?;
            *used = 0;
            if size > pinned.bytes {
                *pinned = Pinned::new(&self.gpu, size.next_power_of_two())?;
            }
        }
        let staged = &mut pinned.bytes_mut()[*used..*used + size];
        self.gpu.bind()?;
        // SAFETY: both sides are this large; the bytes are read after the wait only.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::memcpy_dtoh_async(staged, tensor.address(), self.gpu.stream) }
            .map_err(failed("a download failed"))?;
        self.gpu.synchronize()?;
        let bytes = staged.to_vec();
        *used = 0;
        Ok(bytes)
    }
}

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
        let (size, piece) = (tensor.num_bytes(), self.pieces[0].pinned.bytes);
        for (index, start) in (0..size).step_by(piece).enumerate() {
            let buffer = &mut self.pieces[index % 2];
            buffer.wait()?;
            let bytes = &mut buffer.pinned.bytes_mut()[..piece.min(size - start)];
            fill(start, bytes)?;
            self.gpu.bind()?;
            // SAFETY: inside the tensor; the piece is not touched again before its event has come.
            #[expect(unsafe_code, reason = "driver calls on valid handles")]
            unsafe {
                result::memcpy_htod_async(tensor.address() + start as u64, bytes, self.gpu.stream)
                    .and_then(|()| result::event::record(buffer.copied, self.gpu.stream))
            }
            .map_err(failed("an upload failed"))?;
        }
        for piece in &self.pieces {
            piece.wait()?;
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

/// Pinned memory and the event that tells when it was copied.
struct Piece {
    pinned: Pinned,
    copied: sys::CUevent,
}

// SAFETY: an event's handle is only passed to the driver, whose functions may be called from any thread.
#[expect(unsafe_code, reason = "handles are pointers, which the compiler takes for unshareable")]
unsafe impl Send for Piece {}

impl Piece {
    fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let pinned = Pinned::new(gpu, bytes)?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        Ok(Self { pinned, copied: result::event::create(flags).map_err(failed("cannot make an event"))? })
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the event lives as long as `self`; one that was never recorded has come.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::event::synchronize(self.copied) }.map_err(failed("an upload failed"))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // The copy may still read the memory when another one failed.
        let _ = self.wait();
        // SAFETY: made by `new`, given back once.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let _ = unsafe { result::event::destroy(self.copied) };
    }
}
