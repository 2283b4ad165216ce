//! Constrained decoding.

use super::{LogitsProcessor, SamplingRow};

/// Forbids what the constraint does not allow.
#[derive(Debug)]
pub struct GrammarMask;

impl LogitsProcessor for GrammarMask {
    fn apply(&self, logits: &mut [f32], row: &SamplingRow) {
        let Some(mask) = row.mask else { return };
        for (id, logit) in logits.iter_mut().enumerate() {
            if !mask.allows(id as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
