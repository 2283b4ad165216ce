//! The OpenAI wire format: requests, responses, stream chunks and errors, as data.
//!
//! `null` means absent for every optional field; unknown fields are ignored, as OpenAI's own
//! clients expect of a server. Doc comments become descriptions in the OpenAPI document.
//!
//! **Architecture invariant:** data only. This crate knows no tokens, no engine and no HTTP.

pub mod anthropic;
mod chat;
mod common;
mod completions;
mod error;
mod from_json;
mod json_error;
mod json_reader;
mod models;
pub mod responses;
mod shapes;
mod tokenize;
mod tools;

pub use anthropic::MessagesRequest;
pub use chat::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage, ChatRequest,
    ChatResponseMessage, ChatTokenLogprob, ChatTopLogprob, Content, ContentPart, PartOrText, Role, ThinkingField,
    UnsupportedFields,
};
pub use common::{
    CompletionTokensDetails, FinishReason, PromptLogprob, PromptLogprobs, PromptTokensDetails, SamplingFields,
    StopSequences, StreamOptions, Usage,
};
pub use completions::{Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt};
pub use error::{ErrorBody, ErrorResponse};
pub use from_json::{FieldError, FromJson, from_value, json_from_text};
pub use models::{EmbeddingsRequest, Model, ModelList};
pub use responses::ResponsesRequest;
pub use tokenize::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse, TokenizerInfo};
pub use tools::{
    FormatFields, FunctionCall, FunctionCallDelta, FunctionSpec, StructuredOutputs, Tool, ToolCall, ToolCallDelta,
};

// What is read by hand.
use anthropic::InputContent;
use responses::{ItemText, ResponsesInput};
