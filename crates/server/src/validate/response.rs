//! How an answer is reported: nothing of it concerns what is generated.

use moesaic_protocol::SamplingFields;

use crate::error::ApiError;
use crate::request_id;

/// How an answer is reported.
#[derive(Debug, Clone)]
pub struct ResponseSettings {
    /// The client's own id for the response.
    pub request_id: Option<String>,
    /// Report the prompt's log-probabilities, with this many alternatives.
    pub prompt_logprobs: Option<u32>,
    /// Report ids.
    pub return_token_ids: bool,
    /// Answer with events.
    pub stream: bool,
    /// Send a last event with the counts.
    pub include_usage: bool,
    /// Send counts with every event.
    pub continuous_usage: bool,
}

/// Checks the fields that say how the answer is reported.
///
/// # Errors
/// Names the first field that is wrong.
pub fn response(fields: &SamplingFields) -> Result<ResponseSettings, ApiError> {
    let stream = fields.stream.unwrap_or(false);
    if fields.stream_options.is_some() && !stream {
        return Err(ApiError::invalid("stream_options", "is only allowed with stream: true"));
    }
    if fields.prompt_logprobs.is_some() && stream {
        return Err(ApiError::invalid("prompt_logprobs", "is not available in a stream"));
    }
    let stream_options = fields.stream_options.clone().unwrap_or_default();
    Ok(ResponseSettings {
        request_id: valid_request_id(fields.request_id.as_deref())?,
        prompt_logprobs: fields.prompt_logprobs,
        return_token_ids: fields.return_token_ids.unwrap_or(false),
        stream,
        include_usage: stream_options.include_usage.unwrap_or(false),
        continuous_usage: stream_options.continuous_usage_stats.unwrap_or(false),
    })
}

fn valid_request_id(id: Option<&str>) -> Result<Option<String>, ApiError> {
    match id {
        Some(id) if !request_id::is_valid(id) => {
            Err(ApiError::invalid("request_id", "must be 1 to 128 characters of A-Z, a-z, 0-9, -, _, . and :"))
        }
        id => Ok(id.map(str::to_owned)),
    }
}
