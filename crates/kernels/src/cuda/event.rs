//! Places in the stream that can be waited for.

use std::sync::Arc;

use candle_core::Result;
use cudarc::driver::{result, sys};

use super::Gpu;
use super::gpu::failed;

/// Comes when all that was given to the GPU before [`Self::record`] is done; at once, when it was never recorded.
pub struct Event {
    gpu: Arc<Gpu>,
    handle: sys::CUevent,
}

// SAFETY: the handle is only passed to the driver, whose functions may be called from any thread.
#[expect(unsafe_code, reason = "handles are pointers, which the compiler takes for unshareable")]
unsafe impl Send for Event {}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

impl Event {
    /// One to wait for.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        Self::with(gpu, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn with(gpu: &Arc<Gpu>, flags: sys::CUevent_flags) -> Result<Self> {
        gpu.bind()?;
        let handle = result::event::create(flags).map_err(failed("cannot make an event"))?;
        Ok(Self { gpu: Arc::clone(gpu), handle })
    }

    /// Puts it behind what was given to the GPU so far.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn record(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: event and stream live as long as `self`.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::event::record(self.handle, self.gpu.stream) }.map_err(failed("cannot record an event"))
    }

    /// Waits until it has come.
    ///
    /// # Errors
    /// When the computation before it failed.
    pub fn wait(&self) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: the event lives as long as `self`.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::event::synchronize(self.handle) }.map_err(failed("the computation failed"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: made by `with`, given back once.
            #[expect(unsafe_code, reason = "driver calls on valid handles")]
            let _ = unsafe { result::event::destroy(self.handle) };
        }
    }
}

impl Gpu {
    /// Seconds from the start of what `work` gives to the GPU until its end, by the GPU's own clock: without the host's
    /// part where the GPU is kept busy.
    ///
    /// # Errors
    /// Those of `work`, and when the GPU fails.
    pub fn seconds(self: &Arc<Self>, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let timed = || Event::with(self, sys::CUevent_flags::CU_EVENT_DEFAULT);
        let (start, end) = (timed()?, timed()?);
        start.record()?;
        work()?;
        end.record()?;
        end.wait()?;
        // SAFETY: both events have come.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let milliseconds =
            unsafe { result::event::elapsed(start.handle, end.handle) }.map_err(failed("cannot read the time"))?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}
