//! Device-independent entry points: what must hold on every device is checked here, then the device's form is chosen.

mod attention;
mod cache;
mod embed;
mod linear;
mod moe;
mod norm;
mod rotate;
mod route;
mod weight;

pub use attention::{AbsorbedRows, NaiveRows, concat_rows, mla_absorbed, mla_naive};
pub use cache::fp8_entry_bytes;
pub use embed::embed;
pub use linear::{batched_linear, linear, linear_f32};
pub use moe::{GatedWeights, gated_mlp, moe_experts};
pub use norm::{add_rms_norm, first_rms_norm, last_rms_norm, rms_norm};
pub use rotate::{MlaQueries, MlaRotation, RopeLayout, mla_rotate};
pub use route::{GroupScore, RouterConfig, Routing, Scoring, route};
pub use weight::Weight;
