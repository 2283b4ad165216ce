//! The CPU forms, over plain slices. Callers have checked all shapes.

mod attention;
mod matmul;
mod moe;
mod route;

pub(crate) use attention::{AttentionShape, KeyValues, Pages, absorbed_attention, merge_parts, naive_attention};
pub use matmul::dot;
pub(crate) use matmul::{batched_matmul_nt, matmul_nt};
pub(crate) use moe::{ExpertWeights, experts};
pub(crate) use route::route_row;
