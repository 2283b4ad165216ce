//! `/v1/messages`, in Anthropic's shape.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A request for a message.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct MessagesRequest {
    /// A served model; the only one when absent.
    pub model: Option<String>,
    /// The conversation, oldest message first.
    pub messages: Vec<InputMessage>,
    /// Most tokens to generate. Required, except for counting.
    pub max_tokens: Option<u32>,
    /// Instructions.
    pub system: Option<InputContent>,
    /// Strings that end the text.
    pub stop_sequences: Option<Vec<String>>,
    /// 0 to 1.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Only the most likely tokens.
    pub top_k: Option<u32>,
    /// Functions that the model may call.
    pub tools: Option<Vec<InputTool>>,
    /// Which of them.
    pub tool_choice: Option<InputToolChoice>,
    /// Whether to think first.
    pub thinking: Option<InputThinking>,
    /// What the answer must look like.
    pub output_config: Option<OutputConfig>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
}

/// One message of the conversation.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct InputMessage {
    /// Who speaks.
    pub role: InputRole,
    /// What is said.
    pub content: InputContent,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputRole {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// Text, or a list of blocks.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum InputContent {
    /// Plain text.
    Text(String),
    /// Blocks.
    Blocks(Vec<InputBlock>),
}

/// A block: `text`, `thinking`, `tool_use` or `tool_result`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct InputBlock {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a text.
    pub text: Option<String>,
    /// Of a thought.
    pub thinking: Option<String>,
    /// Of a call.
    pub id: Option<String>,
    /// The function called.
    pub name: Option<String>,
    /// Its arguments.
    pub input: Option<Value>,
    /// The call that a result answers.
    pub tool_use_id: Option<String>,
    /// Of a result.
    #[schema(no_recursion)]
    pub content: Option<Box<InputContent>>,
}

/// A function.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct InputTool {
    /// Absent or "custom".
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub input_schema: Option<Value>,
}

/// Which tools may be called.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct InputToolChoice {
    /// "auto", "any", "tool" or "none".
    #[serde(rename = "type")]
    pub kind: String,
    /// The tool, for "tool".
    pub name: Option<String>,
    /// At most one call.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether to think first.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct InputThinking {
    /// "enabled", "adaptive" or "disabled".
    #[serde(rename = "type")]
    pub kind: String,
    /// Most tokens of thought.
    pub budget_tokens: Option<u32>,
}

/// What the answer must look like.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct OutputConfig {
    /// A JSON schema.
    pub format: Option<OutputFormat>,
}

/// A format.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct OutputFormat {
    /// "`json_schema`"
    #[serde(rename = "type")]
    pub kind: String,
    /// The schema.
    pub schema: Value,
}

/// The answer.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct MessageResponse {
    /// Unique id.
    pub id: String,
    /// "message"
    #[serde(rename = "type")]
    pub kind: String,
    /// "assistant"
    pub role: String,
    /// The model that answered.
    pub model: String,
    /// Thoughts, text and calls, in order.
    pub content: Vec<OutputBlock>,
    /// Why it ended; null at the beginning of a stream.
    pub stop_reason: Option<StopReason>,
    /// The stop sequence that ended it, if one did.
    pub stop_sequence: Option<String>,
    /// Token counts.
    pub usage: MessageUsage,
}

/// A part of the answer.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputBlock {
    /// A thought.
    Thinking {
        /// Its text.
        thinking: String,
        /// Always empty: nothing is signed here.
        signature: String,
    },
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A call.
    ToolUse {
        /// For the result to name.
        id: String,
        /// The function.
        name: String,
        /// Its arguments.
        input: Value,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// By itself.
    EndTurn,
    /// At the limit.
    MaxTokens,
    /// At a stop sequence.
    StopSequence,
    /// With a call.
    ToolUse,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MessageUsage {
    /// Tokens of the prompt that had to be computed.
    pub input_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Tokens of the prompt that were cached.
    pub cache_read_input_tokens: u32,
    /// Always 0: caching costs nothing here.
    pub cache_creation_input_tokens: u32,
}

/// Tokens of a prompt.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
pub struct TokenCount {
    /// How many.
    pub input_tokens: u32,
}

/// An error in Anthropic's shape.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct MessagesError {
    /// "error"
    #[serde(rename = "type")]
    pub kind: String,
    /// What is wrong.
    pub error: MessagesErrorBody,
}

/// What is wrong.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct MessagesErrorBody {
    /// Such as "`invalid_request_error`".
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
}
