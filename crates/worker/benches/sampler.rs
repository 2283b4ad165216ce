//! `cargo bench -p moesaic-worker --bench sampler`: time to choose one token, over DeepSeek-V3's vocabulary.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::time::Instant;

use moesaic_scheduler::SamplingParams;
use moesaic_worker::{Sampler, SamplingRow, TokenCounts};

const VOCAB: usize = 129_280;
const ROUNDS: usize = 200;

fn main() {
    // Bell-shaped, as logits of trained models are, with a few likely tokens.
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut logits: Vec<f32> = (0..VOCAB).map(|_| (0..12).map(|_| uniform()).sum::<f32>() * 2.0 - 12.0).collect();
    for (index, logit) in logits.iter_mut().step_by(VOCAB / 20).enumerate() {
        *logit += 20.0 - index as f32 / 4.0;
    }
    let counts = TokenCounts::default();
    let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    for (name, sampling) in [
        ("greedy", SamplingParams { temperature: 0.0, ..base.clone() }),
        ("temperature 1", base.clone()),
        ("top_p 0.9", SamplingParams { top_p: 0.9, ..base.clone() }),
        ("top_k 50", SamplingParams { top_k: 50, ..base.clone() }),
        ("top_k 50, top_p 0.9", SamplingParams { top_k: 50, top_p: 0.9, ..base.clone() }),
        ("min_p 0.05", SamplingParams { min_p: 0.05, ..base }),
    ] {
        let mut rows = vec![logits.clone(); ROUNDS];
        let started = Instant::now();
        for (position, logits) in rows.iter_mut().enumerate() {
            let row = SamplingRow {
                sampling: &sampling,
                counts: &counts,
                num_output_tokens: 0,
                position,
                eos_token_ids: &[],
                mask: None,
            };
            std::hint::black_box(Sampler.sample(logits, &row).is_ok());
        }
        println!("{name:<20} {:>8.1} µs", started.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64);
    }
}
