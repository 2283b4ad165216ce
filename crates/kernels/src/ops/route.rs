//! Mixture-of-experts routing.

use candle_core::{Result, bail};

use crate::{Tensor, cuda, host};

/// How router logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// DeepSeek-V2.
    Softmax,
    /// DeepSeek-V3.
    Sigmoid,
}

/// How a group of experts is ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// By its best expert (V2, `group_limited_greedy`).
    Best,
    /// By the sum of its two best (V3, `noaux_tc`).
    TopTwo,
}

/// The routing rule of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterConfig {
    /// Experts per token.
    pub top_k: usize,
    /// Groups that the experts are divided into; 1 for no groups.
    pub num_groups: usize,
    /// Groups that may be chosen from.
    pub top_groups: usize,
    /// Logits to scores.
    pub scoring: Scoring,
    /// Ranking of groups.
    pub group_score: GroupScore,
    /// Divide the chosen weights by their sum.
    pub normalise: bool,
    /// Multiplies the weights (`routed_scaling_factor`).
    pub scale: f32,
}

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
    let (_, num_experts) = logits.dims2()?;
    let bias_fits = bias.is_none_or(|bias| bias.dims() == [num_experts]);
    let groups_fit = config.num_groups > 0 && num_experts.is_multiple_of(config.num_groups);
    if !bias_fits || !groups_fit || config.top_k > num_experts {
        bail!("route: {num_experts} experts, bias {:?}, rule {config:?}", bias.map(Tensor::dims));
    }
    match logits {
        Tensor::Host(logits) => {
            let routing = host::route(logits, bias.map(Tensor::host).transpose()?, config)?;
            Ok(Routing { expert_ids: routing.expert_ids.into(), weights: routing.weights.into() })
        }
        Tensor::Device(logits) => {
            let (ids, weights) = cuda::route(logits, bias.map(Tensor::device).transpose()?, config)?;
            Ok(Routing { expert_ids: ids.into(), weights: weights.into() })
        }
    }
}
