//! How tokens are chosen and become text, as the fields of a request say it.

use std::sync::Arc;

use moesaic_chat::DecodeOptions;
use moesaic_protocol::{SamplingFields, StopSequences};
use moesaic_scheduler::SamplingParams;

use crate::config::Limits;
use crate::error::ApiError;
use crate::state::Serving;
use crate::validate::{MAX_LOGPROBS, at_most, check_token_ids};

/// Most stop strings, and bytes in each.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
/// Most entries of `logit_bias` and `stop_token_ids`.
const MAX_ENTRIES: usize = 1024;

/// What is generated, the same for chat and completions.
#[derive(Debug, Clone)]
pub struct ValidSampling {
    /// For choice 0; `max_tokens` is not yet cut to the context.
    pub params: SamplingParams,
    /// Choices per prompt.
    pub n: u32,
    /// Whether the request gave the seed; otherwise equal prompts get different ones.
    pub is_seeded: bool,
    /// An echoed prompt has log-probabilities in every choice; else the first one's serve all.
    pub needs_prompt_logprobs_per_choice: bool,
    /// The request wants no tokens, only its prompt back (`max_tokens: 0` with `echo`).
    pub drops_output: bool,
    /// How tokens become text.
    pub decode: DecodeOptions,
    /// Lower runs first.
    pub priority: i32,
    /// The client's own separation of cached prompts.
    pub cache_salt: Option<String>,
    /// The only tokens allowed.
    pub allowed_token_ids: Option<Arc<[u32]>>,
    /// Token sequences that must not occur.
    pub bad_words: Arc<[Vec<u32>]>,
    /// Keep only the end of the prompt.
    pub truncate: Option<Truncate>,
}

/// `truncate_prompt_tokens`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncate {
    /// As many as leave room for the answer that was asked for, or for one token.
    ToFit {
        /// Tokens of the answer.
        reserved: usize,
    },
    /// The last this many.
    Last(usize),
}

/// Fields whose meaning differs between endpoints, resolved by the caller.
#[derive(Debug, Clone, Copy)]
pub struct EndpointFields {
    /// Name of the field that `max_tokens` came from.
    pub max_tokens_param: &'static str,
    /// Given by the request.
    pub max_tokens: Option<u32>,
    /// When the request gives none.
    pub default_max_tokens: u32,
    /// Alternatives per generated token, already checked.
    pub logprobs: Option<u32>,
}

