//! The OpenAI wire format: requests, responses, stream chunks and errors, as data.
//!
//! `null` means absent for every optional field; unknown fields are ignored, as OpenAI's own
//! clients expect of a server. Doc comments become descriptions in the OpenAPI document.
//!
//! **Architecture invariant:** data only. This crate knows no tokens, no engine and no HTTP.

mod chat;
mod common;
mod completions;
mod error;
mod from_json;
mod json_error;
mod json_reader;
mod messages;
mod models;
mod responses;
mod shapes;
mod tokenize;
mod tools;

pub use chat::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage, ChatRequest,
    ChatResponseMessage, ChatTokenLogprob, ChatTopLogprob, Content, ContentPart, PartOrText, Role, UnsupportedFields,
};
pub use common::{
    CompletionTokensDetails, FinishReason, PromptLogprob, PromptLogprobs, PromptTokensDetails, SamplingFields,
    StopSequences, StreamOptions, Usage,
};
pub use completions::{Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt};
pub use error::{ErrorBody, ErrorResponse};
pub use from_json::{FieldError, FromJson, from_value, json_from_text};
pub use messages::{
    InputBlock, InputContent, InputMessage, InputRole, InputThinking, InputTool, InputToolChoice, MessageResponse,
    MessageUsage, MessagesError, MessagesErrorBody, MessagesRequest, OutputBlock, OutputConfig, OutputFormat,
    StopReason, TokenCount,
};
pub use models::{EmbeddingsRequest, Model, ModelList};
pub use responses::{
    DeletedResponse, IncompleteDetails, InputItem, InputTokensDetails, ItemPart, ItemStatus, ItemText, OutputItem,
    OutputPart, OutputTokensDetails, ResponseError, ResponseObject, ResponseStatus, ResponseUsage, ResponsesInput,
    ResponsesReasoning, ResponsesRequest, ResponsesText, ResponsesTool,
};
pub use tokenize::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
pub use tools::{
    FormatFields, FunctionCall, FunctionCallDelta, FunctionSpec, StructuredOutputs, Tool, ToolCall, ToolCallDelta,
};
