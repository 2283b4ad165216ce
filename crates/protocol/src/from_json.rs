//! Reading a request and, when it is wrong, saying where.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::{
    ChatRequest, CompletionRequest, Content, DetokenizeRequest, EmbeddingsRequest, InputContent, ItemText,
    MessagesRequest, Prompt, ResponsesInput, ResponsesRequest, TokenizeRequest,
};

/// Most prompts in one request, far above any operator's limit: bounds memory while reading.
const MAX_PROMPTS: usize = 4096;

/// A body that is not a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `messages[0].role`; `None` when the whole body is wrong.
    pub param: Option<String>,
    /// What was expected and found.
    pub message: String,
}

/// Requests that can be read from a JSON body.
pub trait FromJson: Sized {
    /// Reads the body, straight from its bytes: unknown fields are skipped, not stored.
    ///
    /// # Errors
    /// Names the first field that is missing or of the wrong type.
    fn from_json(body: &[u8]) -> Result<Self, FieldError>;
}

// Flattened parts are read in passes of their own: within one pass serde would store every
// unknown field for them and forget the path of an error.
impl FromJson for ChatRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        Ok(Self { sampling: read(body)?, format: read(body)?, unsupported: read(body)?, ..read(body)? })
    }
}

impl FromJson for CompletionRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        Ok(Self { sampling: read(body)?, format: read(body)?, unsupported: read(body)?, ..read(body)? })
    }
}

impl FromJson for ResponsesRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        Ok(Self { sampling: read(body)?, format: read(body)?, unsupported: read(body)?, ..read(body)? })
    }
}

impl FromJson for EmbeddingsRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        read(body)
    }
}

impl FromJson for MessagesRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        read(body)
    }
}

impl FromJson for TokenizeRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        read(body)
    }
}

impl FromJson for DetokenizeRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        read(body)
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, FieldError> {
    if body.trim_ascii_start().first().is_some_and(|byte| b"[\"-0123456789tfn".contains(byte)) {
        let message = "The request body must be a JSON object.".to_owned();
        return Err(FieldError { param: None, message });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let result = serde_path_to_error::deserialize(&mut deserializer);
    let not_json = |error: &serde_json::Error| FieldError {
        param: None,
        message: format!("The request body is not valid JSON: {error}"),
    };
    match result {
        Ok(value) => deserializer.end().map_err(|error| not_json(&error)).map(|()| value),
        Err(error) if !error.inner().is_data() => Err(not_json(error.inner())),
        Err(error) => {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            // A missing field is reported at its parent; its name stands in the message.
            let named = message.strip_prefix("missing field `").or(message.strip_prefix("duplicate field `"));
            let missing = named.and_then(|rest| rest.split('`').next());
            let param = match (path.as_str(), missing) {
                (".", None) => None,
                (".", Some(field)) => Some(field.to_owned()),
                (parent, Some(field)) => Some(format!("{parent}.{field}")),
                (path, None) => Some(path.to_owned()),
            };
            let message = match param {
                Some(_) => message,
                None => format!("The request body is not what this endpoint takes: {message}"),
            };
            Err(FieldError { param, message })
        }
    }
}

// By hand, because an untagged enum would forget where inside the list an error was.
macro_rules! text_or_list {
    ($name:ident :: $list:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let visitor = TextOrList { expected: $expected, text: Self::Text, list: Self::$list };
                deserializer.deserialize_any(visitor)
            }
        }
    };
}

text_or_list!(Content::Parts, "a string or a list of content parts");
text_or_list!(InputContent::Blocks, "a string or a list of content blocks");
text_or_list!(ItemText::Parts, "a string or a list of parts");
text_or_list!(ResponsesInput::Items, "a string or a list of items");

struct TextOrList<O, T> {
    expected: &'static str,
    text: fn(String) -> O,
    list: fn(Vec<T>) -> O,
}

impl<'de, O, T: Deserialize<'de>> Visitor<'de> for TextOrList<O, T> {
    type Value = O;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E>(self, text: &str) -> Result<O, E> {
        Ok((self.text)(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<O, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(items)).map(self.list)
    }
}

