//! The small copies of a step, through pinned memory: nothing waits for them but who needs their bytes.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, bail};
use cudarc::driver::result;

use super::gpu::failed;
use super::pinned::{ALIGNMENT, Piece};
use super::{DeviceTensor, Gpu};

/// Small uploads of one owner. What was brought last is still being read while the next is prepared.
pub struct Staging {
    gpu: Arc<Gpu>,
    buffer: Mutex<DoubleBuffer>,
}

/// Used in turn: one is filled while the other's copies are made.
struct DoubleBuffer {
    pieces: [Piece; 2],
    current: usize,
    /// Bytes of the current one.
    used: usize,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Staging")
    }
}

impl DoubleBuffer {
    /// So many bytes to be copied next.
    fn take(&mut self, gpu: &Arc<Gpu>, size: usize) -> Result<&mut [u8]> {
        if self.used + size > self.pieces[self.current].len() {
            self.pieces[self.current].copied.record()?;
            self.current = 1 - self.current;
            self.used = 0;
            let piece = &mut self.pieces[self.current];
            piece.copied.wait()?;
            if size > piece.len() {
                *piece = Piece::new(gpu, size.next_power_of_two())?;
            }
        }
        let start = self.used;
        self.used += size;
        Ok(&mut self.pieces[self.current].bytes_mut()[start..start + size])
    }
}

impl Staging {
    /// With room for `bytes` of one step; more is possible, but waits.
    ///
    /// # Errors
    /// When the host's memory cannot be pinned.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let pieces = [Piece::new(gpu, bytes)?, Piece::new(gpu, bytes)?];
        Ok(Self { gpu: Arc::clone(gpu), buffer: Mutex::new(DoubleBuffer { pieces, current: 0, used: 0 }) })
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
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = buffer.take(&self.gpu, size)?;
        for (part, start) in parts.iter().zip(&starts) {
            staged[*start..start + part.len()].copy_from_slice(part);
        }
        self.gpu.bind()?;
        // SAFETY: the target is large enough, and the pinned bytes stay untouched until their piece's event has come.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::memcpy_htod_async(target.address(), staged, self.gpu.stream) }
            .map_err(failed("an upload failed"))?;
        Ok(starts)
    }
}

/// A way for bytes to the host, one tensor at a time.
pub struct Download {
    gpu: Arc<Gpu>,
    piece: Piece,
    bytes: usize,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Download")
    }
}

impl Download {
    /// With room for `bytes`; more is possible, but waits.
    ///
    /// # Errors
    /// When the host's memory cannot be pinned.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        Ok(Self { gpu: Arc::clone(gpu), piece: Piece::new(gpu, bytes)?, bytes: 0 })
    }

    /// Starts on a tensor's bytes.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn start(&mut self, tensor: &DeviceTensor) -> Result<()> {
        self.bytes = tensor.num_bytes();
        if self.bytes > self.piece.len() {
            self.piece = Piece::new(&self.gpu, self.bytes.next_power_of_two())?;
        }
        self.gpu.bind()?;
        let target = &mut self.piece.bytes_mut()[..self.bytes];
        // SAFETY: both sides are this large; the bytes are read after the event only.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::memcpy_dtoh_async(target, tensor.address(), self.gpu.stream) }
            .map_err(failed("a download failed"))?;
        self.piece.copied.record()
    }

    /// Waits for the bytes, but for nothing that was given to the GPU after them.
    ///
    /// # Errors
    /// When the computation before them failed.
    pub fn finish(&mut self) -> Result<&[u8]> {
        self.piece.copied.wait()?;
        Ok(&self.piece.bytes_mut()[..self.bytes])
    }
}

impl DeviceTensor {
    /// Waits for a tensor's bytes.
    ///
    /// # Errors
    /// When the computation before failed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut download = Download::new(self.gpu(), self.num_bytes())?;
        download.start(self)?;
        Ok(download.finish()?.to_vec())
    }
}
