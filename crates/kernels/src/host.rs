//! The CPU forms over candle's tensors: shape checks, then `cpu` over plain slices. [`crate::ops`] chooses between these
//! and the GPU's.

mod add;
mod attention;
mod cache;
mod linear;
mod moe;
mod norm;
mod operand;
mod rope;
mod route;
mod silu;
mod weight;

pub use add::add;
pub use attention::{AbsorbedRows, NaivePart, NaiveRows, merge_attention, mla_absorbed, mla_naive};
pub use cache::{NO_SLOT, gather_cache_rows, lazy_zeros, write_cache_rows};
pub use linear::{batched_linear_f32, linear, linear_f32};
pub use moe::{gated_mlp, moe_experts};
pub use norm::rms_norm;
pub use rope::rope;
pub use route::{Routing, route};
pub(crate) use silu::silu;
pub use silu::silu_mul;
pub use weight::Weight;
