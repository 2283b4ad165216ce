//! The routed experts of a layer.

use candle_core::{Result, Tensor, bail};

use super::operand::{Operand, to_f32, with_float};
use super::route::Routing;
use crate::cpu::{self, ExpertWeights};

/// `Σ weight · down(silu(gate x) · up x)` over each token's experts: f32 `(tokens, hidden)`.
///
/// `x`: `(tokens, hidden)`; `gate_up`: `(experts, 2 · inner, hidden)`, gate first; `down`:
/// `(experts, hidden, inner)`.
///
/// # Errors
/// When sizes or types do not fit or an expert id is out of range.
pub fn moe_experts(x: &Tensor, routing: &Routing, gate_up: &Tensor, down: &Tensor) -> Result<Tensor> {
    let (num_tokens, hidden) = x.dims2()?;
    let (num_experts, double_inner, in_width) = gate_up.dims3()?;
    let inner = double_inner / 2;
    let fits = in_width == hidden
        && down.dims() == [num_experts, hidden, inner]
        && down.dtype() == gate_up.dtype()
        && routing.expert_ids.dims() == routing.weights.dims()
        && routing.expert_ids.dims2()?.0 == num_tokens;
    if !fits {
        bail!("moe_experts: x {:?}, gate_up {:?}, down {:?}", x.dims(), gate_up.dims(), down.dims());
    }
    let views = [x, &routing.expert_ids, &routing.weights, gate_up, down].map(Operand::new);
    let expert_ids = views[1].slice::<u32>()?;
    if let Some(id) = expert_ids.iter().find(|&&id| id as usize >= num_experts) {
        bail!("moe_experts: expert {id} of {num_experts}");
    }
    let x_f32 = with_float!(x.dtype(), T => to_f32::<T>(&views[0])?);
    let out = with_float!(gate_up.dtype(), T => {
        let weights = ExpertWeights { gate_up: views[3].slice::<T>()?, down: views[4].slice::<T>()?, hidden, inner };
        cpu::experts(&x_f32, expert_ids, views[2].slice::<f32>()?, &weights)
    });
    Tensor::from_vec(out, (num_tokens, hidden), x.device())
}
