//! Gated feed-forward layers: of routed experts, or one that every token passes.

use candle_core::{Result, Tensor, bail};

use super::operand::{Operand, to_bf16, to_f32, with_float};
use super::route::Routing;
use super::{Weight, silu_mul};
use crate::cpu::{self, ExpertWeights, Routes};

/// `Σ weight · down(silu(gate x) · up x)` over each token's experts: f32 `(tokens, hidden)`.
///
/// `x`: `(tokens, hidden)`; `gate_up`: gated, `(experts, 2 · inner, hidden)`; `down`: `(experts, hidden, inner)`.
///
/// # Errors
/// When sizes or types do not fit or an expert id is out of range.
pub fn moe_experts(x: &Tensor, routing: &Routing, gate_up: &Weight, down: &Weight) -> Result<Tensor> {
    let (num_tokens, hidden) = x.dims2()?;
    let (num_experts, double_inner, in_width) = gate_up.dims()?;
    let inner = double_inner / 2;
    let (routed_tokens, top_k) = routing.expert_ids.dims2()?;
    let fits = in_width == hidden
        && down.dims()? == (num_experts, hidden, inner)
        && routing.expert_ids.dims() == routing.weights.dims()
        && routed_tokens == num_tokens;
    if !fits {
        bail!("moe_experts: x {:?}, gate_up {:?}, down {:?}", x.dims(), gate_up.dims()?, down.dims()?);
    }
    let views = [x, &routing.expert_ids, &routing.weights].map(Operand::new);
    let (expert_ids, weights) = (views[1].slice::<u32>()?, views[2].slice::<f32>()?);
    if let Some(id) = expert_ids.iter().find(|&&id| id as usize >= num_experts) {
        bail!("moe_experts: expert {id} of {num_experts}");
    }
    let out = match (gate_up, down) {
        (Weight::Packed(gate_up), Weight::Packed(down)) if gate_up.is_gated() => {
            let routes = Routes { expert_ids, weights, top_k };
            cpu::packed_experts(&to_bf16(x.dtype(), &views[0])?, &routes, gate_up, down)
        }
        (Weight::Plain(gate_up), Weight::Plain(down)) => {
            let x_f32 = with_float!(x.dtype(), T => to_f32::<T>(&views[0])?);
            let (gate_up, down) = (Operand::new(gate_up), Operand::new(down));
            let gate_up = gate_up.slice::<f32>()?;
            let experts = ExpertWeights { gate_up, down: down.slice::<f32>()?, hidden, inner };
            cpu::experts(&x_f32, expert_ids, weights, &experts)
        }
        _ => bail!("moe_experts: gate_up and down are of different kinds"),
    };
    Tensor::from_vec(out, (num_tokens, hidden), x.device())
}

/// `down(silu(gate x) · up x)`: f32 `(tokens, hidden)`. `gate_up`: gated, `(2 · inner, hidden)`; `down`: `(hidden, inner)`.
///
/// # Errors
/// When sizes or types do not fit.
pub fn gated_mlp(x: &Tensor, gate_up: &Weight, down: &Weight) -> Result<Tensor> {
    let (num_tokens, hidden) = x.dims2()?;
    let ((double_inner, in_width), down_dims) = (gate_up.matrix()?, down.matrix()?);
    if in_width != hidden || down_dims != (hidden, double_inner / 2) {
        bail!("gated_mlp: x {:?}, gate_up ({double_inner}, {in_width}), down {down_dims:?}", x.dims());
    }
    let (Weight::Packed(gate_up), Weight::Packed(down)) = (gate_up, down) else {
        return super::linear_f32(&silu_mul(&super::linear(x, gate_up)?)?, down);
    };
    // One expert that everybody goes to.
    let (expert_ids, weights) = (vec![0; num_tokens], vec![1.0; num_tokens]);
    let routes = Routes { expert_ids: &expert_ids, weights: &weights, top_k: 1 };
    let out = cpu::packed_experts(&to_bf16(x.dtype(), &Operand::new(x))?, &routes, gate_up, down);
    Tensor::from_vec(out, (num_tokens, hidden), x.device())
}
