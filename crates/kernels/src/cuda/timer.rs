//! How long the GPU takes, by its own clock.

use candle_core::Result;
use cudarc::driver::{result, sys};

use super::Gpu;
use super::gpu::failed;

struct Event(sys::CUevent);

impl Event {
    fn record(gpu: &Gpu) -> Result<Self> {
        let event =
            result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("cannot make an event"))?;
        let event = Self(event);
        // SAFETY: the event was just made, the stream lives as long as `gpu`.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        unsafe { result::event::record(event.0, gpu.stream) }.map_err(failed("cannot record an event"))?;
        Ok(event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `record`, given back once.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

impl Gpu {
    /// Seconds from the start of what `work` gives to the GPU until its end, without the host's part where the GPU is
    /// kept busy.
    ///
    /// # Errors
    /// Those of `work`, and when the GPU fails.
    pub fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.bind()?;
        let start = Event::record(self)?;
        work()?;
        let end = Event::record(self)?;
        self.synchronize()?;
        // SAFETY: both events have come.
        #[expect(unsafe_code, reason = "driver calls on valid handles")]
        let milliseconds = unsafe { result::event::elapsed(start.0, end.0) }.map_err(failed("cannot read the time"))?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}
