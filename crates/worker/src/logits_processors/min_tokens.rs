//! `min_tokens`.

use super::{LogitsProcessor, SamplingRow};

/// Forbids whatever would end the sequence before it has its least number of tokens.
#[derive(Debug)]
pub struct MinTokens;

impl LogitsProcessor for MinTokens {
    fn apply(&self, logits: &mut [f32], row: &SamplingRow) {
        if row.num_output_tokens >= row.sampling.min_tokens as usize {
            return;
        }
        for id in row.eos_token_ids.iter().chain(&row.sampling.stop_token_ids) {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