/// Checks all common fields.
///
/// # Errors
/// Names the first field that is out of range.
pub fn sampling(
    fields: &SamplingFields,
    endpoint: EndpointFields,
    serving: &Serving,
    limits: &Limits,
) -> Result<ValidSampling, ApiError> {
    let defaults = &serving.defaults;
    let max_tokens = endpoint.max_tokens.unwrap_or(endpoint.default_max_tokens);
    if max_tokens == 0 {
        return Err(ApiError::invalid(endpoint.max_tokens_param, "must be at least 1"));
    }
    let n = fields.n.unwrap_or(1);
    if !(1..=128).contains(&n) || n as usize > limits.max_choices {
        return Err(ApiError::invalid("n", format!("must be from 1 to {}, got {n}", limits.max_choices.min(128))));
    }
    let min_tokens = fields.min_tokens.unwrap_or(0);
    if min_tokens > max_tokens {
        return Err(ApiError::invalid("min_tokens", format!("must not exceed the {max_tokens} tokens of the answer")));
    }
    check_bad_words(fields, serving)?;
    let stop_token_ids = stop_token_ids(fields, serving.vocab_size)?;
    if min_tokens > 0 && stop_token_ids.len() + serving.eos_token_ids.len() >= serving.vocab_size {
        return Err(ApiError::invalid("stop_token_ids", "leaves no token for an answer of min_tokens"));
    }
    let params = SamplingParams {
        temperature: within("temperature", fields.temperature, defaults.temperature, 0.0, 2.0)?,
        top_k: top_k(fields.top_k, defaults.top_k)?,
        top_p: above_zero("top_p", fields.top_p, defaults.top_p, 1.0)?,
        min_p: within("min_p", fields.min_p, 0.0, 0.0, 1.0)?,
        repetition_penalty: within(
            "repetition_penalty",
            fields.repetition_penalty,
            defaults.repetition_penalty,
            0.01,
            2.0,
        )?,
        presence_penalty: within("presence_penalty", fields.presence_penalty, 0.0, -2.0, 2.0)?,
        frequency_penalty: within("frequency_penalty", fields.frequency_penalty, 0.0, -2.0, 2.0)?,
        logit_bias: logit_bias(fields, serving.vocab_size)?,
        seed: fields.seed.map_or_else(random_seed, |seed| seed as u64),
        choice: 0,
        min_tokens,
        max_tokens,
        stop_token_ids,
        ignore_eos: fields.ignore_eos.unwrap_or(false),
        logprobs: endpoint.logprobs,
        prompt_logprobs: at_most("prompt_logprobs", fields.prompt_logprobs, MAX_LOGPROBS)?,
    };
    Ok(ValidSampling {
        decode: DecodeOptions {
            stops: stops(fields.stop.as_ref())?,
            include_stop: fields.include_stop_str_in_output.unwrap_or(false),
            skip_special_tokens: fields.skip_special_tokens.unwrap_or(true),
            min_tokens,
        },
        params,
        n,
        is_seeded: fields.seed.is_some(),
        drops_output: false,
        needs_prompt_logprobs_per_choice: false,
        priority: priority(fields.priority, limits)?,
        cache_salt: cache_salt(fields.cache_salt.as_deref())?,
        allowed_token_ids: allowed_token_ids(fields, serving)?,
        bad_words: Arc::new([]),
        truncate: truncate(fields.truncate_prompt_tokens, endpoint.max_tokens, serving.max_model_len)?,
    })
}

fn within(param: &str, value: Option<f32>, default: f32, low: f32, high: f32) -> Result<f32, ApiError> {
    match value {
        None => Ok(default),
        Some(value) if (low..=high).contains(&value) => Ok(value),
        Some(value) => Err(ApiError::invalid(param, format!("must be from {low} to {high}, got {value}"))),
    }
}

fn above_zero(param: &str, value: Option<f32>, default: f32, high: f32) -> Result<f32, ApiError> {
    match value {
        Some(0.0) => Err(ApiError::invalid(param, format!("must be above 0 and at most {high}, got 0"))),
        value => within(param, value, default, 0.0, high),
    }
}

fn top_k(value: Option<i64>, default: u32) -> Result<u32, ApiError> {
    match value {
        None => Ok(default),
        Some(-1) => Ok(0),
        Some(value) => u32::try_from(value)
            .map_err(|_| ApiError::invalid("top_k", format!("must be -1, 0 or a positive number, got {value}"))),
    }
}

fn logit_bias(fields: &SamplingFields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(map) = &fields.logit_bias else { return Ok(Vec::new()) };
    if map.len() > MAX_ENTRIES {
        return Err(ApiError::invalid(
            "logit_bias",
            format!("has {} entries, at most {MAX_ENTRIES} are taken", map.len()),
        ));
    }
    let entry = |(key, bias): (&String, &f32)| {
        let id =
            key.parse::<u32>().map_err(|_| ApiError::invalid("logit_bias", format!("{key:?} is not a token id")))?;
        check_token_ids("logit_bias", &[id], vocab_size)?;
        if !(-100.0..=100.0).contains(bias) {
            return Err(ApiError::invalid("logit_bias", format!("biases must be from -100 to 100, got {bias}")));
        }
        Ok((id, *bias))
    };
    map.iter().map(entry).collect()
}

