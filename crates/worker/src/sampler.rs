//! Choosing a token from a row of logits.

use std::cmp::Ordering;

use moesaic_kernels::{exp, sum_exp};
use moesaic_scheduler::{FailureCause, SamplingParams};
use thiserror::Error;

use crate::logits_processors::{GrammarMask, LogitBias, LogitsProcessor, MinTokens, Penalties, SamplingRow};
use crate::random::{MAX_GUMBEL, PositionRandom};

/// A row from which no token can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SampleError {
    /// The model computed NaN or infinity.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// Constraint, biases and minimum length together forbid every token.
    #[error("no token is allowed")]
    NothingAllowed,
}

impl From<SampleError> for FailureCause {
    fn from(error: SampleError) -> Self {
        match error {
            SampleError::NotFinite => Self::NotFinite,
            SampleError::NothingAllowed => Self::NothingAllowed,
        }
    }
}

/// A token that may be chosen and its logit divided by the temperature.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Most likely first, ties by id: a total order, so that cuts are exact.
    fn order(a: &Self, b: &Self) -> Ordering {
        b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
    }
}

/// Applies the processors and draws.
#[derive(Debug, Default)]
pub struct Sampler;

impl Sampler {
    /// Chooses the next token; `logits` are changed in place.
    ///
    /// # Errors
    /// When no token can be chosen.
    pub fn sample(&self, logits: &mut [f32], row: &SamplingRow) -> Result<u32, SampleError> {
        // -inf is a legitimate "never"; NaN and +inf are a broken model.
        if !all_below_infinity(logits) {
            return Err(SampleError::NotFinite);
        }
        let processors: [&dyn LogitsProcessor; 4] = [&LogitBias, &Penalties, &MinTokens, &GrammarMask];
        for processor in processors {
            processor.apply(logits, row);
        }
        let best = argmax(logits).ok_or(SampleError::NothingAllowed)?;
        // Penalties and biases are bounded at the edge; this holds even if they were not.
        if !all_below_infinity(logits) {
            return Err(SampleError::NotFinite);
        }
        let sampling = row.sampling;
        if sampling.temperature == 0.0 {
            return Ok(best);
        }
        let candidates = candidates(logits, best, sampling);
        let random = PositionRandom::new(sampling.seed, sampling.choice, row.position);
        Ok(draw(&candidates, best, random))
    }
}

/// Whether none is NaN or +inf. Looks at all of them, which is faster than to stop at the first.
fn all_below_infinity(logits: &[f32]) -> bool {
    logits.iter().map(|logit| u32::from(*logit < f32::INFINITY)).sum::<u32>() as usize == logits.len()
}

/// The most likely allowed token; the lowest id among equals.
fn argmax(logits: &[f32]) -> Option<u32> {
    let largest = largest(logits);
    let best = logits.iter().position(|logit| *logit == largest)?;
    (largest > f32::NEG_INFINITY).then_some(best as u32)
}

/// The largest number, -inf where there is none.
fn largest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for logits in logits.chunks(lanes.len()) {
        for (lane, logit) in lanes.iter_mut().zip(logits) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Logits whose largest stands for them.
const CHUNK: usize = 64;

/// Not above the `top_k`th largest logit, and for a small `top_k` not far below: as many chunks have a largest above it.
fn top_k_floor(logits: &[f32], top_k: usize) -> f32 {
    if top_k == 0 || top_k > logits.len() / CHUNK {
        return f32::NEG_INFINITY;
    }
    let mut largest: Vec<f32> = logits.chunks(CHUNK).map(largest).collect();
    *largest.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a)).1
}

/// What min_p, top_k and top_p leave, in that order.
fn candidates(logits: &[f32], best: u32, sampling: &SamplingParams) -> Vec<Candidate> {
    let best_logit = logits[best as usize];
    // Relative to the best, which becomes 0: no overflow however small the temperature.
    let scaled = |logit: f32| (logit - best_logit) / sampling.temperature;
    let floor = if sampling.min_p > 0.0 { sampling.min_p.ln() } else { f32::MIN };
    let top_k = sampling.top_k as usize;
    let least = top_k_floor(logits, top_k);
    let mut candidates: Vec<Candidate> = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit >= least)
        .map(|(id, &logit)| Candidate { id: id as u32, logit: scaled(logit) })
        .filter(|candidate| candidate.logit >= floor)
        .collect();
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, Candidate::order);
        candidates.truncate(top_k);
    }
    if sampling.top_p < 1.0 {
        keep_top_p(&mut candidates, f64::from(sampling.top_p));
    }
    candidates
}

