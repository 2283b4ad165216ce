//! Reading a request and, when it is wrong, saying where.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json_error::{JsonError, float_in_words};
use crate::json_reader::{Path, Reader, Slot};
use crate::{
    ChatMessage, ChatRequest, CompletionRequest, Content, ContentPart, DetokenizeRequest, EmbeddingsRequest,
    FormatFields, InputContent, ItemText, MessagesRequest, Prompt, ResponsesInput, ResponsesRequest, Role,
    StopSequences, TokenizeRequest, Tool,
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

impl FieldError {
    /// The same about a part of a request that is found here.
    #[must_use]
    pub fn inside(self, path: &str) -> Self {
        let param = match self.param {
            Some(field) if field.starts_with('[') => format!("{path}{field}"),
            Some(field) => format!("{path}.{field}"),
            None => path.to_owned(),
        };
        Self { param: Some(param), ..self }
    }
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
        let mut request =
            Self { sampling: read(body)?, format: read_format(body)?, unsupported: read(body)?, ..read(body)? };
        normalise(&mut request.messages)?;
        let names = ("max_completion_tokens", "max_tokens");
        request.max_tokens = one_value(names, request.max_completion_tokens.as_ref(), request.max_tokens)?;
        Ok(request)
    }
}

impl FromJson for CompletionRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        Ok(Self { sampling: read(body)?, format: read_format(body)?, unsupported: read(body)?, ..read(body)? })
    }
}

impl FromJson for ResponsesRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        Ok(Self { sampling: read(body)?, format: read_format(body)?, unsupported: read(body)?, ..read(body)? })
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
        let mut request: Self = read(body)?;
        normalise(request.messages.as_deref_mut().unwrap_or_default())?;
        for (index, tool) in request.tools.iter().flatten().enumerate() {
            from_value::<Tool>(tool).map_err(|error| error.inside(&format!("tools[{index}]")))?;
        }
        Ok(request)
    }
}

impl FromJson for DetokenizeRequest {
    fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        read(body)
    }
}

/// Reads a part of a request that was kept as it came.
///
/// # Errors
/// Names the first field that is missing or of the wrong type, by its path within the part; `None` for the part itself.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    let slot = Slot::default();
    T::deserialize(Reader::new(value, Path::Root, &slot)).map_err(|error| field_error(error, ""))
}

/// Reads a text that should be JSON, such as a schema that was sent as text.
///
/// # Errors
/// Says what is wrong and where, in plain words.
pub fn json_from_text(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| JsonError::parser(&error.to_string()).message)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, FieldError> {
    // Some clients begin with a byte order mark, which JSON has no place for.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let slot = Slot::default();
    let mut inner = serde_json::Deserializer::from_slice(body);
    let found = T::deserialize(Reader::new(&mut inner, Path::Root, &slot));
    let found = found.and_then(|value| match inner.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(JsonError::parser(&error.to_string())),
    });
    found.map_err(|error| field_error(error, "The request body "))
}

/// `whole`: what an error about no field begins with.
fn field_error(error: JsonError, whole: &str) -> FieldError {
    let error = error.at(String::new);
    if error.is_syntax {
        return FieldError { param: None, message: format!("{whole}is not valid JSON: {}.", error.message) };
    }
    match error.path.filter(|path| !path.is_empty()) {
        None => FieldError { param: None, message: format!("{whole}{}", error.message) },
        param => FieldError { param, message: error.message },
    }
}

/// Each of these has an older name and a newer one; the same value under both is one value.
fn read_format(body: &[u8]) -> Result<FormatFields, FieldError> {
    let mut fields: FormatFields = read(body)?;
    let Some(outputs) = &fields.structured_outputs else { return Ok(fields) };
    let newer = |name| format!("structured_outputs.{name}");
    fields.guided_json = one_value((&newer("json"), "guided_json"), outputs.json.as_ref(), fields.guided_json)?;
    fields.guided_regex = one_value((&newer("regex"), "guided_regex"), outputs.regex.as_ref(), fields.guided_regex)?;
    fields.guided_choice =
        one_value((&newer("choice"), "guided_choice"), outputs.choice.as_ref(), fields.guided_choice)?;
    fields.guided_grammar =
        one_value((&newer("grammar"), "guided_grammar"), outputs.grammar.as_ref(), fields.guided_grammar)?;
    Ok(fields)
}

