//! What runs a planned step.
//!
//! Two phases, so that whatever the host can do while the device computes (grammar masks, the
//! next plan) has its place between them.

use moesaic_scheduler::{ModelRunnerOutput, SchedulerOutput, SequenceId};
use thiserror::Error;

use crate::TokenMask;

/// A step under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepHandle(pub u64);

/// The tokens that a constrained sequence may continue with in this step.
#[derive(Debug, Clone)]
pub struct SequenceMask {
    /// Whose.
    pub id: SequenceId,
    /// Which tokens.
    pub mask: TokenMask,
}

/// A step failed as a whole; its sequences cannot go on.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ExecutorError(pub String);

/// Runs steps on a device. Called from the engine thread only.
pub trait Executor: Send {
    /// Starts a step. Only one is under way at a time.
    ///
    /// # Errors
    /// When the step cannot be computed.
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError>;

    /// Waits for the forward pass, applies the masks, samples.
    ///
    /// # Errors
    /// When the step could not be computed.
    fn collect(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<ModelRunnerOutput, ExecutorError>;
}
