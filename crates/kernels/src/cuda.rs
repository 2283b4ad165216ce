//! The CUDA forms: our own kernels (`crates/kernels/cuda`), launched through the driver, which is looked for when a
//! GPU is opened: a program with these forms starts on machines without one.
//!
//! Callers have checked all shapes; here sizes become launches. Nothing in a step waits for the device.

mod arena;
mod attention;
mod event;
mod gemm;
mod gpu;
mod graph;
mod images;
mod moe;
mod naive;
mod pinned;
mod rows;
mod sample;
mod staging;
mod tensor;
mod upload;

pub(crate) use attention::{AbsorbedForm, attend};
pub use event::Event;
pub use gemm::DeviceMatrix;
pub(crate) use gemm::{absorb, batched_linear, linear};
pub use gpu::{Gpu, GpuInfo, SharedMemory};
pub use graph::Graph;
pub(crate) use moe::{experts, gate_logits, gated, route};
pub(crate) use naive::{NaiveForm, NaiveState, gather, naive};
pub(crate) use rows::{Rotation, add_rms_norm, embed, rms_norm, rotate};
pub use sample::{Adjustment, ChosenTokens, DeviceSampler, MAX_TOP, NO_TOKEN, SampleBatch, SampleResult, SampleRow};
pub use staging::{Download, Staging};
pub use tensor::DeviceTensor;
pub use upload::Uploader;
