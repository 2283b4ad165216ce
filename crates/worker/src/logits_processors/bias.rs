//! `logit_bias`.

use super::{LogitsProcessor, SamplingRow};

/// Adds the request's biases.
#[derive(Debug)]
pub struct LogitBias;

impl LogitsProcessor for LogitBias {
    fn apply(&self, logits: &mut [f32], row: &SamplingRow) {
        for &(id, bias) in &row.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }
}
