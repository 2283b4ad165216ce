//! Who runs next, and where their keys and values live.
//!
//! A pure state machine: requests and results go in, a plan for one step comes out.
//!
//! **Architecture invariant:** this crate knows no threads, channels, clocks, tensors or text.
//! The same calls in the same order give the same plans, which is what lets a property test
//! drive it through thousands of random lives.

mod block_pool;
mod config;
mod failure;
mod ids;
mod kv_cache_manager;
mod output;
mod plan;
mod prefix_cache;
mod request;
mod sampling_params;
mod scheduler;
mod sequence;
mod turns;

pub use block_pool::BlockPool;
pub use config::{SchedulerConfig, SchedulerError};
pub use failure::FailureCause;
pub use ids::{BlockId, SequenceId};
pub use kv_cache_manager::{KvCacheManager, KvUsage};
pub use output::{
    ModelRunnerOutput, NewSequence, SampledToken, ScheduledSequence, SchedulerOutput, SequenceResult, TokenLogprob,
    TokenLogprobs,
};
pub use prefix_cache::{BlockHash, PrefixCache};
pub use request::{FinishReason, Request};
pub use sampling_params::SamplingParams;
pub use scheduler::{Scheduler, SchedulerCounters, SequenceEvent};
pub use sequence::{BlockTable, Sequence, SequenceState};
