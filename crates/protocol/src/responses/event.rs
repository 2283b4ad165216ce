//! What clients send over a WebSocket of `/v1/responses`.

use serde::Deserialize;
use serde_json::Value;

use crate::{FieldError, FromJson, ResponsesRequest, from_value};

/// A message: what it wants, beside the fields of the request for a response.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ClientEvent {
    /// "response.create"; "response.processed" of some clients, which wants nothing.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Whether anything is to be generated (default true); else the prompt is only prepared.
    pub generate: Option<bool>,
    /// The response to go on from.
    pub previous_response_id: Option<String>,
    /// The whole request, in the older form of the message.
    response: Option<Value>,
}

impl ClientEvent {
    /// Reads a message as far as it says what it wants.
    ///
    /// # Errors
    /// Names the field that is of the wrong type.
    pub fn from_json(message: &[u8]) -> Result<Self, FieldError> {
        let mut event: Self = crate::from_json::read(message)?;
        if let Some(request) = &event.response {
            let inner: Self = from_value(request).map_err(|error| error.inside("response"))?;
            event.generate = event.generate.or(inner.generate);
            event.previous_response_id = event.previous_response_id.or(inner.previous_response_id);
        }
        Ok(event)
    }

    /// The request for a response in the message that this was read from.
    ///
    /// # Errors
    /// Names the first field that is missing or of the wrong type.
    pub fn request(&self, message: &[u8]) -> Result<ResponsesRequest, FieldError> {
        match &self.response {
            None => ResponsesRequest::from_json(message),
            Some(request) => ResponsesRequest::from_json(request.to_string().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let flat = r#"{"type": "response.create", "generate": false, "previous_response_id": "resp_1", "input": "Hi"}"#;
        let nested = r#"{"type": "response.create",
            "response": {"generate": false, "previous_response_id": "resp_1", "input": "Hi"}}"#;
        for message in [flat, nested] {
            let event = ClientEvent::from_json(message.as_bytes()).unwrap();
            assert_eq!(event.kind.as_deref(), Some("response.create"));
            assert_eq!((event.generate, event.previous_response_id.as_deref()), (Some(false), Some("resp_1")));
            let request = event.request(message.as_bytes()).unwrap();
            assert!(request.input.is_some() && request.previous_response_id.as_deref() == Some("resp_1"));
        }
        let param = |message: &str| ClientEvent::from_json(message.as_bytes()).unwrap_err().param;
        assert_eq!(param(r#"{"type": 5}"#).as_deref(), Some("type"));
        assert_eq!(param(r#"{"response": 5}"#).as_deref(), Some("response"));
        assert_eq!(param(r#"{"response": {"generate": 5}}"#).as_deref(), Some("response.generate"));
        assert_eq!(param("[]"), None);
    }
}
