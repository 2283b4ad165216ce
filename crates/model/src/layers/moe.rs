//! Mixture of experts: routed experts plus the shared ones.

use candle_core::{DType, Result};
use moesaic_kernels::Tensor;
use moesaic_kernels::ops::{self, GatedWeights, RouterConfig, Routing, Weight};

use super::{Linear, Mlp};
use crate::{ModelError, Role, Weights};

/// Sizes and rule of a layer.
#[derive(Debug, Clone)]
pub struct MoeConfig {
    /// Routed experts.
    pub num_experts: usize,
    /// Inner width of each.
    pub inner: usize,
    /// Experts that every token passes; they form one layer of this many inner widths.
    pub num_shared: usize,
    /// The routing rule.
    pub router: RouterConfig,
    /// Whether the router has V3's correction bias.
    pub has_bias: bool,
}

/// Router, experts and shared expert of a layer.
#[derive(Debug)]
pub struct Moe {
    gate: Linear,
    bias: Option<Tensor>,
    gate_up: Weight, // (experts, 2 · inner, hidden)
    down: Weight,    // (experts, hidden, inner)
    shared: Option<Mlp>,
    router: RouterConfig,
}

impl Moe {
    /// Reads `{name}.{gate,experts.N,shared_experts}`.
    pub fn load(
        weights: &Weights,
        name: &str,
        hidden: usize,
        config: &MoeConfig,
    ) -> std::result::Result<Self, ModelError> {
        // First, because its shape proves the number of experts before names are made for them.
        let gate = Linear::load_f32(weights, &format!("{name}.gate"), config.num_experts, hidden)?;
        let names = |parts: &[&str]| -> Vec<Vec<String>> {
            let of_expert =
                |index| parts.iter().map(move |part| format!("{name}.experts.{index}.{part}_proj.weight")).collect();
            (0..config.num_experts).map(of_expert).collect()
        };
        let bias = config.has_bias.then(|| {
            weights.tensor_as(&format!("{name}.gate.e_score_correction_bias"), &[config.num_experts], DType::F32)
        });
        let shared = (config.num_shared > 0)
            .then(|| Mlp::load(weights, &format!("{name}.shared_experts"), hidden, config.num_shared * config.inner));
        Ok(Self {
            gate,
            bias: bias.transpose()?,
            gate_up: weights.matrices(&names(&["gate", "up"]), [config.inner, hidden], Role::GateUp)?,
            down: weights.matrices(&names(&["down"]), [hidden, config.inner], Role::Down)?,
            shared: shared.transpose()?,
            router: config.router.clone(),
        })
    }

    /// `(rows, hidden) → (rows, hidden)`, f32, or in parts to be summed, as the next norm takes them.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let routing = self.route(x)?;
        let experts = GatedWeights { gate_up: &self.gate_up, down: &self.down };
        ops::moe_experts(x, &routing, experts, self.shared.as_ref().map(Mlp::weights))
    }

    fn route(&self, x: &Tensor) -> Result<Routing> {
        ops::route(&self.gate.forward_f32(x)?, self.bias.as_ref(), &self.router)
    }
}
