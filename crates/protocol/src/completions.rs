//! `/v1/completions`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{FinishReason, FormatFields, PromptLogprobs, SamplingFields, Usage};

/// A text completion request.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CompletionRequest {
    /// Text, several texts, token ids, or several lists of token ids.
    pub prompt: Prompt,
    /// A served model; the only one when absent.
    pub model: Option<String>,
    /// Most tokens to generate (default 16).
    pub max_tokens: Option<u32>,
    /// Report log-probabilities with 0 to 20 alternatives per token.
    pub logprobs: Option<u32>,
    /// Put the prompt in front of the text.
    pub echo: Option<bool>,
    /// Begin texts with the token that begins a sequence, where the tokenizer has it so (default true).
    pub add_special_tokens: Option<bool>,
    /// At most `n`: there is no ranking.
    pub best_of: Option<u32>,
    /// Refused.
    pub suffix: Option<Value>,
    /// How tokens are chosen.
    #[serde(flatten, skip_deserializing)]
    pub sampling: SamplingFields,
    /// Fields that would change the answer but are not supported: refused rather than ignored.
    #[serde(flatten, skip_deserializing)]
    pub unsupported: crate::UnsupportedFields,
    /// What the text must look like.
    #[serde(flatten, skip_deserializing)]
    pub format: FormatFields,
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One list of token ids.
    Tokens(Vec<u32>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// A completion or, in a stream, a piece of one.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Completion {
    /// Unique id.
    pub id: String,
    /// "text_completion"
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// `n` per prompt, prompt by prompt.
    pub choices: Vec<CompletionChoice>,
    /// Token counts; in a stream only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Changes whenever outputs may change.
    pub system_fingerprint: String,
}

/// One continuation.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Position among the choices.
    pub index: u32,
    /// The text.
    pub text: String,
    /// Present when asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; null in a stream until it does.
    pub finish_reason: Option<FinishReason>,
    /// The stop string or token id that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<Value>,
    /// For `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// For `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// For `prompt_logprobs`: per prompt token a map from token id to its log-probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

/// Log-probabilities, as parallel lists.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// Natural logarithms; null for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens at each place.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token starts in the text, in characters.
    pub text_offset: Vec<u32>,
}
