//! Why a sequence could not go on.

use serde::{Deserialize, Serialize};

/// Why a sequence could not go on. Its text is for the log, not for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FailureCause {
    /// Constraint, biases and minimum length together forbid every token: the request's own doing.
    #[error("no token is allowed")]
    NothingAllowed,
    /// The model computed NaN or infinity.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// The step that it was part of failed as a whole.
    #[error("{0}")]
    Step(String),
    /// The scheduler did not take it.
    #[error("{0}")]
    Refused(String),
    /// Nothing computes any more.
    #[error("{0}")]
    Stopped(String),
}
