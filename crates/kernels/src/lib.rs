//! The operations that the models are made of, each with one meaning and one form per device.
//!
//! `ops` holds the functions that models call: they check shapes and choose the device's form. `host` and `cpu` are the
//! CPU's form, over candle's tensors and plain slices; `cuda` is the GPU's.
//!
//! Every sum runs in an order that depends on the operand's own length alone: never on the
//! other rows of a batch, on the number of threads or on padding. That makes results
//! independent of what else is being served.
//!
//! **Architecture invariant:** this crate knows no models and no requests. Of what ships, `unsafe` lives here, in
//! `moesaic-model`'s weight mapping and in `moesaic-chat`'s system calls around forking, nowhere else.

mod cpu;
pub mod cuda;
mod element;
pub mod host;
pub mod ops;
mod tensor;

pub use cpu::{ComputePool, Limits, PackedMatrix, WeightForm, arithmetic_name, dot, exp, parallel_chunks, sum_exp};
pub use element::Element;
pub use tensor::{Device, Tensor};
