//! Reading a request and, when it is wrong, saying where.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{ChatRequest, CompletionRequest, DetokenizeRequest, SamplingFields, TokenizeRequest};

/// A field that is missing or of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `messages[0].role`; `None` when the whole body is wrong.
    pub param: Option<String>,
    /// What was expected and found.
    pub message: String,
}

/// Requests that can be read from a JSON body.
pub trait FromJson: Sized {
    /// Reads the body.
    ///
    /// # Errors
    /// Names the first field that is missing or of the wrong type.
    fn from_json(body: &Value) -> Result<Self, FieldError>;
}

impl FromJson for ChatRequest {
    fn from_json(body: &Value) -> Result<Self, FieldError> {
        Ok(Self { sampling: read::<SamplingFields>(body)?, ..read(body)? })
    }
}

impl FromJson for CompletionRequest {
    fn from_json(body: &Value) -> Result<Self, FieldError> {
        Ok(Self { sampling: read::<SamplingFields>(body)?, ..read(body)? })
    }
}

impl FromJson for TokenizeRequest {
    fn from_json(body: &Value) -> Result<Self, FieldError> {
        read(body)
    }
}

impl FromJson for DetokenizeRequest {
    fn from_json(body: &Value) -> Result<Self, FieldError> {
        read(body)
    }
}

fn read<T: DeserializeOwned>(body: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        // A missing field is reported at its parent; its name stands in the message.
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let param = match (path.as_str(), missing) {
            (".", None) => None,
            (".", Some(field)) => Some(field.to_owned()),
            (parent, Some(field)) => Some(format!("{parent}.{field}")),
            (path, None) => Some(path.to_owned()),
        };
        FieldError { param, message }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_field() {
        let check = |body: Value, param: Option<&str>| {
            let error = ChatRequest::from_json(&body).expect_err("is wrong");
            assert_eq!(error.param.as_deref(), param, "{body}: {}", error.message);
        };
        let user = json!([{"role": "user", "content": "hi"}]);
        check(json!([]), None);
        check(json!({}), Some("messages"));
        check(json!({"messages": null}), Some("messages"));
        check(json!({"messages": [{"role": "robot", "content": "hi"}]}), Some("messages[0].role"));
        check(json!({"messages": [{"content": "hi"}]}), Some("messages[0].role"));
        check(
            json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}),
            Some("messages[0].content[0].type"),
        );
        check(json!({"messages": user, "temperature": "hot"}), Some("temperature"));
        check(json!({"messages": user, "n": -1}), Some("n"));
        check(json!({"messages": user, "max_tokens": 1e10}), Some("max_tokens"));
        check(json!({"messages": user, "stop": [1]}), Some("stop"));
        check(json!({"messages": user, "stream_options": {"include_usage": 3}}), Some("stream_options.include_usage"));
        check(json!({"messages": user, "logit_bias": {"5": "x"}}), Some("logit_bias.5"));
    }

    #[test]
    fn null_is_absent_and_unknown_fields_are_ignored() {
        let body = json!({"messages": [{"role": "user", "content": ""}], "temperature": null, "tools": null, "new": 1});
        let request = ChatRequest::from_json(&body).expect("is right");
        assert!(request.sampling.temperature.is_none() && request.tools.is_none());
        assert_eq!(request.unsupported.first(), None);
    }
}
