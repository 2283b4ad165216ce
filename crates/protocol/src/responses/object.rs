//! What `/v1/responses` answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{ResponsesReasoning, ResponsesText};
use crate::ChatTokenLogprob;

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
    /// Tools that could be called: as in the request, without what was passed over.
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
    /// As in the request.
    pub truncation: String,
    /// How many of the oldest turns `truncation` left out, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_turns: Option<usize>,
    /// What was sampled with.
    pub presence_penalty: f32,
    /// What was sampled with.
    pub frequency_penalty: f32,
    /// As in the request.
    pub max_tool_calls: Option<u32>,
    /// "default"
    pub service_tier: String,
    /// As in the request.
    pub safety_identifier: Option<String>,
    /// As in the request.
    pub prompt_cache_key: Option<String>,
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
        /// The same to be sent back, if the request includes "reasoning.encrypted_content".
        #[serde(skip_serializing_if = "Option::is_none")]
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
        /// Its namespace, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Its arguments, as JSON text.
        arguments: String,
        /// How it stands.
        status: ItemStatus,
    },
    /// A call of a custom tool.
    CustomToolCall {
        /// Unique id.
        id: String,
        /// For the result to name.
        call_id: String,
        /// The tool.
        name: String,
        /// Its namespace, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Its input.
        input: String,
        /// How it stands.
        status: ItemStatus,
    },
}

impl OutputItem {
    /// Its id.
    pub fn id(&self) -> &str {
        let (Self::Reasoning { id, .. }
        | Self::Message { id, .. }
        | Self::FunctionCall { id, .. }
        | Self::CustomToolCall { id, .. }) = self;
        id
    }
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

/// A conversation, compacted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct CompactedResponse {
    /// Its id.
    pub id: String,
    /// "response.compaction"
    pub object: String,
    /// Unix time.
    pub created_at: u64,
    /// What to send in the conversation's place.
    pub output: Vec<CompactionItem>,
    /// Of making it.
    pub usage: ResponseUsage,
}

/// What stands for a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct CompactionItem {
    /// "compaction"
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id.
    pub id: String,
    /// A summary, for the server alone to read.
    pub encrypted_content: String,
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

/// What `/v1/responses/input_tokens` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputTokens {
    /// "response.input\_tokens"
    pub object: String,
    /// Tokens of the prompt that a response to this input would have.
    pub input_tokens: usize,
}

/// The items that a response was the answer to.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct InputItemList {
    /// "list"
    pub object: String,
    /// The items, as they were sent.
    pub data: Vec<Value>,
    /// Id of the first.
    pub first_id: Option<String>,
    /// Id of the last.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}
