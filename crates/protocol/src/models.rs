//! `/v1/models`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The served models.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ModelList {
    /// "list"
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

/// A served model.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Model {
    /// What requests call it.
    pub id: String,
    /// "model"
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// "moesaic"
    pub owned_by: String,
    /// The checkpoint behind the name.
    pub root: String,
    /// Longest sequence, prompt and output together, in tokens.
    pub max_model_len: u32,
    /// How it writes thoughts and tool calls.
    pub dialect: String,
}

/// A request for embeddings.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// A served model; the only one when absent.
    pub model: Option<String>,
    /// A text, several, or token ids.
    pub input: Option<Value>,
}
