//! `/v1/responses`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{ChatTokenLogprob, FormatFields, SamplingFields, UnsupportedFields};

/// A request for a response.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ResponsesRequest {
    /// A served model; the only one when absent.
    pub model: Option<String>,
    /// What is said: a text, or items of a conversation, oldest first.
    pub input: Option<ResponsesInput>,
    /// Instructions, for this response only.
    pub instructions: Option<String>,
    /// A stored response to go on from.
    pub previous_response_id: Option<String>,
    /// Keep the response for later (default true).
    pub store: Option<bool>,
    /// Answer at once, generate later; needs `store`.
    pub background: Option<bool>,
    /// Most tokens to generate, thoughts included.
    pub max_output_tokens: Option<u32>,
    /// 0 to 20 alternatives per token.
    pub top_logprobs: Option<u32>,
    /// "message.output_text.logprobs" reports log-probabilities; other values add nothing here.
    pub include: Option<Vec<String>>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ResponsesTool>>,
    /// "none", "auto", "required", a named function or a set of allowed tools.
    pub tool_choice: Option<Value>,
    /// Whether an answer may hold more than one call: by default only where no call is required.
    pub parallel_tool_calls: Option<bool>,
    /// What the answer must look like.
    pub text: Option<ResponsesText>,
    /// Whether to think first.
    pub reasoning: Option<ResponsesReasoning>,
    /// Only "disabled".
    pub truncation: Option<String>,
    /// Returned as it came: up to 16 texts of 512 characters, under names of 64.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Returned as it came.
    pub user: Option<String>,
    /// More variables for the chat template.
    pub chat_template_kwargs: Option<serde_json::Map<String, Value>>,
    /// Most tokens of thought; then the model has to answer.
    pub thinking_token_budget: Option<u32>,
    /// Refused: conversations are not kept here.
    pub conversation: Option<Value>,
    /// Refused: prompts are not kept here.
    pub prompt: Option<Value>,
    /// Refused: its name here is `max_output_tokens`.
    pub max_tokens: Option<Value>,
    /// Refused: its name here is `max_output_tokens`.
    pub max_completion_tokens: Option<Value>,
    /// Only `["text"]`.
    pub modalities: Option<Vec<String>>,
    /// How tokens are chosen.
    #[serde(flatten, skip_deserializing)]
    pub sampling: SamplingFields,
    /// What else the answer must look like; `response_format` is refused, its name here is `text.format`.
    #[serde(flatten, skip_deserializing)]
    pub format: FormatFields,
    /// Refused.
    #[serde(flatten, skip_deserializing)]
    pub unsupported: UnsupportedFields,
}

/// A text, or items.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponsesInput {
    /// What the user says.
    Text(String),
    /// Items of a conversation.
    Items(Vec<InputItem>),
}

/// An item: `message` (also when it has no type), `function_call`, `function_call_output`, `reasoning` or
/// `item_reference`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct InputItem {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of a message: user, assistant, system or developer.
    pub role: Option<String>,
    /// Of a message or a thought.
    pub content: Option<ItemText>,
    /// Of a thought.
    pub summary: Option<ItemText>,
    /// Of an item that is referred to.
    pub id: Option<String>,
    /// Of a call and its result.
    pub call_id: Option<String>,
    /// The function called.
    pub name: Option<String>,
    /// Its arguments, as JSON text.
    pub arguments: Option<String>,
    /// The call's result.
    pub output: Option<ItemText>,
}

/// Text, or a list of parts.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ItemText {
    /// Plain text.
    Text(String),
    /// Parts; only text is served.
    Parts(Vec<ItemPart>),
}

/// `input_text`, `output_text`, `reasoning_text`, `summary_text` or `refusal`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ItemPart {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
    /// Of a refusal.
    pub refusal: Option<String>,
}

/// A function.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ResponsesTool {
    /// Always "function".
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Option<Value>,
    /// Refuse the request, rather than relax the schema, when the schema cannot be enforced.
    pub strict: Option<bool>,
}

/// What the answer must look like.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct ResponsesText {
    /// `{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "name": …, "schema": …}`.
    pub format: Option<Value>,
    /// Returned as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