/// Keeps the fewest most likely candidates whose probability reaches `top_p`. Sorts only as many
/// as it turns out to need.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    // Summed in order of ids: the order after a selection is an accident.
    candidates.sort_unstable_by_key(|candidate| candidate.id);
    let logits: Vec<f32> = candidates.iter().map(|candidate| candidate.logit).collect();
    let wanted = top_p * sum_exp(&logits);
    let (mut num_sorted, mut mass) = (0, 0.0);
    let mut size = 64;
    while num_sorted < candidates.len() {
        let rest = &mut candidates[num_sorted..];
        let part = size.min(rest.len());
        if part < rest.len() {
            rest.select_nth_unstable_by(part - 1, Candidate::order);
        }
        rest[..part].sort_unstable_by(Candidate::order);
        for index in num_sorted..num_sorted + part {
            mass += f64::from(exp(candidates[index].logit));
            if mass >= wanted {
                candidates.truncate(index + 1);
                return;
            }
        }
        num_sorted += part;
        size *= 8;
    }
}

/// Gumbel-max: an exact sample of the softmax over the candidates, of which `first` is the most likely. Bounds spare
/// nearly all of them the logarithms.
fn draw(candidates: &[Candidate], first: u32, random: PositionRandom) -> u32 {
    let mut best = (first, random.gumbel(first).value());
    for candidate in candidates {
        let logit = f64::from(candidate.logit);
        if logit + MAX_GUMBEL < best.1 {
            continue;
        }
        let gumbel = random.gumbel(candidate.id);
        if logit + gumbel.bound() < best.1 {
            continue;
        }
        let score = logit + gumbel.value();
        // Ties by id, so that the order of the candidates cannot matter.
        if score > best.1 || (score == best.1 && candidate.id < best.0) {
            best = (candidate.id, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use moesaic_engine::TokenMask;

    use super::*;
    use crate::TokenCounts;

    fn sample(logits: &[f32], sampling: &SamplingParams, position: usize) -> Result<u32, SampleError> {
        constrained(logits, sampling, position, None, &TokenCounts::default())
    }

    fn constrained(
        logits: &[f32],
        sampling: &SamplingParams,
        position: usize,
        mask: Option<&TokenMask>,
        counts: &TokenCounts,
    ) -> Result<u32, SampleError> {
        let row = SamplingRow { sampling, counts, num_output_tokens: 0, position, eos_token_ids: &[0], mask };
        Sampler.sample(&mut logits.to_vec(), &row)
    }

    fn settings(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
        let mut sampling = SamplingParams::default();
        change(&mut sampling);
        sampling
    }

    /// Shares of each token over many positions.
    fn shares(logits: &[f32], sampling: &SamplingParams) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for position in 0..20_000 {
            counts[sample(logits, sampling, position).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_best_and_the_lowest_id_among_equals() {
        let greedy = settings(|s| s.temperature = 0.0);
        assert_eq!(sample(&[0.0, 3.0, 3.0, 1.0], &greedy, 0), Ok(1));
    }

    #[test]
    fn samples_follow_the_softmax_at_any_temperature() {
        let logits = [1.0, 0.0, -1.0, f32::NEG_INFINITY];
        for temperature in [0.5_f32, 1.0, 2.0] {
            let exps: Vec<f64> = logits.iter().map(|l| f64::from(l / temperature).exp()).collect();
            let total: f64 = exps.iter().sum();
            for (share, exp) in shares(&logits, &settings(|s| s.temperature = temperature)).iter().zip(exps) {
                assert!((share - exp / total).abs() < 0.015, "{share} {}", exp / total);
            }
        }
    }

    #[test]
    fn cuts_leave_what_they_say() {
        let logits: Vec<f32> = [0.4_f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
        let check = |change: fn(&mut SamplingParams), kept: &[usize]| {
            for (id, share) in shares(&logits, &settings(change)).iter().enumerate() {
                assert_eq!(*share > 0.0, kept.contains(&id), "token {id} has {share}");
            }
        };
        check(|s| s.top_k = 1, &[0]);
        check(|s| s.top_k = 3, &[0, 1, 2]);
        check(|s| s.top_p = 0.05, &[0]);
        check(|s| s.top_p = 0.69, &[0, 1]);
        check(|s| s.top_p = 0.71, &[0, 1, 2]);
        check(|s| s.min_p = 0.45, &[0, 1, 2]);
        check(|s| (s.top_k, s.top_p) = (2, 0.5), &[0]);
        check(|s| s.temperature = 1e-6, &[0]);
    }

    #[test]
    fn top_p_over_a_large_vocabulary_equals_a_full_sort() {
        let logits: Vec<f32> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 12) as f32 / 3e5).collect();
        let sampling = settings(|s| s.top_p = 0.9);
        let kept = candidates(&logits, argmax(&logits).unwrap(), &sampling);
        let mut all: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
        let total: f64 = all.iter().sum();
        all.sort_by(|a, b| b.total_cmp(a));
        let mut mass = 0.0;
        let expected = all
            .iter()
            .take_while(|p| {
                let before = mass;
                mass += **p / total;
                before < 0.9
            })
            .count();
        assert_eq!(kept.len(), expected);
    }

    #[test]
    fn top_k_over_a_large_vocabulary_equals_a_full_sort() {
        let logits: Vec<f32> = (0..5003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 64.0).collect();
        let mut ids: Vec<u32> = (0..5003).collect();
        ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        for top_k in [1, 2, 50, 78, 79, 1000, 5003] {
            let sampling = settings(|s| s.top_k = top_k as u32);
            let kept = candidates(&logits, argmax(&logits).unwrap(), &sampling);
            let mut kept: Vec<u32> = kept.iter().map(|candidate| candidate.id).collect();
            kept.sort_unstable();
            let mut expected = ids[..top_k].to_vec();
            expected.sort_unstable();
            assert_eq!(kept, expected, "top_k {top_k}");
        }
    }

    /// What is passed over could not have won.
    #[test]
    fn bounds_change_no_draw() {
        let logits: Vec<f32> = (0..3000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 12) as f32 / 1e5).collect();
        let sampling = settings(|s| s.temperature = 2.0);
        let candidates = candidates(&logits, argmax(&logits).unwrap(), &sampling);
        for position in 0..300 {
            let random = PositionRandom::new(1, 0, position);
            let score = |candidate: &Candidate| f64::from(candidate.logit) + random.gumbel(candidate.id).value();
            let best = candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap().id;
            assert_eq!(draw(&candidates, argmax(&logits).unwrap(), random), best);
        }
    }

    #[test]
    fn processors_change_the_choice() {
        let logits = [2.0, 1.5, 1.0];
        let greedy = |change: fn(&mut SamplingParams)| {
            settings(|s| {
                s.temperature = 0.0;
                change(s);
            })
        };
        assert_eq!(sample(&logits, &greedy(|s| s.logit_bias = vec![(2, 5.0)]), 0), Ok(2));
        assert_eq!(sample(&logits, &greedy(|s| s.min_tokens = 1), 0), Ok(1), "id 0 is the end of sequence");
        assert_eq!(sample(&logits, &greedy(|s| (s.min_tokens, s.stop_token_ids) = (1, vec![1])), 0), Ok(2));
        let mut counts = TokenCounts::default();
        counts.add(&[0], true);
        counts.add(&[1, 1], false);
        let with_counts = |sampling| constrained(&logits, &sampling, 0, None, &counts);
        assert_eq!(with_counts(greedy(|s| s.repetition_penalty = 4.0)), Ok(2));
        assert_eq!(with_counts(greedy(|s| s.presence_penalty = 2.0)), Ok(0), "the prompt does not count");
        assert_eq!(with_counts(greedy(|s| (s.frequency_penalty, s.logit_bias) = (0.5, vec![(0, -1.0)]))), Ok(0));
        let mut mask = TokenMask::none(3);
        assert_eq!(constrained(&logits, &greedy(|_| ()), 0, Some(&mask), &counts), Err(SampleError::NothingAllowed));
        mask.allow(2);
        assert_eq!(constrained(&logits, &greedy(|_| ()), 0, Some(&mask), &counts), Ok(2));
    }

    #[test]
    fn absurd_settings_are_an_error_not_a_panic() {
        let mut counts = TokenCounts::default();
        counts.add(&[0], true);
        let absurd = settings(|s| s.repetition_penalty = 1e-40);
        assert_eq!(constrained(&[2.0, 1.0], &absurd, 0, None, &counts), Err(SampleError::NotFinite));
    }

    #[test]
    fn broken_logits_are_an_error() {
        assert_eq!(sample(&[0.0, f32::NAN], &SamplingParams::default(), 0), Err(SampleError::NotFinite));
    }
}
