//! `/tokenize` and `/detokenize`, in vLLM's shape.

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
