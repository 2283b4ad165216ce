//! Mixture-of-experts routing.

use candle_core::{Result, Tensor, bail};

use super::operand::Operand;
use crate::cpu;
use crate::ops::RouterConfig;

/// The experts of each token.
#[derive(Debug, Clone)]
pub struct Routing {
    /// u32 `(tokens, top_k)`, best first.
    pub expert_ids: Tensor,
    /// f32 `(tokens, top_k)`, scaled.
    pub weights: Tensor,
}

/// Chooses experts from router logits, f32 `(tokens, experts)`, and an optional bias, f32 `(experts)`.
///
/// # Errors
/// When the sizes do not fit the rule.
pub fn route(logits: &Tensor, bias: Option<&Tensor>, config: &RouterConfig) -> Result<Routing> {
    let (num_tokens, num_experts) = logits.dims2()?;
    let bias_fits = bias.is_none_or(|bias| bias.dims() == [num_experts]);
    let groups_fit = config.num_groups > 0 && num_experts.is_multiple_of(config.num_groups);
    if !bias_fits || !groups_fit || config.top_k > num_experts {
        bail!("route: {num_experts} experts, bias {:?}, rule {config:?}", bias.map(Tensor::dims));
    }
    let (logits_view, bias_view) = (Operand::new(logits), bias.map(Operand::new));
    let bias = bias_view.as_ref().map(Operand::slice::<f32>).transpose()?;
    let mut ids = vec![0_u32; num_tokens * config.top_k];
    let mut weights = vec![0.0_f32; num_tokens * config.top_k];
    let rows = logits_view.slice::<f32>()?.chunks_exact(num_experts);
    for ((row, ids), weights) in
        rows.zip(ids.chunks_exact_mut(config.top_k)).zip(weights.chunks_exact_mut(config.top_k))
    {
        cpu::route_row(row, bias, config, ids, weights);
    }
    let shape = (num_tokens, config.top_k);
    Ok(Routing {
        expert_ids: Tensor::from_vec(ids, shape, logits.device())?,
        weights: Tensor::from_vec(weights, shape, logits.device())?,
    })
}
