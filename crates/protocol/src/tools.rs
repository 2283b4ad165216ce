//! Tools, calls of them, and the shape that an answer must have.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::shapes::null_is_default;

/// A tool that the model may call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Tool {
    /// Always "function".
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: FunctionSpec,
}

/// A function as it is described to the model.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct FunctionSpec {
    /// 1 to 128 of letters, digits, `_` and `-`.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// JSON schema of its arguments; an object.
    #[serde(default)]
    pub parameters: Option<Value>,
    /// Refuse the request, rather than relax the schema, when the schema cannot be enforced.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// Chosen by the server that made the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Always "function".
    #[serde(rename = "type", default = "function_type", deserialize_with = "type_or_null")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

fn function_type() -> String {
    "function".to_owned()
}

fn type_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(function_type))
}

impl ToolCall {
    /// A call of a function; `arguments` is JSON text.
    pub fn function(id: Option<String>, name: String, arguments: String) -> Self {
        Self { id, kind: function_type(), function: FunctionCall { name, arguments } }
    }
}

/// Name and arguments of a call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// A JSON object, as text.
    #[serde(default, deserialize_with = "null_is_default")]
    pub arguments: String,
}

/// A new part of a call, in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call of the message.
    pub index: u32,
    /// In the call's first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// "function", in the call's first part.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is new.
    pub function: FunctionCallDelta,
}

/// A new part of a call's name or arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCallDelta {
    /// The function, in the call's first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments' text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// Fields that say what an answer must look like, the same for chat and completions. At most one may be given.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct FormatFields {
    /// `{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {"name", "schema"}}`.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<Value>,
    /// One of `json`, `regex`, `choice`, `grammar`, `json_object`.
    pub structured_outputs: Option<StructuredOutputs>,
    /// A JSON schema, as an object or as text.
    pub guided_json: Option<Value>,
    /// A regular expression that the whole answer matches.
    pub guided_regex: Option<String>,
    /// Texts of which the answer is one.
    pub guided_choice: Option<Vec<String>>,
    /// A grammar in llguidance's dialect of Lark.
    pub guided_grammar: Option<String>,
}

/// What an answer must look like, in vLLM's shape.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct StructuredOutputs {
    /// A JSON schema, as an object or as text.
    pub json: Option<Value>,
    /// A regular expression that the whole answer matches.
    pub regex: Option<String>,
    /// Texts of which the answer is one.
    pub choice: Option<Vec<String>>,
    /// A grammar in llguidance's dialect of Lark.
    pub grammar: Option<String>,
    /// Any JSON object.
    pub json_object: Option<bool>,
    /// Refused.
    pub structural_tag: Option<Value>,
}
