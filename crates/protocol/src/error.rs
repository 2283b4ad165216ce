//! The one shape of every error.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ErrorResponse {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ErrorBody {
    /// For a person.
    pub message: String,
    /// The class of errors, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault, if there is one.
    pub param: Option<String>,
    /// For a program, such as `context_length_exceeded`.
    pub code: Option<String>,
}