// By hand, because an untagged enum stores everything before it knows what it is.
impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
    }

    fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
        let mut prompt = match items.next_element::<PromptItem>()? {
            None => return Ok(Prompt::Tokens(Vec::new())),
            Some(PromptItem::Text(text)) => Prompt::Texts(vec![text]),
            Some(PromptItem::Token(id)) => Prompt::Tokens(vec![id]),
            Some(PromptItem::Tokens(ids)) => Prompt::TokenLists(vec![ids]),
        };
        while let Some(item) = items.next_element::<PromptItem>()? {
            let num_prompts = match (&mut prompt, item) {
                (Prompt::Texts(texts), PromptItem::Text(text)) => {
                    texts.push(text);
                    texts.len()
                }
                (Prompt::Tokens(ids), PromptItem::Token(id)) => {
                    ids.push(id);
                    1
                }
                (Prompt::TokenLists(lists), PromptItem::Tokens(ids)) => {
                    lists.push(ids);
                    lists.len()
                }
                _ => return Err(A::Error::custom("a prompt's items must all be of one kind")),
            };
            if num_prompts > MAX_PROMPTS {
                return Err(A::Error::custom(format!("more than {MAX_PROMPTS} prompts")));
            }
        }
        Ok(prompt)
    }
}

#[derive(Deserialize, Serialize)]
#[serde(transparent)]
struct TokenId(u32);

enum PromptItem {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = PromptItem;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<PromptItem, E> {
                let id = u32::try_from(id).map_err(|_| E::custom(format!("{id} is not a token id")))?;
                Ok(PromptItem::Token(id))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PromptItem, A::Error> {
                let mut ids = Vec::new();
                while let Some(TokenId(id)) = items.next_element()? {
                    ids.push(id);
                }
                Ok(PromptItem::Tokens(ids))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn chat(body: &Value) -> Result<ChatRequest, FieldError> {
        ChatRequest::from_json(body.to_string().as_bytes())
    }

    #[test]
    fn errors_name_the_field() {
        let check = |body: Value, param: Option<&str>| {
            let error = chat(&body).expect_err("is wrong");
            assert_eq!(error.param.as_deref(), param, "{body}: {}", error.message);
        };
        let user = json!([{"role": "user", "content": "hi"}]);
        check(json!([]), None);
        check(json!(null), None);
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
        let body =
            json!({"messages": [{"role": "user", "content": ""}], "temperature": null, "tools": null, "new": [1]});
        let request = chat(&body).expect("is right");
        assert!(request.sampling.temperature.is_none() && request.tools.is_none());
        assert_eq!(request.unsupported.first(), None);
        let refused = json!({"messages": [], "n": 2, "audio": {}});
        let request = chat(&refused).expect("is read");
        assert_eq!((request.sampling.n, request.unsupported.first()), (Some(2), Some("audio")));
    }

    #[test]
    fn prompts() {
        let read = |prompt: Value| {
            let body = json!({"prompt": prompt}).to_string();
            CompletionRequest::from_json(body.as_bytes()).map(|request| request.prompt)
        };
        assert_eq!(read(json!("a")), Ok(Prompt::Text("a".to_owned())));
        assert_eq!(read(json!(["a", "b"])), Ok(Prompt::Texts(vec!["a".to_owned(), "b".to_owned()])));
        assert_eq!(read(json!([1, 2])), Ok(Prompt::Tokens(vec![1, 2])));
        assert_eq!(read(json!([[1], [2, 3]])), Ok(Prompt::TokenLists(vec![vec![1], vec![2, 3]])));
        for wrong in [
            json!(null),
            json!({}),
            json!([1, "a"]),
            json!([[1], 2]),
            json!([-1]),
            json!([1e10]),
            json!([[[1]]]),
            json!(vec!["x"; 5000]),
        ] {
            let error = read(wrong.clone()).expect_err("is wrong");
            assert!(error.param.is_some_and(|param| param.starts_with("prompt")), "{wrong}");
        }
        assert!(CompletionRequest::from_json(b"{\"prompt\": \"a\"} x").is_err());
    }
}
