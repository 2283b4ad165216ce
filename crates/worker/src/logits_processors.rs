//! What changes logits before a token is chosen. One file each.

mod bias;
mod mask;
mod min_tokens;
mod penalties;

use std::collections::HashMap;

use moesaic_engine::TokenMask;
use moesaic_scheduler::SamplingParams;

pub use bias::LogitBias;
pub use mask::GrammarMask;
pub use min_tokens::MinTokens;
pub use penalties::Penalties;

/// Where a row stands.
#[derive(Debug)]
pub struct SamplingRow<'a> {
    /// Settings of its sequence.
    pub sampling: &'a SamplingParams,
    /// Occurrences of tokens so far; empty unless a penalty needs them.
    pub counts: &'a TokenCounts,
    /// Tokens generated so far.
    pub num_output_tokens: usize,
    /// All tokens so far: the index of the one to be sampled.
    pub position: usize,
    /// The model's own end-of-sequence ids.
    pub eos_token_ids: &'a [u32],
    /// Allowed tokens, when the sequence is constrained.
    pub mask: Option<&'a TokenMask>,
}

/// Changes the logits of one row in place.
pub trait LogitsProcessor {
    /// Does nothing when the row's settings do not ask for it.
    fn apply(&self, logits: &mut [f32], row: &SamplingRow);
}

/// How often tokens occur, kept up to date as a sequence grows.
#[derive(Debug, Default)]
pub struct TokenCounts {
    /// Token id to (stands in the prompt, times generated).
    pub occurrences: HashMap<u32, (bool, u32)>,
}

impl TokenCounts {
    /// Counts tokens of the prompt or of the output.
    pub fn add(&mut self, token_ids: &[u32], in_prompt: bool) {
        for id in token_ids {
            let entry = self.occurrences.entry(*id).or_default();
            if in_prompt {
                entry.0 = true;
            } else {
                entry.1 += 1;
            }
        }
    }
}
