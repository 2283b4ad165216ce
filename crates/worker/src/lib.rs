//! One device: KV memory, batch to tensors, forward, sample.
//!
//! Implements the engine's `Executor`. Each step's results depend on the sequences alone: not
//! on what else is in the batch, nor on the number of threads.
//!
//! **Architecture invariant:** this crate knows no HTTP, no text and no async runtime.

mod decode_graphs;
mod gpu_sampler;
mod gpu_worker;
mod input_batch;
mod logits_processors;
mod logprobs;
mod model_runner;
mod random;
mod sampler;
mod sequences;
mod worker;

pub use gpu_sampler::GpuSampler;
pub use gpu_worker::{GpuConfig, GpuWorker};
pub use input_batch::{BatchSequence, InputBatch};
pub use logits_processors::{LogitsProcessor, SamplingRow, TokenCounts};
pub use logprobs::token_logprobs;
pub use model_runner::{ModelRunner, Numerics, RunnerConfig};
pub use sampler::{SampleError, Sampler};
pub use worker::{Worker, WorkerConfig};

/// Opens GPU number `ordinal`.
///
/// # Errors
/// When there is no driver, no such GPU, or no kernels in this build that fit it.
pub fn open_gpu(ordinal: usize) -> Result<moesaic_model::Device, moesaic_model::ModelError> {
    let gpu = moesaic_kernels::cuda::Gpu::open(ordinal).map_err(|error| {
        // Without the backtrace that may follow.
        let message = error.to_string().lines().next().unwrap_or_default().to_owned();
        moesaic_model::ModelError::Unsupported(message)
    })?;
    Ok(moesaic_model::Device::Gpu(gpu))
}
