//! What the outside asks for, and how it can end.

use crate::{FailureCause, SamplingParams, SequenceId};

/// One sequence to generate. A client's request with n choices is n of these.
#[derive(Debug, Clone)]
pub struct Request {
    /// Chosen by the caller, unique for the life of the scheduler.
    pub id: SequenceId,
    /// At least one id, all inside the vocabulary.
    pub prompt_token_ids: Vec<u32>,
    /// Validated settings.
    pub sampling: SamplingParams,
    /// Lower runs first; within a priority clients take turns, and those of a client go by arrival.
    pub priority: i32,
    /// Whose it is.
    pub client: u64,
    /// Mixed into the block hashes: sequences with different values never share cached blocks.
    pub cache_salt: u64,
}

/// Why a sequence ended. Exactly one per sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence or stop token was generated; the id says which.
    Stop {
        /// The token that ended the sequence; it is part of the output.
        token_id: u32,
    },
    /// `max_tokens` or the context length was reached.
    Length,
    /// The caller gave up.
    Aborted,
    /// The worker could not compute it.
    Failed(FailureCause),
}
