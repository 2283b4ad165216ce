//! What several endpoints share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Fields that say how tokens are chosen, the same for chat and completions.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct SamplingFields {
    /// Number of choices to generate.
    pub n: Option<u32>,
    /// 0 (greedy) to 2.
    pub temperature: Option<f32>,
    /// Above 0, up to 1: sample from the smallest set of tokens with this much probability.
    pub top_p: Option<f32>,
    /// Sample from the k most likely tokens; 0 or -1 for all.
    pub top_k: Option<i64>,
    /// 0 to 1: drop tokens less likely than this share of the most likely one.
    pub min_p: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// 0.01 to 2; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Token id to bias, -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Same seed and same `system_fingerprint`: same output.
    pub seed: Option<i64>,
    /// Up to 16 strings that end the output; they are not part of it.
    pub stop: Option<StopSequences>,
    /// Token ids that end the output.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Keep the stop string in the output.
    pub include_stop_str_in_output: Option<bool>,
    /// Least number of tokens to generate.
    pub min_tokens: Option<u32>,
    /// Go on past the end-of-sequence token.
    pub ignore_eos: Option<bool>,
    /// Leave special tokens out of the text (default true).
    pub skip_special_tokens: Option<bool>,
    /// Report log-probabilities of the prompt's tokens, with this many alternatives.
    pub prompt_logprobs: Option<u32>,
    /// Keep only the last k prompt tokens; -1 for as many as fit.
    pub truncate_prompt_tokens: Option<i64>,
    /// Lower runs first.
    pub priority: Option<i32>,
    /// The id of the response.
    pub request_id: Option<String>,
    /// Requests with different salts never share cached prompts: up to 128 of `[A-Za-z0-9_-]`.
    pub cache_salt: Option<String>,
    /// Texts that must not occur in the output.
    pub bad_words: Option<Vec<String>>,
    /// The only tokens that may be generated, beside the end of the sequence.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Report token ids.
    pub return_token_ids: Option<bool>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
}

/// Per prompt token a map from token id to what is known of it; null for the first token.
pub type PromptLogprobs = Vec<Option<BTreeMap<String, PromptLogprob>>>;

/// How likely a token of the prompt was.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct PromptLogprob {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// 1 for the most likely token; null where it was not among those asked for.
    pub rank: Option<u32>,
    /// Its text.
    pub decoded_token: String,
}

/// One stop string or several.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StopSequences {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// What a stream contains besides the text.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct StreamOptions {
    /// Send a last chunk with the token counts.
    pub include_usage: Option<bool>,
    /// Send the counts so far with every chunk.
    pub continuous_usage_stats: Option<bool>,
}

/// Token counts of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, chat template included.
    pub prompt_tokens: u32,
    /// Tokens generated, over all choices.
    pub completion_tokens: u32,
    /// Both together.
    pub total_tokens: u32,
    /// More about the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
    /// More about the output.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// More about the prompt's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens that did not have to be computed again.
    pub cached_tokens: u32,
}

/// More about the generated tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Tokens of the reasoning part.
    pub reasoning_tokens: u32,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string or token was reached.
    Stop,
    /// The token limit or the context length was reached.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// The model calls a function, where the request used the older `functions`.
    FunctionCall,
}
