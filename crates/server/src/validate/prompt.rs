//! What a prompt may be: how much of it is kept, that it fits, and what is reported of it.

use moesaic_chat::Tokenizer;

use crate::error::{ApiError, Excess};
use crate::validate::sampling::{Truncate, ValidSampling};

/// Most log-probabilities reported for one prompt: about 100 MB of JSON.
const MAX_PROMPT_LOGPROBS: usize = 1 << 21;

/// Cuts the prompt where asked, checks that it fits and leaves room, and gives the number of
/// tokens that the answer may have.
///
/// # Errors
/// When the prompt is empty or too long.
pub fn fit_prompt(
    param: &str,
    prompt: &mut Vec<u32>,
    sampling: &ValidSampling,
    max_model_len: usize,
) -> Result<u32, ApiError> {
    let keep = match sampling.truncate {
        None => prompt.len(),
        Some(Truncate::Last(count)) => count,
        Some(Truncate::ToFit { reserved }) => max_model_len - reserved.clamp(1, max_model_len - 1),
    };
    prompt.drain(..prompt.len().saturating_sub(keep));
    if prompt.is_empty() {
        return Err(ApiError::invalid(param, "the prompt has no tokens"));
    }
    if prompt.len() >= max_model_len {
        let (num_tokens, max_tokens) = (prompt.len(), sampling.params.max_tokens as usize);
        return Err(ApiError::context_length(param, Excess { num_tokens, max_tokens, max_model_len }));
    }
    Ok(sampling.params.max_tokens.min((max_model_len - prompt.len()) as u32))
}

/// Refuses prompts whose reported log-probabilities would fill memory. `copies`: how often each
/// prompt's are reported.
///
/// # Errors
/// Names the field of the prompt.
pub fn check_prompt_logprobs(
    param: &str,
    num_prompt_tokens: usize,
    copies: usize,
    sampling: &ValidSampling,
) -> Result<(), ApiError> {
    let Some(num_top) = sampling.params.prompt_logprobs else { return Ok(()) };
    let entries = num_prompt_tokens * (num_top as usize + 1) * copies;
    if entries <= MAX_PROMPT_LOGPROBS {
        return Ok(());
    }
    let message =
        format!("its log-probabilities would be {entries} values, at most {MAX_PROMPT_LOGPROBS} are reported");
    Err(ApiError::invalid(param, message))
}

/// Refuses a text that cannot fit whatever its tokens are, before the work of tokenising it.
///
/// # Errors
/// When even the longest tokens would be too many.
pub fn check_text_length(
    param: &str,
    num_bytes: usize,
    tokenizer: &Tokenizer,
    max_tokens: Option<usize>,
) -> Result<(), ApiError> {
    match (tokenizer.least_tokens(num_bytes), max_tokens) {
        (num_tokens, Some(max_model_len)) if num_tokens > max_model_len => {
            Err(ApiError::context_length(param, Excess { num_tokens, max_tokens: 1, max_model_len }))
        }
        _ => Ok(()),
    }
}
