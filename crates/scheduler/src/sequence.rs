//! A sequence inside the engine: its tokens and how far they are computed.

use crate::{BlockHash, BlockId, FinishReason, Request, SamplingParams, SequenceId};

/// Block ids of one sequence, in token order.
pub type BlockTable = Vec<BlockId>;

/// Order of service.
pub(crate) type Rank = (i32, u64, u64);

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceState {
    /// Holds no blocks; waits for its first admission or, after a preemption, for the next.
    Waiting,
    /// Holds blocks and is part of the steps.
    Running,
}

/// Prompt and output tokens of one sequence and the part of them that the KV cache holds.
#[derive(Debug)]
pub struct Sequence {
    /// Identity for events and worker state.
    pub id: SequenceId,
    /// Settings, fixed for life.
    pub sampling: SamplingParams,
    /// Prompt, then everything generated.
    pub token_ids: Vec<u32>,
    /// How many of `token_ids` are the prompt.
    pub num_prompt_tokens: usize,
    /// Tokens whose cache entries are written, by steps under way too.
    pub num_computed_tokens: usize,
    /// Prompt tokens found in the prefix cache at first admission (usage's `cached_tokens`).
    pub num_cached_tokens: Option<usize>,
    /// Proposed continuations, verified in the next step.
    pub draft_tokens: Vec<u32>,
    /// Blocks held, in token order.
    pub block_table: BlockTable,
    /// Hashes of the full blocks, as far as computed; grows with the tokens.
    pub block_hashes: Vec<BlockHash>,
    /// Leading blocks that are registered in the prefix cache or came from it.
    pub num_committed_blocks: usize,
    /// Where it stands.
    pub state: SequenceState,
    pub(crate) priority: i32,
    pub(crate) client: u64,
    /// When it is its turn, among the clients.
    pub(crate) turn: u64,
    pub(crate) arrival: u64,
    pub(crate) cache_salt: u64,
    /// Steps under way that it is part of.
    pub(crate) num_steps_under_way: usize,
    /// Tokens that those will append, drafts apart.
    pub(crate) num_awaited_tokens: usize,
}

impl Sequence {
    pub(crate) fn new(request: Request, turn: u64, arrival: u64) -> Self {
        Self {
            id: request.id,
            num_prompt_tokens: request.prompt_token_ids.len(),
            token_ids: request.prompt_token_ids,
            sampling: request.sampling,
            num_computed_tokens: 0,
            num_cached_tokens: None,
            draft_tokens: Vec::new(),
            block_table: Vec::new(),
            block_hashes: Vec::new(),
            num_committed_blocks: 0,
            state: SequenceState::Waiting,
            priority: request.priority,
            client: request.client,
            turn,
            arrival,
            cache_salt: request.cache_salt,
            num_steps_under_way: 0,
            num_awaited_tokens: 0,
        }
    }

    /// Tokens generated so far.
    pub fn num_output_tokens(&self) -> usize {
        self.token_ids.len() - self.num_prompt_tokens
    }

    /// Order of service: priority first, then the clients' turns, then arrival.
    pub(crate) fn rank(&self) -> Rank {
        (self.priority, self.turn, self.arrival)
    }

    /// Its tokens, those included that steps under way will append.
    pub(crate) fn num_tokens(&self) -> usize {
        self.token_ids.len() + self.num_awaited_tokens
    }

    /// Tokens not yet in the cache, drafts included.
    pub(crate) fn num_pending_tokens(&self) -> usize {
        self.num_tokens() + self.draft_tokens.len() - self.num_computed_tokens
    }

    /// Whether only the newest token is missing from the cache.
    pub(crate) fn is_decoding(&self) -> bool {
        self.num_computed_tokens + 1 == self.num_tokens()
    }

    /// Whether its next step can be planned: not when the one under way is known to be its last, or when it is open how
    /// many drafts that one accepts.
    pub(crate) fn can_be_planned(&self, max_model_len: usize) -> bool {
        self.num_awaited_tokens == 0
            || (self.draft_tokens.is_empty()
                && self.num_tokens() - self.num_prompt_tokens < self.sampling.max_tokens as usize
                && self.num_tokens() < max_model_len)
    }

    /// Whether cached blocks may stand in for computation: prompt logprobs need every row.
    pub(crate) fn reads_prefix_cache(&self) -> bool {
        self.sampling.prompt_logprobs.is_none()
    }

    /// Appends one generated token and says whether it ends the sequence.
    pub(crate) fn append(
        &mut self,
        token_id: u32,
        eos_token_ids: &[u32],
        max_model_len: usize,
    ) -> Option<FinishReason> {
        self.token_ids.push(token_id);
        let is_eos = !self.sampling.ignore_eos && eos_token_ids.contains(&token_id);
        if is_eos || self.sampling.stop_token_ids.contains(&token_id) {
            return Some(FinishReason::Stop { token_id });
        }
        let out_of_tokens = self.num_output_tokens() >= self.sampling.max_tokens as usize;
        (out_of_tokens || self.token_ids.len() >= max_model_len).then_some(FinishReason::Length)
    }
}
