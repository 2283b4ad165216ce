//! A step that was recorded once and is launched as one piece: without the host's cost per kernel.

use std::sync::Arc;

use candle_core::Result;
use cudarc::driver::{result, sys};

use super::Gpu;
use super::gpu::failed;

/// Recorded work. It reads and writes the places that it was recorded with.
pub struct Graph {
    gpu: Arc<Gpu>,
    executable: sys::CUgraphExec,
}

// SAFETY: the handle is only passed to the driver, whose functions may be called from any thread; launching takes
// `&mut self`.
#[expect(unsafe_code, reason = "handles are pointers, which the compiler takes for unshareable")]
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl Graph {
    /// Records what `work` gives to the GPU, without computing it. `work` must not wait for the device, nor have memory
    /// from the driver.
    ///
    /// # Errors
    /// Those of `work`, and when the driver cannot record it.
    pub fn record<T>(gpu: &Arc<Gpu>, work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        gpu.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `gpu`.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::stream::begin_capture(gpu.stream, mode) }.map_err(failed("cannot record a step"))?;
        let worked = work();
        // Also after a failure: the stream must not stay in recording.
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let graph = unsafe { result::stream::end_capture(gpu.stream) };
        let value = worked?;
        let graph = graph.map_err(failed("cannot record a step"))?;
        // SAFETY: the graph was just made and is given back once; the executable is a copy.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(failed("cannot prepare a recorded step"))?;
        Ok((Self { gpu: Arc::clone(gpu), executable }, value))
    }

    /// Gives the recorded work to the GPU.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn launch(&mut self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: both live as long as `self`.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::graph::launch(self.executable, self.gpu.stream) }
            .map_err(failed("cannot launch a recorded step"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: given back once. A launch under way keeps what it needs.
            #[expect(unsafe_code, reason = "driver calls on valid handles")]
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}
