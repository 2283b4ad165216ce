//! `/v1/responses`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{FormatFields, SamplingFields, UnsupportedFields};

mod event;
mod object;

pub use event::ClientEvent;
pub use object::*;

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
    /// "message.output_text.logprobs" reports log-probabilities, "reasoning.encrypted_content" gives thoughts in a form that
    /// the client can send back but not read or change; other values add nothing here.
    pub include: Option<Vec<String>>,
    /// Tools that the model may call.
    pub tools: Option<Vec<ResponsesTool>>,
    /// "none", "auto", "required", a named function or a set of allowed tools.
    pub tool_choice: Option<Value>,
    /// Whether an answer may hold more than one call: by default only where no call is required.
    pub parallel_tool_calls: Option<bool>,
    /// What the answer must look like.
    pub text: Option<ResponsesText>,
    /// Whether to think first.
    pub reasoning: Option<ResponsesReasoning>,
    /// "disabled", or "auto" to leave out the oldest turns of a conversation that is too long.
    pub truncation: Option<String>,
    /// Returned as it came: up to 16 texts of 512 characters, under names of 64.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Returned as it came.
    pub user: Option<String>,
    /// Returned as it came: it bounds calls of hosted tools, of which there are none.
    pub max_tool_calls: Option<u32>,
    /// Returned as it came.
    pub safety_identifier: Option<String>,
    /// Returned as it came: equal beginnings of prompts are found without it.
    pub prompt_cache_key: Option<String>,
    /// Has no meaning here: all requests are served alike.
    pub service_tier: Option<String>,
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

impl ResponsesRequest {
    /// Whether something is to be included.
    pub fn includes(&self, what: &str) -> bool {
        self.include.iter().flatten().any(|included| included == what)
    }
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

/// An item: `message` (also when it has no type), `function_call`, `custom_tool_call`, `local_shell_call`, `shell_call`,
/// `apply_patch_call` and the outputs of these, `reasoning`, `compaction` or `item_reference`. Items of hosted tools, and
/// what other servers encrypted, are passed over.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
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
    /// Of a thought or a compaction, as this server gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_content: Option<String>,
    /// Of an item that is referred to.
    pub id: Option<String>,
    /// Of a call and its result.
    pub call_id: Option<String>,
    /// The tool called.
    pub name: Option<String>,
    /// The namespace of the tool called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A function's arguments, as JSON text.
    pub arguments: Option<String>,
    /// A custom tool's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// What a shell was called for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Value>,
    /// What a patch was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Value>,
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

/// `input_text`, `output_text`, `reasoning_text`, `summary_text` or `refusal`; without a type, what a shell printed.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ItemPart {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The text.
    pub text: Option<String>,
    /// Of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// What a shell printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// What a shell printed as errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

/// A tool: "function", "custom" with a text for its input, or a "namespace" of such tools. Hosted tools are passed over,
/// or refused where the operator wants it.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ResponsesTool {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of a function's arguments.
    pub parameters: Option<Value>,
    /// Refuse the request, rather than relax the schema, when the schema cannot be enforced.
    pub strict: Option<bool>,
    /// Of a custom tool's input: `{"type": "text"}`, or `{"type": "grammar", "syntax": "lark" | "regex", "definition": …}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Value>,
    /// Of a namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub tools: Option<Vec<ResponsesTool>>,
}

impl ResponsesTool {
    /// As a response tells of it: a function with all its fields, another tool with those that it has.
    pub fn shown(&self) -> Value {
        let mut shown = json!(self);
        if let Some(fields) = shown.as_object_mut().filter(|_| self.kind != "function") {
            fields.retain(|_, value| !value.is_null());
        }
        shown
    }
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
