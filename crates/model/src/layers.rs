//! Building blocks that the architectures share.

mod linear;
mod mla;
mod mlp;
mod moe;
mod norm;
mod rotary;

pub use linear::Linear;
pub use mla::{Mla, MlaConfig};
pub use mlp::Mlp;
pub use moe::{Moe, MoeConfig};
pub use norm::RmsNorm;
pub use rotary::{RopeScaling, Rotary};
