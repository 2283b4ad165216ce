//! The operations that the models are made of, each with one meaning and one form per device.
//!
//! `ops` holds the public functions: they check shapes and types and choose the device form.
//! `cpu` holds the CPU form over plain slices; a CUDA form takes its place in `ops` beside it.
//!
//! Every sum runs in an order that depends on the operand's own length alone: never on the
//! other rows of a batch, on the number of threads or on padding. That makes results
//! independent of what else is being served.
//!
//! **Architecture invariant:** this crate knows no models and no requests. `unsafe` lives here
//! and in `moesaic-model`'s weight mapping, nowhere else.

mod cpu;
mod element;
pub mod ops;

pub use cpu::{ComputePool, Limits, PackedMatrix, WeightForm, dot, exp, parallel_chunks, sum_exp};
pub use element::Element;
