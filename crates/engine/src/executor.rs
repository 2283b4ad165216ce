//! What runs a planned step.
//!
//! Three phases, so that whatever the host can do while the device computes (grammar masks, the results of the step
//! before, the next plan) has its place between them.

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

/// Runs steps on a device, in order. Called from the engine thread only.
pub trait Executor: Send {
    /// Whether a step may be launched before the one before it was collected. Then the device itself takes that one's
    /// tokens for input.
    fn overlaps(&self) -> bool {
        false
    }

    /// Starts a step's forward pass. At most one other step is under way, whose sampling was started.
    ///
    /// # Errors
    /// When the step cannot be computed.
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError>;

    /// Starts the choosing of the step's tokens, within the masks. All steps before it were collected.
    ///
    /// # Errors
    /// When the step cannot be computed.
    fn sample(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<(), ExecutorError>;

    /// Waits for the tokens, and makes them part of their sequences.
    ///
    /// # Errors
    /// When the step could not be computed.
    fn collect(&mut self, step: StepHandle) -> Result<ModelRunnerOutput, ExecutorError>;
}
