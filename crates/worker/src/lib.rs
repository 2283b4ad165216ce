//! One device: KV memory, batch to tensors, forward, sample.
//!
//! Implements the engine's `Executor`. Each step's results depend on the sequences alone: not
//! on what else is in the batch, nor on the number of threads.
//!
//! **Architecture invariant:** this crate knows no HTTP, no text and no async runtime.

mod input_batch;
mod logits_processors;
mod logprobs;
mod model_runner;
mod random;
mod sampler;
mod worker;

pub use input_batch::{BatchSequence, InputBatch};
pub use logits_processors::{LogitsProcessor, SamplingRow, TokenCounts};
pub use logprobs::token_logprobs;
pub use model_runner::{ModelRunner, Numerics};
pub use sampler::{SampleError, Sampler};
pub use worker::{Worker, WorkerConfig};
