//! Feed-forward layers: of experts, and the ones that every token passes.

use candle_core::{Result, bail};

use super::{Routing, Weight};
use crate::{Tensor, cuda, host};

/// Weights of a gated feed-forward layer, or of many.
#[derive(Debug, Clone, Copy)]
pub struct GatedWeights<'a> {
    /// Gated, `(groups, 2 · inner, hidden)`.
    pub gate_up: &'a Weight,
    /// `(groups, hidden, inner)`.
    pub down: &'a Weight,
}

/// `Σ weight · down(silu(gate x) · up x)` over each token's experts, plus what the shared expert gives: f32
/// `(tokens, hidden)`, or `(tokens, parts, hidden)` still to be summed, by [`super::add_rms_norm`].
///
/// `x`: `(tokens, hidden)`.
///
/// # Errors
/// When sizes or types do not fit.
pub fn moe_experts(
    x: &Tensor,
    routing: &Routing,
    experts: GatedWeights,
    shared: Option<GatedWeights>,
) -> Result<Tensor> {
    let (num_tokens, hidden) = x.dims2()?;
    let (num_experts, double_inner, in_width) = experts.gate_up.dims();
    let (routed_tokens, _) = routing.expert_ids.dims2()?;
    let fits = in_width == hidden
        && experts.down.dims() == (num_experts, hidden, double_inner / 2)
        && routing.expert_ids.dims() == routing.weights.dims()
        && routed_tokens == num_tokens;
    if !fits {
        bail!("moe_experts: x {:?}, gate_up {:?}, down {:?}", x.dims(), experts.gate_up.dims(), experts.down.dims());
    }
    if let Some(shared) = &shared {
        check_one(hidden, shared)?;
    }
    match x {
        Tensor::Host(rows) => {
            let routing = host::Routing {
                expert_ids: routing.expert_ids.host()?.clone(),
                weights: routing.weights.host()?.clone(),
            };
            let routed = host::moe_experts(rows, &routing, experts.gate_up.host()?, experts.down.host()?)?;
            match shared {
                Some(shared) => Ok(host::add(&routed, gated_mlp(x, shared)?.host()?)?.into()),
                None => Ok(routed.into()),
            }
        }
        Tensor::Device(rows) => {
            let (ids, weights) = (routing.expert_ids.device()?, routing.weights.device()?);
            let shared =
                shared.map(|shared| Ok::<_, candle_core::Error>((shared.gate_up.device()?, shared.down.device()?)));
            let (gate_up, down) = (experts.gate_up.device()?, experts.down.device()?);
            Ok(cuda::experts(rows, ids, weights, gate_up, down, shared.transpose()?)?.into())
        }
    }
}

/// `down(silu(gate x) · up x)`: f32 `(tokens, hidden)`.
///
/// # Errors
/// When sizes or types do not fit.
pub fn gated_mlp(x: &Tensor, weights: GatedWeights) -> Result<Tensor> {
    check_one(x.dims2()?.1, &weights)?;
    match x {
        Tensor::Host(x) => Ok(host::gated_mlp(x, weights.gate_up.host()?, weights.down.host()?)?.into()),
        Tensor::Device(x) => Ok(cuda::gated(x, weights.gate_up.device()?, weights.down.device()?)?.into()),
    }
}

fn check_one(hidden: usize, weights: &GatedWeights) -> Result<()> {
    let ((double_inner, in_width), down) = (weights.gate_up.matrix()?, weights.down.matrix()?);
    if in_width != hidden || down != (hidden, double_inner / 2) {
        bail!("gated_mlp: {hidden} wide, gate_up ({double_inner}, {in_width}), down {down:?}");
    }
    Ok(())
}
