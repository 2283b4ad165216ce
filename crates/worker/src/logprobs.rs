//! Log-probabilities of a row: of the model's own distribution, before temperature, penalties
//! and masks.

use moesaic_kernels::sum_exp;
use moesaic_scheduler::{TokenLogprob, TokenLogprobs};

/// JSON has no infinity, so nothing is reported as less likely than this.
const FLOOR: f32 = -9999.0;

/// The log-probability of `token_id` and of the `num_top` most likely tokens.
pub fn token_logprobs(logits: &[f32], token_id: u32, num_top: usize) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let below: Vec<f32> = logits.iter().map(|logit| logit - max).collect();
    let log_sum_exp = f64::from(max) + sum_exp(&below).ln();
    let of = |id: u32| finite(id, (f64::from(logits[id as usize]) - log_sum_exp) as f32);
    TokenLogprobs { token: of(token_id), top: most_likely(logits, num_top).into_iter().map(of).collect() }
}

/// A log-probability as it is reported.
pub fn finite(id: u32, logprob: f32) -> TokenLogprob {
    TokenLogprob { id, logprob: if logprob.is_finite() { logprob.max(FLOOR) } else { FLOOR } }
}

/// Ids of the largest logits, best first, ties by id.
fn most_likely(logits: &[f32], count: usize) -> Vec<u32> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.select_nth_unstable_by(count - 1, order);
    ids.truncate(count);
    ids.sort_unstable_by(order);
    ids
}
