//! From request fields to typed settings. Nothing unvalidated reaches the engine.

pub mod prompt;
pub mod response;
pub mod sampling;

use crate::error::ApiError;

/// Most alternatives per token.
pub const MAX_LOGPROBS: u32 = 20;

/// Refuses ids that the model has no embedding for.
///
/// # Errors
/// Names the first.
pub fn check_token_ids(param: &str, ids: &[u32], vocab_size: usize) -> Result<(), ApiError> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(ApiError::invalid(param, format!("token id {id} is outside the vocabulary of {vocab_size}"))),
        None => Ok(()),
    }
}

/// Checks a number that is optional and has an upper limit.
///
/// # Errors
/// When it is above `high`.
pub fn at_most(param: &str, value: Option<u32>, high: u32) -> Result<Option<u32>, ApiError> {
    match value {
        Some(value) if value > high => Err(ApiError::invalid(param, format!("must be from 0 to {high}, got {value}"))),
        value => Ok(value),
    }
}

/// Checks the number of alternatives per generated token.
///
/// # Errors
/// When it is more than 20.
pub fn num_logprobs(param: &str, value: Option<u32>) -> Result<Option<u32>, ApiError> {
    at_most(param, value, MAX_LOGPROBS)
}
