//! The compiled kernels, in builds that have them.

use super::GpuInfo;

/// The name of the driver in software that tests use (`crates/cuda-emulator`). It has the kernels inside.
const EMULATOR: &str = "moesaic CUDA emulator";

/// What the CUDA compiler made of each source file: machine code for compute capability 8.0 and 9.0a, and PTX, which the
/// driver compiles for later GPUs. Empty in builds without the feature `cuda`.
pub(super) fn images(info: &GpuInfo) -> &'static [&'static [u8]] {
    if info.name == EMULATOR { &[&[]] } else { IMAGES }
}

#[cfg(feature = "cuda")]
#[repr(align(16))]
struct Aligned<T>(T);

#[cfg(feature = "cuda")]
include!(concat!(env!("OUT_DIR"), "/images.rs"));

#[cfg(not(feature = "cuda"))]
static IMAGES: &[&[u8]] = &[];
