//! `/v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    FinishReason, FormatFields, FunctionCall, FunctionCallDelta, FunctionSpec, PromptLogprobs, SamplingFields, Tool,
    ToolCall, ToolCallDelta, Usage,
};

/// A chat completion request.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct ChatRequest {
    /// The conversation, oldest message first.
    pub messages: Vec<ChatMessage>,
    /// A served model; the only one when absent.
    pub model: Option<String>,
    /// Most tokens to generate.
    pub max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`.
    pub max_tokens: Option<u32>,
    /// Report log-probabilities of the generated tokens.
    pub logprobs: Option<bool>,
    /// 0 to 20 alternatives per token; needs `logprobs`.
    pub top_logprobs: Option<u32>,
    /// How tokens are chosen.
    #[serde(flatten, skip_deserializing)]
    pub sampling: SamplingFields,
    /// End the prompt with the start of the assistant's turn (default true).
    pub add_generation_prompt: Option<bool>,
    /// Continue the last message instead of answering it.
    pub continue_final_message: Option<bool>,
    /// Put the last message in front of the answer's text.
    pub echo: Option<bool>,
    /// More variables for the chat template.
    pub chat_template_kwargs: Option<serde_json::Map<String, Value>>,
    /// none or minimal turn a hybrid model's thinking off; low, medium, high, xhigh and max turn it on.
    pub reasoning_effort: Option<String>,
    /// The same in DeepSeek's words; where both are given, this one says whether to think.
    pub thinking: Option<ThinkingField>,
    /// Only `["text"]`.
    pub modalities: Option<Vec<String>>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Tool>>)]
    pub tools: Option<Vec<Value>>,
    /// "none", "auto", "required", a named function or a set of allowed tools.
    pub tool_choice: Option<Value>,
    /// Whether an answer may hold more than one call: by default only where no call is required.
    pub parallel_tool_calls: Option<bool>,
    /// The older form of `tools`.
    #[schema(value_type = Option<Vec<FunctionSpec>>)]
    pub functions: Option<Vec<Value>>,
    /// The older form of `tool_choice`.
    pub function_call: Option<Value>,
    /// Most tokens of thought; then the model has to answer.
    pub thinking_token_budget: Option<u32>,
    /// What the answer must look like.
    #[serde(flatten, skip_deserializing)]
    pub format: FormatFields,
    /// Fields that would change the answer but are not supported: refused rather than ignored.
    #[serde(flatten, skip_deserializing)]
    pub unsupported: UnsupportedFields,
}

/// Fields with a meaning that is not served.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct UnsupportedFields {
    /// Refused.
    pub audio: Option<Value>,
    /// Refused.
    pub web_search_options: Option<Value>,
    /// Refused.
    pub chat_template: Option<Value>,
    /// Refused.
    pub logits_processors: Option<Value>,
    /// Refused unless it is false.
    pub use_beam_search: Option<bool>,
}

impl UnsupportedFields {
    /// The name of a field that is present and asks for something.
    pub fn first(&self) -> Option<&'static str> {
        let fields = [
            ("audio", self.audio.is_some()),
            ("web_search_options", self.web_search_options.is_some()),
            ("chat_template", self.chat_template.is_some()),
            ("logits_processors", self.logits_processors.is_some()),
            ("use_beam_search", self.use_beam_search == Some(true)),
        ];
        fields.into_iter().find(|(_, asks)| *asks).map(|(name, _)| name)
    }
}

/// Whether to think, in DeepSeek's words.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ThinkingField {
    /// "enabled" or "disabled".
    #[serde(rename = "type")]
    pub kind: String,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, in newer clients.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
    /// The result of a function call, in older clients.
    Function,
}

/// One message of a conversation.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said; an assistant message with tool calls may have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Name of the speaker or tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that the assistant made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that the assistant made, in older clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
    /// The call that a tool message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same under its newer name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
}

impl ChatMessage {
    /// A message of nothing but `content`.
    pub fn new(role: Role, content: Option<Content>) -> Self {
        Self {
            role,
            content,
            name: None,
            tool_calls: None,
            function_call: None,
            tool_call_id: None,
            reasoning_content: None,
            reasoning: None,
        }
    }
}

/// Text, or a list of parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts; only parts that carry text are served.
    #[schema(value_type = Vec<PartOrText>)]
    Parts(Vec<ContentPart>),
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Content {
    /// Bytes of all its text.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts.iter().filter_map(|part| part.text.as_ref()).map(String::len).sum(),
        }
    }
}

/// A part of a message as requests may write it: an object, or its bare text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PartOrText {
    /// Its bare text.
    Text(String),
    /// With a type.
    Part(ContentPart),
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ContentPart {
    /// "text", "input_text", "output_text", "refusal" or, of an assistant, "thinking".
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The text of a thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
}

impl ContentPart {
    /// Without any text.
    pub fn of_kind(kind: &str) -> Self {
        Self { kind: kind.to_owned(), text: None, refusal: None, thinking: None }
    }
}

/// The answer to a chat request.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Unique id.
    pub id: String,
    /// "chat.completion"
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// One per `n`.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Changes whenever outputs may change.
    pub system_fingerprint: String,
    /// For `prompt_logprobs`: per prompt token a map from token id to its log-probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// For `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// One generated message.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ChatChoice {
    /// 0 to n - 1.
    pub index: u32,
    /// The message.
    pub message: ChatResponseMessage,
    /// Present when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
    /// The stop string or token id that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<Value>,
    /// For `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// The assistant's message.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ChatResponseMessage {
    /// Always assistant.
    pub role: Role,
    /// The text; null where there is none beside thoughts or calls.
    pub content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same under its newer name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Calls that the model makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call, where the request used the older `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// Log-probabilities of generated tokens.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One per token of the content.
    pub content: Option<Vec<ChatTokenLogprob>>,
    /// Always null.
    pub refusal: Option<Vec<ChatTokenLogprob>>,
}

/// A token, how likely it was, and what else was.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its UTF-8 bytes.
    pub bytes: Option<Vec<u8>>,
    /// The most likely tokens, best first.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatTopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its UTF-8 bytes.
    pub bytes: Option<Vec<u8>>,
}

/// One event of a streamed answer.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ChatChunk {
    /// The same in all chunks.
    pub id: String,
    /// "chat.completion.chunk"
    pub object: String,
    /// The same in all chunks.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// Changes whenever outputs may change.
    pub system_fingerprint: String,
    /// What is new; empty in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// In the last chunk, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// In the first chunk, for `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// What is new in one choice.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ChatChunkChoice {
    /// 0 to n - 1.
    pub index: u32,
    /// The new part.
    pub delta: ChatDelta,
    /// Of the tokens in this chunk, when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the choice's last chunk.
    pub finish_reason: Option<FinishReason>,
    /// The stop string or token id that ended it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<Value>,
    /// For `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// A new part of the message.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct ChatDelta {
    /// In a choice's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// New text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of the thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same under its newer name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// More of calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
    /// More of the call, where the request used the older `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCallDelta>,
}
