//! Architectures, their layers and their weights.
//!
//! A model is loaded from a [`Checkpoint`] and computes logits for a batch of rows that belong
//! to any number of sequences, over a paged cache whose shape it declares itself.
//!
//! **Architecture invariant:** this crate knows no requests, no sampling and no block
//! allocation; block tables come in as numbers. Models contain no `cfg`: one file for all devices.

mod architecture;
mod checkpoint;
mod error;
mod fields;
mod input;
mod kv_cache;
mod layers;
mod models;
mod progress;
mod quantization;
mod weights;

pub use architecture::{Architecture, LoadOptions};
pub use checkpoint::Checkpoint;
pub use error::ModelError;
pub use input::{AttentionMetadata, ModelInput, NaiveSequence};
pub use kv_cache::{KvCache, KvCacheGroup, KvCacheSpec};
pub use models::{CausalLm, deepseek::DeepSeekConfig};
pub use progress::Progress;
pub use quantization::{Quantization, Role};
pub use weights::Weights;

pub use moesaic_kernels::{Device, arithmetic_name};
