//! Bounds of the scheduler, and what goes beyond them.

use thiserror::Error;

/// Bounds of the scheduler, fixed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Blocks of the KV cache.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Most sequences that run at once.
    pub max_num_seqs: usize,
    /// Most tokens computed in one step.
    pub max_num_batched_tokens: usize,
    /// Longest sequence, prompt and output together.
    pub max_model_len: usize,
    /// Most sequences that wait.
    pub max_num_waiting: usize,
    /// Reuse computed blocks of equal prefixes.
    pub prefix_caching: bool,
    /// The model's own end-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
}

/// Why a request was not taken. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchedulerError {
    /// The waiting queue is full.
    #[error("{max_num_waiting} sequences are waiting already")]
    QueueFull {
        /// The configured bound.
        max_num_waiting: usize,
    },
    /// An empty prompt has no position to sample from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {num_tokens} tokens, at most {max_prompt_tokens} fit")]
    PromptTooLong {
        /// Tokens of the prompt.
        num_tokens: usize,
        /// Most that fit.
        max_prompt_tokens: usize,
    },
}
