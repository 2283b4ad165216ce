//! The CPU forms, over plain slices. Callers have checked all shapes.

mod arithmetic;
mod attention;
mod exp;
mod experts;
mod gemm;
mod latent_attention;
mod limits;
mod matmul;
mod moe;
mod naive_attention;
mod packed;
mod panel;
mod pool;
mod quantise;
mod quantised_panel;
mod route;
#[cfg(test)]
mod test_numbers;
mod tiled_attention;
mod tiles;

pub(crate) use arithmetic::Arithmetic;
pub use arithmetic::arithmetic_name;
pub(crate) use attention::{AttentionShape, KeyValues, Pages, absorbed_attention, merge_parts, naive_attention};
pub use exp::{exp, sum_exp};
pub(crate) use experts::{Routes, packed_experts};
pub(crate) use gemm::{packed_batched_linear, packed_linear};
pub(crate) use latent_attention::{LatentRows, latent_attention};
pub use limits::Limits;
pub use matmul::dot;
pub(crate) use matmul::{batched_matmul_nt, matmul_nt};
pub(crate) use moe::{ExpertWeights, experts};
pub(crate) use naive_attention::tiled_naive_attention;
pub use packed::{PackedMatrix, WeightForm};
pub use pool::{ComputePool, parallel_chunks};
pub(crate) use route::route_row;
