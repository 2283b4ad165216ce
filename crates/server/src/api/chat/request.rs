//! What a chat request asks for, checked.

use moesaic_protocol::{ChatRequest, Content, ThinkingField};

use crate::config::Limits;
use crate::error::ApiError;
use crate::state::Serving;
use crate::validate;
use crate::validate::sampling::{self, EndpointFields, ValidSampling};

/// Checks all fields but those of tools and formats.
///
/// # Errors
/// Names the first field that is wrong.
pub fn validate(request: &ChatRequest, serving: &Serving, limits: &Limits) -> Result<ValidSampling, ApiError> {
    if request.messages.is_empty() {
        return Err(ApiError::invalid("messages", "must hold at least one message"));
    }
    if let Some(field) = request.unsupported.first() {
        return Err(ApiError::invalid(field, "is not supported"));
    }
    if request.modalities.as_ref().is_some_and(|modalities| modalities.iter().any(|modality| modality != "text")) {
        return Err(ApiError::invalid("modalities", "only [\"text\"] is supported"));
    }
    let continues = request.continue_final_message.unwrap_or(false);
    if continues && request.add_generation_prompt == Some(true) {
        return Err(ApiError::invalid("continue_final_message", "cannot be combined with add_generation_prompt"));
    }
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    let longest = serving.max_model_len as u32;
    let usual = serving.defaults.max_new_tokens.unwrap_or(longest).min(longest);
    let endpoint = EndpointFields {
        max_tokens_param: if request.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" },
        max_tokens,
        default_max_tokens: usual.max(request.sampling.min_tokens.unwrap_or(0).min(longest)),
        logprobs: num_logprobs(request)?,
    };
    sampling::sampling(&request.sampling, endpoint, serving, limits)
}

/// Whether a hybrid model is to think, if the request says so.
///
/// # Errors
/// When a value is unknown or the two fields contradict each other.
pub fn thinking(request: &ChatRequest) -> Result<Option<bool>, ApiError> {
    let by_effort = match request.reasoning_effort.as_deref() {
        None => None,
        Some("none" | "minimal") => Some(false),
        Some("low" | "medium" | "high" | "xhigh" | "max") => Some(true),
        Some(_) => {
            let message = "must be \"none\", \"minimal\", \"low\", \"medium\", \"high\", \"xhigh\" or \"max\"";
            return Err(ApiError::invalid("reasoning_effort", message));
        }
    };
    let Some(ThinkingField { kind }) = &request.thinking else { return Ok(by_effort) };
    match (kind.as_str(), by_effort) {
        ("enabled", Some(false)) => {
            Err(ApiError::invalid("thinking", "cannot be enabled with a reasoning_effort that turns it off"))
        }
        ("enabled", _) => Ok(Some(true)),
        ("disabled", _) => Ok(Some(false)),
        _ => Err(ApiError::invalid("thinking.type", "must be \"enabled\" or \"disabled\"")),
    }
}

fn num_logprobs(request: &ChatRequest) -> Result<Option<u32>, ApiError> {
    let wanted = request.logprobs.unwrap_or(false);
    if request.top_logprobs.is_some() && !wanted {
        return Err(ApiError::invalid("top_logprobs", "needs logprobs: true"));
    }
    let top = validate::num_logprobs("top_logprobs", request.top_logprobs)?;
    Ok(wanted.then(|| top.unwrap_or(0)))
}

/// The text that `echo` puts in front of the answer.
pub fn echoed_text(request: &ChatRequest) -> Option<String> {
    let last = request.messages.last().filter(|_| request.echo == Some(true))?;
    match last.content.as_ref()? {
        Content::Text(text) => Some(text.clone()),
        Content::Parts(parts) => Some(parts.iter().filter_map(|part| part.text.clone()).collect()),
    }
}