/// What the older name adds to the newer one: nothing where both say the same.
fn one_value<T: PartialEq>(
    (newer_name, older_name): (&str, &str),
    newer: Option<&T>,
    older: Option<T>,
) -> Result<Option<T>, FieldError> {
    match (newer, older) {
        (None, older) => Ok(older),
        (Some(_), None) => Ok(None),
        (Some(newer), Some(older)) if *newer == older => Ok(None),
        (Some(_), Some(_)) => {
            let message = format!("is the older name of {newer_name}, which has another value: give one of them");
            Err(FieldError { param: Some(older_name.to_owned()), message })
        }
    }
}

/// Parts of every kind that carries text become plain text parts, thoughts go where thoughts are kept.
fn normalise(messages: &mut [ChatMessage]) -> Result<(), FieldError> {
    for (index, message) in messages.iter_mut().enumerate() {
        let Some(Content::Parts(parts)) = &mut message.content else { continue };
        let mut thoughts = Vec::new();
        for (place, part) in parts.iter_mut().enumerate() {
            let (name, text) = match part.kind.as_str() {
                "text" | "input_text" | "output_text" => ("text", part.text.take()),
                "refusal" => ("refusal", part.refusal.take()),
                "thinking" if message.role == Role::Assistant => ("thinking", part.thinking.take()),
                // Refused where the kinds are known.
                _ => continue,
            };
            let Some(text) = text else {
                let param = format!("messages[{index}].content[{place}].{name}");
                return Err(FieldError { param: Some(param), message: "is required".to_owned() });
            };
            if name == "thinking" {
                thoughts.push(text);
            } else {
                *part = ContentPart { text: Some(text), ..ContentPart::of_kind("text") };
            }
        }
        parts.retain(|part| part.kind != "thinking" || message.role != Role::Assistant);
        // Said twice, what stands in its own field counts.
        if !thoughts.is_empty() && message.reasoning_content.is_none() && message.reasoning.is_none() {
            message.reasoning_content = Some(thoughts.join("\n"));
        }
    }
    Ok(())
}

/// Absent, null and the default are one thing.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

// By hand, because a part may also be its bare text.
impl<'de> Deserialize<'de> for ContentPart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = ContentPart;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a content part or a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<ContentPart, E> {
        Ok(ContentPart { text: Some(text.to_owned()), ..ContentPart::of_kind("text") })
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<ContentPart, A::Error> {
        #[derive(Deserialize)]
        struct Fields {
            #[serde(rename = "type")]
            kind: String,
            text: Option<String>,
            refusal: Option<String>,
            thinking: Option<String>,
        }

        let Fields { kind, text, refusal, thinking } = Fields::deserialize(MapAccessDeserializer::new(fields))?;
        Ok(ContentPart { kind, text, refusal, thinking })
    }
}

// By hand, because an untagged enum would forget where inside the list an error was.
macro_rules! text_or_list {
    ($name:ident: $text:ident or $list:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let visitor = TextOrList { expected: $expected, text: Self::$text, list: Self::$list };
                deserializer.deserialize_any(visitor)
            }
        }
    };
}

text_or_list!(StopSequences: One or Many, "a string or a list of strings");
text_or_list!(Content: Text or Parts, "a string or a list of content parts");
text_or_list!(InputContent: Text or Blocks, "a string or a list of content blocks");
text_or_list!(ItemText: Text or Parts, "a string or a list of parts");
text_or_list!(ResponsesInput: Text or Items, "a string or a list of items");

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

            fn visit_i64<E: Error>(self, id: i64) -> Result<PromptItem, E> {
                Err(E::custom(format!("{id} is not a token id")))
            }

            fn visit_f64<E: Error>(self, id: f64) -> Result<PromptItem, E> {
                if id.fract() == 0.0 && (0.0..=u32::MAX.into()).contains(&id) {
                    return Ok(PromptItem::Token(id as u32));
                }
                Err(E::custom(format!("{} is not a token id", float_in_words(id))))
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
    use serde_json::json;

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
        check(json!({"messages": user, "stop": [1]}), Some("stop[0]"));
        check(json!({"messages": [{"role": null, "content": "hi"}]}), Some("messages[0].role"));
        check(json!({"messages": [["user", "hi"]]}), Some("messages[0]"));
        check(
            json!({"messages": user, "tool_choice": null, "structured_outputs": {"regex": []}}),
            Some("structured_outputs.regex"),
        );
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
