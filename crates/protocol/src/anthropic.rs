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
    /// The older name of `output_config.format`.
    pub output_format: Option<OutputFormat>,
    /// Refused: asks for a summary of the conversation in the place of an answer. Counting passes it over.
    pub compaction: Option<Value>,
    /// A conversation that is kept by the server.
    pub thread: Option<MessageThread>,
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
    /// Instructions in the midst of a conversation.
    System,
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

/// A block: `text`, `thinking`, `tool_use`, `tool_result`, `document`, `search_result` or `tool_reference`. Blocks of tools
/// that a server ran are passed over but for their text.
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
    /// Of a result or a search result: text, or a list of blocks. Tools of servers have shapes of their own.
    pub content: Option<Value>,
    /// Of a document: an object of type "text" or "content". Of a search result: where it was found.
    pub source: Option<Value>,
    /// Of a document or a search result.
    pub title: Option<String>,
    /// What else is known of a document.
    pub context: Option<String>,
    /// The tool that a reference names.
    pub tool_name: Option<String>,
}

/// A function, or a tool of Anthropic's.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct InputTool {
    /// Absent or "custom" for a function. Of Anthropic's tools bash, text editor and memory are offered to the model as the
    /// functions that they are, the others are passed over.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name; only a set of tools may have none.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub input_schema: Option<Value>,
    /// Refuse the request, rather than relax the schema, when the schema cannot be enforced.
    pub strict: Option<bool>,
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
    /// "enabled", "adaptive", "between_tools" or "disabled"; the last two turn a hybrid model's thinking off.
    #[serde(rename = "type")]
    pub kind: String,
    /// Most tokens of thought.
    pub budget_tokens: Option<u32>,
    /// "omitted" keeps the thoughts' text from the answer, everything else shows it.
    pub display: Option<String>,
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

/// A conversation that is kept by the server.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct MessageThread {
    /// "create"; "continue" is refused, since nothing is kept here.
    #[serde(rename = "type")]
    pub kind: String,
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
        /// Always the same word, since nothing is signed here; empty at the beginning of a stream.
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
    /// At the end of the model's context, before `max_tokens`.
    ModelContextWindowExceeded,
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

/// Served models, a page of them.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ModelPage {
    /// The models.
    pub data: Vec<ModelInfo>,
    /// Whether there are more in the direction of paging.
    pub has_more: bool,
    /// The first on this page.
    pub first_id: Option<String>,
    /// The last on this page.
    pub last_id: Option<String>,
}

/// A served model.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ModelInfo {
    /// "model"
    #[serde(rename = "type")]
    pub kind: String,
    /// What requests call it.
    pub id: String,
    /// The same.
    pub display_name: String,
    /// When it was loaded, as RFC 3339 has it.
    pub created_at: String,
    /// "active"
    pub lifecycle: String,
    /// Longest prompt in tokens.
    pub max_input_tokens: u32,
    /// Longest answer in tokens.
    pub max_tokens: u32,
}