/// Whether to think first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ResponsesReasoning {
    /// none or minimal turn a hybrid model's thinking off; low, medium, high, xhigh and max turn it on.
    pub effort: Option<String>,
    /// Returned as it came: thoughts are reported in full.
    pub summary: Option<String>,
}

/// A response.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponseObject {
    /// Unique id.
    pub id: String,
    /// "response"
    pub object: String,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds; null until it is completed.
    pub completed_at: Option<u64>,
    /// How it stands.
    pub status: ResponseStatus,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As in the request.
    pub instructions: Option<String>,
    /// The model that answered.
    pub model: String,
    /// Thoughts, messages and calls, in order.
    pub output: Vec<OutputItem>,
    /// As in the request.
    pub previous_response_id: Option<String>,
    /// As in the request.
    pub background: bool,
    /// As in the request.
    pub store: bool,
    /// As in the request.
    pub max_output_tokens: Option<u32>,
    /// What was sampled with.
    pub temperature: f32,
    /// What was sampled with.
    pub top_p: f32,
    /// As in the request.
    pub top_logprobs: u32,
    /// As in the request.
    pub tools: Vec<Value>,
    /// As in the request.
    pub tool_choice: Value,
    /// As in the request.
    pub parallel_tool_calls: bool,
    /// As in the request.
    #[schema(value_type = ResponsesText)]
    pub text: Value,
    /// As in the request.
    pub reasoning: ResponsesReasoning,
    /// "disabled"
    pub truncation: String,
    /// As in the request.
    pub metadata: BTreeMap<String, String>,
    /// As in the request.
    pub user: Option<String>,
    /// Token counts; null until it is completed.
    pub usage: Option<ResponseUsage>,
    /// Changes whenever outputs may change.
    pub system_fingerprint: String,
}

/// How a response stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// Being generated.
    #[default]
    InProgress,
    /// Ended by itself.
    Completed,
    /// Ended at a limit.
    Incomplete,
    /// Ended by an error.
    Failed,
    /// Ended by its client.
    Cancelled,
}

/// Why a response failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ResponseError {
    /// "`server_error`" or the code of the error.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// "`max_output_tokens`"
    pub reason: String,
}

/// How an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// Being generated.
    InProgress,
    /// Whole.
    Completed,
    /// Cut off at a limit.
    Incomplete,
}

/// A part of the response.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// A thought.
    Reasoning {
        /// Unique id.
        id: String,
        /// Always empty: the thought itself is reported.
        summary: Vec<Value>,
        /// Its text.
        content: Vec<OutputPart>,
        /// Always null.
        encrypted_content: Option<String>,
        /// How it stands.
        status: ItemStatus,
    },
    /// A message.
    Message {
        /// Unique id.
        id: String,
        /// "assistant"
        role: String,
        /// Its text.
        content: Vec<OutputPart>,
        /// How it stands.
        status: ItemStatus,
    },
    /// A call.
    FunctionCall {
        /// Unique id.
        id: String,
        /// For the result to name.
        call_id: String,
        /// The function.
        name: String,
        /// Its arguments, as JSON text.
        arguments: String,
        /// How it stands.
        status: ItemStatus,
    },
}

/// A part of an item.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputPart {
    /// Of a message.
    OutputText {
        /// The text.
        text: String,
        /// Always empty.
        annotations: Vec<Value>,
        /// Of its tokens, when asked for.
        logprobs: Vec<ChatTokenLogprob>,
    },
    /// Of a thought.
    ReasoningText {
        /// The text.
        text: String,
    },
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// More about them.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens generated.
    pub output_tokens: u32,
    /// More about them.
    pub output_tokens_details: OutputTokensDetails,
    /// Both together.
    pub total_tokens: u32,
}

/// More about the prompt's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct InputTokensDetails {
    /// Not computed again.
    pub cached_tokens: u32,
    /// Always 0: caching costs nothing here.
    pub cache_write_tokens: u32,
}

/// More about the generated tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Of thoughts.
    pub reasoning_tokens: u32,
}

/// What is left of a deleted response.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DeletedResponse {
    /// Its id.
    pub id: String,
    /// "response"
    pub object: String,
    /// true
    pub deleted: bool,
}
