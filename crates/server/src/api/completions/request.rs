//! What a completion request asks for, checked.

use std::sync::Arc;

use moesaic_protocol::{CompletionRequest, Prompt};

use crate::config::Limits;
use crate::error::ApiError;
use crate::generation::tokenise;
use crate::state::{AppState, Serving};
use crate::validate::sampling::{self, EndpointFields, ValidSampling};
use crate::validate::{self, prompt};

/// Most prompts of a request, as OpenAI has it.
const MAX_PROMPTS: usize = 2048;
/// As OpenAI's.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Checks all fields but the prompt and the format.
///
/// # Errors
/// Names the first field that is wrong.
pub fn validate(request: &CompletionRequest, serving: &Serving, limits: &Limits) -> Result<ValidSampling, ApiError> {
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_null()) {
        return Err(ApiError::invalid("suffix", "is not supported"));
    }
    if let Some(field) = request.unsupported.first() {
        return Err(ApiError::invalid(field, "is not supported"));
    }
    let logprobs = validate::num_logprobs("logprobs", request.logprobs)?;
    let endpoint = EndpointFields {
        max_tokens_param: "max_tokens",
        // An echo of the prompt alone still has to be computed, so one token is made and dropped.
        max_tokens: request.max_tokens.map(|max| if request.echo == Some(true) { max.max(1) } else { max }),
        default_max_tokens: DEFAULT_MAX_TOKENS,
        logprobs,
    };
    let mut sampling = sampling::sampling(&request.sampling, endpoint, serving, limits)?;
    if request.best_of.is_some_and(|best_of| best_of == 0 || best_of > sampling.n) {
        return Err(ApiError::invalid("best_of", format!("must be from 1 to n ({}): there is no ranking", sampling.n)));
    }
    if request.echo == Some(true) {
        // An echoed prompt has log-probabilities like the text that follows it.
        sampling.params.prompt_logprobs = sampling.params.prompt_logprobs.max(logprobs);
        sampling.needs_prompt_logprobs_per_choice = logprobs.is_some();
        sampling.drops_output = request.max_tokens == Some(0);
    }
    Ok(sampling)
}

/// How many prompts there are.
///
/// # Errors
/// When there are none or too many.
pub fn num_prompts(prompt: &Prompt) -> Result<usize, ApiError> {
    let num_prompts = match prompt {
        Prompt::Text(_) => 1,
        Prompt::Texts(texts) => texts.len(),
        Prompt::Tokens(tokens) => usize::from(!tokens.is_empty()),
        Prompt::TokenLists(lists) => lists.len(),
    };
    match num_prompts {
        0 => Err(ApiError::invalid("prompt", "must hold at least one prompt")),
        1..=MAX_PROMPTS => Ok(num_prompts),
        _ => Err(ApiError::invalid("prompt", format!("holds {num_prompts} prompts, at most {MAX_PROMPTS} are taken"))),
    }
}

/// A prompt ready to be submitted.
pub struct ReadyPrompt {
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Its text, when it is to be repeated.
    pub echo: Option<String>,
}

/// Tokenises the prompts, cuts them where asked and checks that they fit.
///
/// # Errors
/// When a prompt is empty, too long or no text that the tokenizer takes.
pub async fn prompts(
    state: &AppState,
    serving: &Arc<Serving>,
    prompts: Prompt,
    add_special_tokens: Option<bool>,
    sampling: &ValidSampling,
    echo: bool,
) -> Result<Vec<ReadyPrompt>, ApiError> {
    let limit = sampling.truncate.is_none().then_some(serving.max_model_len);
    let encode = |texts| encode(state, serving, texts, add_special_tokens, limit);
    let encoded = match prompts {
        Prompt::Tokens(tokens) => vec![(tokens, None)],
        Prompt::TokenLists(lists) => lists.into_iter().map(|tokens| (tokens, None)).collect(),
        Prompt::Text(text) => encode(vec![text]).await?,
        Prompt::Texts(texts) => encode(texts).await?,
    };
    let ready = |(mut token_ids, text): (Vec<u32>, Option<String>)| {
        validate::check_token_ids("prompt", &token_ids, serving.vocab_size)?;
        let num_tokens = token_ids.len();
        let max_tokens = prompt::fit_prompt("prompt", &mut token_ids, sampling, serving.max_model_len)?;
        let is_whole = token_ids.len() == num_tokens;
        let decode =
            || serving.tokenizer.as_ref().map_or_else(String::new, |tokenizer| tokenizer.decode(&token_ids, true));
        let echo = echo.then(|| text.filter(|_| is_whole).unwrap_or_else(decode));
        Ok(ReadyPrompt { token_ids, max_tokens, echo })
    };
    encoded.into_iter().map(ready).collect()
}

async fn encode(
    state: &AppState,
    serving: &Arc<Serving>,
    texts: Vec<String>,
    add_special_tokens: Option<bool>,
    max_tokens: Option<usize>,
) -> Result<Vec<(Vec<u32>, Option<String>)>, ApiError> {
    let num_bytes = texts.iter().map(String::len).sum();
    tokenise(state, serving, num_bytes, move |tokenizer| {
        let encode = |text: String| {
            prompt::check_text_length("prompt", text.len(), tokenizer, max_tokens)?;
            let ids = tokenizer.encode_prompt(&text, add_special_tokens);
            ids.map(|ids| (ids, Some(text))).map_err(|error| ApiError::invalid("prompt", error.to_string()))
        };
        texts.into_iter().map(encode).collect()
    })
    .await
}
