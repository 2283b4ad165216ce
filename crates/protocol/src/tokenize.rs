//! `/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shape.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::ChatMessage;

/// Text or messages to be tokenised: exactly one of `prompt` and `messages`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct TokenizeRequest {
    /// A served model; the only one when absent.
    pub model: Option<String>,
    /// Plain text.
    pub prompt: Option<String>,
    /// A conversation, rendered with the chat template.
    pub messages: Option<Vec<ChatMessage>>,
    /// Put the beginning-of-sequence token in front (default: as for a completion's prompt).
    pub add_special_tokens: Option<bool>,
    /// End with the start of the assistant's turn (default true).
    pub add_generation_prompt: Option<bool>,
    /// Continue the last message instead of answering it.
    pub continue_final_message: Option<bool>,
    /// Tools of a conversation.
    #[schema(value_type = Option<Vec<crate::Tool>>)]
    pub tools: Option<Vec<Value>>,
    /// More variables for the chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Report the tokens' texts too.
    pub return_token_strs: Option<bool>,
}

/// The tokens.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many.
    pub count: u32,
    /// Longest sequence that the model takes.
    pub max_model_len: u32,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, when asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens to be turned into text.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct DetokenizeRequest {
    /// A served model; the only one when absent.
    pub model: Option<String>,
    /// Token ids inside the vocabulary.
    pub tokens: Vec<u32>,
}

/// The text.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text.
    pub prompt: String,
}

/// How text becomes tokens: what the checkpoint's `tokenizer_config.json` says, tokens as their texts.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct TokenizerInfo {
    /// Name of the tokenizer's class in `transformers`.
    pub tokenizer_class: String,
    /// Template that conversations are rendered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// `bos_token`, `eos_token`, `add_bos_token` and whatever else there is.
    #[serde(flatten)]
    pub config: BTreeMap<String, Value>,
}
