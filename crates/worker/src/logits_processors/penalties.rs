//! Repetition, presence and frequency penalties.

use moesaic_scheduler::SamplingParams;

use super::{LogitsProcessor, SamplingRow};

/// Makes tokens that occurred before less (or more) likely.
#[derive(Debug)]
pub struct Penalties;

impl Penalties {
    /// Whether the settings need token counts at all.
    pub fn are_on(sampling: &SamplingParams) -> bool {
        sampling.repetition_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0
    }
}

impl LogitsProcessor for Penalties {
    fn apply(&self, logits: &mut [f32], row: &SamplingRow) {
        let sampling = row.sampling;
        for (&id, &(in_prompt, times)) in &row.counts.occurrences {
            let Some(logit) = logits.get_mut(id as usize) else {
                continue;
            };
            if in_prompt || times > 0 {
                *logit = if *logit > 0.0 {
                    *logit / sampling.repetition_penalty
                } else {
                    *logit * sampling.repetition_penalty
                };
            }
            if times > 0 {
                *logit -= sampling.presence_penalty + sampling.frequency_penalty * times as f32;
            }
        }
    }
}
