//! The plan of one step and its result: plain, serialisable data.

use serde::{Deserialize, Serialize};

use crate::{BlockId, BlockTable, FailureCause, SamplingParams, SequenceId};

/// What the executor computes in one step. Every token that it returns for a sequence becomes part of that sequence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SchedulerOutput {
    /// Counts the steps from 0.
    pub step: u64,
    /// Sequences that the executor does not know (new, or back from a preemption).
    pub new_sequences: Vec<NewSequence>,
    /// The work, decodes and prefill chunks alike.
    pub sequences: Vec<ScheduledSequence>,
    /// Sequences whose state the executor can drop before this step (finished or preempted).
    pub dropped: Vec<SequenceId>,
}

impl SchedulerOutput {
    /// Tokens computed in this step.
    pub fn num_tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.num_new_tokens).sum()
    }
}

/// All that an executor needs to know of a sequence before its first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewSequence {
    /// Identity.
    pub id: SequenceId,
    /// Prompt, then tokens generated before a preemption.
    pub token_ids: Vec<u32>,
    /// How many of them are the prompt.
    pub num_prompt_tokens: usize,
    /// Blocks that hold cached tokens already.
    pub block_table: BlockTable,
    /// Settings.
    pub sampling: SamplingParams,
}

/// One sequence's share of a step: tokens `start .. start + num_new_tokens` are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduledSequence {
    /// Identity.
    pub id: SequenceId,
    /// Tokens that are in the cache when this step runs.
    pub start: usize,
    /// Tokens to compute, drafts included. The executor knows them: it was told of them, or has chosen them itself.
    pub num_new_tokens: usize,
    /// The last of the new tokens are these guesses; each is accepted iff it is what would be sampled.
    pub draft_tokens: Vec<u32>,
    /// Blocks added to the sequence's table in this step.
    pub new_blocks: Vec<BlockId>,
    /// Whether this step reaches the end of the tokens and so samples.
    pub samples: bool,
}

/// Results in the order of [`SchedulerOutput::sequences`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRunnerOutput {
    /// One per scheduled sequence.
    pub results: Vec<SequenceResult>,
}

/// What came of one scheduled sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SequenceResult {
    /// 0 tokens for a prefill chunk, 1 for a decode, up to 1 + drafts after verification.
    Tokens {
        /// In order; the scheduler may cut them at a stop.
        tokens: Vec<SampledToken>,
        /// Log-probabilities of prompt tokens `start + 1 ..`, where asked for.
        prompt_logprobs: Vec<TokenLogprobs>,
        /// Guesses for the next step.
        draft_tokens: Vec<u32>,
    },
    /// The pooled vector of an embedding model.
    Embedding(Vec<f32>),
    /// This sequence cannot go on; others are not affected.
    Failed(FailureCause),
}

/// A token and, where asked for, how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampledToken {
    /// Inside the vocabulary.
    pub id: u32,
    /// Present when the request asked for logprobs.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities at one position, before temperature and penalties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token that stands there.
    pub token: TokenLogprob,
    /// The most likely tokens, best first, ties by id.
    pub top: Vec<TokenLogprob>,
}

/// A token id with its natural-log probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Natural logarithm, finite (floor -9999).
    pub logprob: f32,
}
