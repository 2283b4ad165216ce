//! The engine thread: takes requests, runs steps, sends out tokens.
//!
//! One thread owns the scheduler and the executor. Everybody else holds an [`EngineHandle`] and
//! talks through channels: no lock is shared, nothing outside can stall a step.
//!
//! **Architecture invariant:** this crate knows no tensors, no text and no HTTP.

mod constraint;
mod engine;
mod executor;
mod handle;
mod mask_worker;
mod outputs;
mod places;
mod stats;
mod stream;

pub use constraint::{TokenConstraint, TokenMask};
pub use engine::{Engine, EngineConfig};
pub use executor::{Executor, ExecutorError, SequenceMask, StepHandle};
pub use handle::{EngineChoice, EngineHandle, EngineRequest, SubmitError};
pub use places::Admission;
pub use stats::{EngineStats, StepStats};
pub use stream::{EngineOutput, RequestStream, StreamEnd};
