//! Reading a request and, when it is wrong, saying where.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json_error::JsonError;
use crate::json_reader::{Path, Reader, Slot};
use crate::{
    ChatMessage, ChatRequest, CompletionRequest, Content, ContentPart, DetokenizeRequest, EmbeddingsRequest,
    FormatFields, MessagesRequest, ResponsesRequest, Role, TokenizeRequest, Tool,
};

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

pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, FieldError> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Prompt;

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
    fn whole_numbers_may_be_written_as_others() {
        let n = |text: &str| {
            let body = format!("\u{feff}{{\"messages\": [], \"n\": {text}}}");
            ChatRequest::from_json(body.as_bytes()).map(|request| request.sampling.n).map_err(|error| error.message)
        };
        for (text, expected) in [
            ("10", Ok(Some(10))),
            ("10.0", Ok(Some(10))),
            ("1e1", Ok(Some(10))),
            ("0.4294967295e10", Ok(Some(u32::MAX))),
            ("-0", Ok(Some(0))),
            ("null", Ok(None)),
            ("10.5", Err("must be a whole number from 0 to 4294967295, not 10.5")),
            ("-1", Err("must be a whole number from 0 to 4294967295: -1 is too small")),
            ("4294967296.0", Err("must be a whole number from 0 to 4294967295: 4294967296 is too large")),
            ("1e300", Err("must be a whole number from 0 to 4294967295: 1e300 is too large")),
            ("1e999", Err("is a number that is too large")),
            ("\"10\"", Err("must be a whole number from 0 to 4294967295, not a string")),
        ] {
            assert_eq!(n(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn parts_that_carry_text_are_text() {
        let read = |role: &str, content: Value| {
            let mut request = chat(&json!({"messages": [{"role": role, "content": content}]}))?;
            Ok::<_, FieldError>(request.messages.remove(0))
        };
        let parts = json!([
            "a", {"type": "text", "text": "b"}, {"type": "output_text", "text": "c"}, {"type": "refusal", "refusal": "d"},
            {"type": "thinking", "thinking": "well"}, {"type": "input_text", "text": "e"},
        ]);
        let message = read("assistant", parts).expect("is right");
        let text = |text: &str| ContentPart { text: Some(text.to_owned()), ..ContentPart::of_kind("text") };
        assert_eq!(message.content, Some(Content::Parts(["a", "b", "c", "d", "e"].map(text).into())));
        assert_eq!(message.reasoning_content.as_deref(), Some("well"));
        for (content, param) in [
            (json!(["a", {"type": "text"}]), "messages[0].content[1].text"),
            (json!([{"type": "refusal", "refusal": null}]), "messages[0].content[0].refusal"),
            (json!([{"type": "thinking"}]), "messages[0].content[0].thinking"),
            (json!([5]), "messages[0].content[0]"),
            (json!([{"type": "text", "text": 5}]), "messages[0].content[0].text"),
        ] {
            let error = read("assistant", content).expect_err("is wrong");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
        let call = json!({"id": null, "type": null, "function": {"name": "f", "arguments": null}});
        let body = json!({"messages": [{"role": "assistant", "tool_calls": [call]}]});
        let call = chat(&body).expect("is right").messages.remove(0).tool_calls.expect("are there").remove(0);
        assert_eq!((call.kind.as_str(), call.function.arguments.as_str()), ("function", ""));
    }

    #[test]
    fn two_names_of_one_field_have_one_value() {
        let with = |change: Value| {
            let mut body = json!({"messages": []});
            body.as_object_mut().expect("is one").extend(change.as_object().expect("is one").clone());
            chat(&body)
        };
        let same = with(json!({"max_tokens": 5.0, "max_completion_tokens": 5})).expect("are the same");
        assert_eq!((same.max_completion_tokens, same.max_tokens), (Some(5), None));
        let same = json!({"guided_json": {"type": "object"}, "structured_outputs": {"json": {"type": "object"}}});
        assert_eq!(with(same).expect("are the same").format.guided_json, None);
        for (change, older, newer) in [
            (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_tokens", "max_completion_tokens"),
            (
                json!({"guided_json": {}, "structured_outputs": {"json": true}}),
                "guided_json",
                "structured_outputs.json",
            ),
            (
                json!({"guided_regex": "a", "structured_outputs": {"regex": "b"}}),
                "guided_regex",
                "structured_outputs.regex",
            ),
            (
                json!({"guided_choice": ["a"], "structured_outputs": {"choice": []}}),
                "guided_choice",
                "structured_outputs.choice",
            ),
            (
                json!({"guided_grammar": "a", "structured_outputs": {"grammar": "b"}}),
                "guided_grammar",
                "structured_outputs.grammar",
            ),
        ] {
            let error = with(change).expect_err("differ");
            assert_eq!(error.param.as_deref(), Some(older));
            assert!(error.message.contains(newer), "{}", error.message);
        }
    }

    #[test]
    fn kept_values_are_read_later() {
        let read = |value: Value| from_value::<crate::Tool>(&value).map(|tool| tool.function.name);
        assert_eq!(read(json!({"type": "function", "function": {"name": "f", "strict": null}})), Ok("f".to_owned()));
        let error = read(json!({"type": "function", "function": {"name": 5}})).expect_err("is wrong");
        assert_eq!(error.param.as_deref(), Some("function.name"));
        assert_eq!(error.clone().inside("tools[1]").param.as_deref(), Some("tools[1].function.name"));
        assert_eq!(error.message, "must be a string, not 5");
        assert_eq!(json_from_text("{\"a\":}"), Err("no value can begin like this (line 1, column 6)".to_owned()));
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
        assert_eq!(read(json!([1.0, 2])), Ok(Prompt::Tokens(vec![1, 2])));
        assert_eq!(read(json!([[1], [2.0, 3]])), Ok(Prompt::TokenLists(vec![vec![1], vec![2, 3]])));
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
