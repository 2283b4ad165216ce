//! Host memory that the device reads and writes by itself, while both go on.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::Result;
use cudarc::driver::result;

use super::gpu::failed;
use super::{Event, Gpu};

/// Starts of parts within one upload: every kernel's alignment.
pub(super) const ALIGNMENT: usize = 256;

/// Pinned memory, and the event that tells when it was last copied.
pub(super) struct Piece {
    gpu: Arc<Gpu>,
    pointer: *mut c_void,
    bytes: usize,
    pub copied: Event,
}

// SAFETY: plain memory with one owner.
#[expect(unsafe_code, reason = "the pointer is owned")]
unsafe impl Send for Piece {}

impl Piece {
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        gpu.bind()?;
        let bytes = bytes.max(ALIGNMENT);
        // SAFETY: the memory is written before it is read.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let pointer = unsafe { result::malloc_host(bytes, 0) }.map_err(failed("cannot pin host memory"))?;
        // SAFETY: fresh memory of this size; so that a slice of it holds values.
        #[expect(unsafe_code, reason = "initialises memory")]
        unsafe {
            pointer.cast::<u8>().write_bytes(0, bytes);
        }
        Ok(Self { gpu: Arc::clone(gpu), pointer, bytes, copied: Event::new(gpu)? })
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `new` initialised this many bytes, and `self` owns them.
        #[expect(unsafe_code, reason = "a slice of owned memory")]
        unsafe {
            std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes)
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // A copy may still be under way. Errors tell of earlier failures only.
        let _ = self.gpu.synchronize();
        if self.gpu.bind().is_ok() {
            // SAFETY: from `malloc_host`, freed once.
            #[expect(unsafe_code, reason = "driver calls on valid handles")]
            let _ = unsafe { result::free_host(self.pointer) };
        }
    }
}