fn stop_token_ids(fields: &SamplingFields, vocab_size: usize) -> Result<Vec<u32>, ApiError> {
    let ids = fields.stop_token_ids.clone().unwrap_or_default();
    if ids.len() > MAX_ENTRIES {
        return Err(ApiError::invalid(
            "stop_token_ids",
            format!("has {} ids, at most {MAX_ENTRIES} are taken", ids.len()),
        ));
    }
    check_token_ids("stop_token_ids", &ids, vocab_size)?;
    Ok(ids)
}

/// The end of the sequence is always allowed: without it no answer could end.
fn allowed_token_ids(fields: &SamplingFields, serving: &Serving) -> Result<Option<Arc<[u32]>>, ApiError> {
    let (min_tokens, stop_token_ids) =
        (fields.min_tokens.unwrap_or(0), fields.stop_token_ids.as_deref().unwrap_or_default());
    let Some(ids) = &fields.allowed_token_ids else { return Ok(None) };
    if ids.is_empty() {
        return Err(ApiError::invalid("allowed_token_ids", "must hold at least one token id"));
    }
    check_token_ids("allowed_token_ids", ids, serving.vocab_size)?;
    let ends = |id: &u32| serving.eos_token_ids.contains(id) || stop_token_ids.contains(id);
    if min_tokens > 0 && ids.iter().all(ends) {
        return Err(ApiError::invalid("allowed_token_ids", "leaves no token for an answer of min_tokens"));
    }
    Ok(Some(ids.iter().chain(&serving.eos_token_ids).copied().collect()))
}

fn check_bad_words(fields: &SamplingFields, serving: &Serving) -> Result<(), ApiError> {
    let words = fields.bad_words.as_deref().unwrap_or_default();
    if words.len() > MAX_ENTRIES || words.iter().any(|word| word.is_empty() || word.len() > MAX_STOP_BYTES) {
        let message = format!("takes up to {MAX_ENTRIES} texts of 1 to {MAX_STOP_BYTES} bytes");
        return Err(ApiError::invalid("bad_words", message));
    }
    if !words.is_empty() && serving.tokenizer.is_none() {
        return Err(ApiError::invalid("bad_words", "this model has no tokenizer"));
    }
    Ok(())
}

fn stops(stop: Option<&StopSequences>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(StopSequences::One(stop)) => vec![stop.clone()],
        Some(StopSequences::Many(stops)) => stops.clone(),
    };
    if stops.len() > MAX_STOPS {
        return Err(ApiError::invalid("stop", format!("has {} strings, at most {MAX_STOPS} are taken", stops.len())));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return Err(ApiError::invalid("stop", format!("each string must have 1 to {MAX_STOP_BYTES} bytes")));
    }
    Ok(stops)
}

fn cache_salt(salt: Option<&str>) -> Result<Option<String>, ApiError> {
    let is_valid = |salt: &str| {
        (1..=128).contains(&salt.len())
            && salt.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    match salt {
        Some(salt) if !is_valid(salt) => {
            Err(ApiError::invalid("cache_salt", "must be 1 to 128 characters of A-Z, a-z, 0-9, _ and -"))
        }
        salt => Ok(salt.map(str::to_owned)),
    }
}

fn truncate(value: Option<i64>, max_tokens: Option<u32>, max_model_len: usize) -> Result<Option<Truncate>, ApiError> {
    match value {
        None => Ok(None),
        Some(-1) => Ok(Some(Truncate::ToFit { reserved: max_tokens.unwrap_or(1) as usize })),
        Some(count @ 1..) if (count as u64) < max_model_len as u64 => Ok(Some(Truncate::Last(count as usize))),
        Some(value) => Err(ApiError::invalid(
            "truncate_prompt_tokens",
            format!("must be -1 or from 1 to {}, got {value}", max_model_len - 1),
        )),
    }
}

fn priority(value: Option<i32>, limits: &Limits) -> Result<i32, ApiError> {
    match value {
        Some(value) if value != 0 && !limits.priorities => {
            Err(ApiError::invalid("priority", "is not allowed by this server (scheduling_policy is fcfs)"))
        }
        value => Ok(value.unwrap_or(0)),
    }
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
