//! Choosing experts for one token.

use crate::ops::{GroupScore, RouterConfig, Scoring};

/// Fills `ids` and `weights` (each `top_k` long) for one row of logits. Ties go to the lower id.
/// `bias` (V3's correction bias) takes part in the choice, never in the weights.
pub(crate) fn route_row(
    logits: &[f32],
    bias: Option<&[f32]>,
    config: &RouterConfig,
    ids: &mut [u32],
    weights: &mut [f32],
) {
    let scores = scores(logits, config.scoring);
    let mut choice: Vec<f32> = match bias {
        Some(bias) => scores.iter().zip(bias).map(|(score, bias)| score + bias).collect(),
        None => scores.clone(),
    };
    if config.top_groups < config.num_groups {
        mask_groups(&mut choice, config);
    }
    let chosen = largest(&choice, config.top_k);
    let mut sum = 0.0;
    for (slot, expert) in chosen.into_iter().enumerate() {
        ids[slot] = expert as u32;
        weights[slot] = scores[expert];
        sum += scores[expert];
    }
    for weight in weights {
        if config.normalise {
            *weight /= sum + 1e-20;
        }
        *weight *= config.scale;
    }
}

fn scores(logits: &[f32], scoring: Scoring) -> Vec<f32> {
    match scoring {
        Scoring::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        Scoring::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
            let sum: f32 = exps.iter().sum();
            exps.into_iter().map(|value| value / sum).collect()
        }
    }
}

/// Takes the experts of all but the best groups out of the choice. With -inf, not 0: a score
/// plus its bias may be negative and would lose against a masked 0.
fn mask_groups(choice: &mut [f32], config: &RouterConfig) {
    let group_size = choice.len() / config.num_groups;
    let group_scores: Vec<f32> = choice
        .chunks_exact(group_size)
        .map(|group| match config.group_score {
            GroupScore::Best => group.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            GroupScore::TopTwo => largest(group, 2).into_iter().map(|expert| group[expert]).sum(),
        })
        .collect();
    let kept = largest(&group_scores, config.top_groups);
    for (group, values) in choice.chunks_exact_mut(group_size).enumerate() {
        if !kept.contains(&group) {
            values.fill(f32::NEG_INFINITY);
        }
    }
}

/// Indices of the `count` largest values, best first, ties by index.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}
