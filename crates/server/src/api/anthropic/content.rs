//! Messages and their blocks, as messages of a chat: whatever holds text is text.

use moesaic_protocol::anthropic::{InputBlock, InputContent, InputMessage, InputRole};
use moesaic_protocol::{ChatMessage, Role, ToolCall, from_value};
use serde_json::{Value, json};

use crate::error::{ApiError, echo};

/// What Claude Code's own notes on billing begin with. They differ from request to request, so that none would begin like
/// the one before, and are not for the model.
const BILLING_NOTE: &str = "x-anthropic-billing-header";

/// Adds instructions, where there are any.
///
/// # Errors
/// When they hold anything but text.
pub fn add_system(content: InputContent, path: &str, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let text = match content {
        InputContent::Text(text) => Some(text),
        InputContent::Blocks(blocks) => {
            let mut texts = texts(blocks, path, only_text)?;
            texts.retain(|text| !text.starts_with(BILLING_NOTE));
            joined(texts)
        }
    };
    messages.extend(text.map(|text| ChatMessage::new(Role::System, Some(text.into()))));
    Ok(())
}

/// Adds a message. It becomes one or, with results of tools, several.
///
/// # Errors
/// Names the block that cannot be read.
pub fn add(message: InputMessage, path: &str, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let role = match message.role {
        InputRole::System => return add_system(message.content, path, messages),
        InputRole::User => Role::User,
        InputRole::Assistant => Role::Assistant,
    };
    let blocks = match message.content {
        InputContent::Text(text) => {
            messages.push(ChatMessage::new(role, Some(text.into())));
            return Ok(());
        }
        InputContent::Blocks(blocks) => blocks,
    };
    let (mut said, mut thoughts, mut calls, mut has_results) = (Vec::new(), Vec::new(), Vec::new(), false);
    for (index, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        match (block.kind.as_str(), role) {
            ("thinking", Role::Assistant) => {
                thoughts.extend(Some(needed(block.thinking, &path, "thinking")?).filter(|thought| !thought.is_empty()));
            }
            ("tool_use", Role::Assistant) => {
                let arguments = block.input.unwrap_or_else(|| json!({})).to_string();
                let name = needed(block.name, &path, "name")?;
                calls.push(ToolCall::function(block.id, name, arguments));
            }
            ("tool_result", Role::User) => {
                let path = format!("{path}.content");
                let given = match content(block.content.as_ref(), &path)? {
                    InputContent::Text(text) => text,
                    InputContent::Blocks(blocks) => texts(blocks, &path, text)?.join("\n"),
                };
                let result = ChatMessage::new(Role::Tool, Some(given.into()));
                messages.push(ChatMessage { tool_call_id: block.tool_use_id, ..result });
                has_results = true;
            }
            _ => said.extend(text(block, &path)?),
        }
    }
    if said.is_empty() && thoughts.is_empty() && calls.is_empty() {
        if !has_results {
            // Still a turn: the next one is not the same speaker's.
            messages.push(ChatMessage::new(role, Some(String::new().into())));
        }
        return Ok(());
    }
    messages.push(ChatMessage {
        reasoning_content: joined(thoughts),
        tool_calls: (!calls.is_empty()).then_some(calls),
        ..ChatMessage::new(role, joined(said).map(Into::into))
    });
    Ok(())
}

fn joined(texts: Vec<String>) -> Option<String> {
    (!texts.is_empty()).then(|| texts.join("\n"))
}

fn unsupported(block: &InputBlock, path: &str) -> ApiError {
    let message = match block.kind.as_str() {
        "image" => "images are not supported here: the model reads text only".to_owned(),
        kind => format!("blocks of type {:?} are not supported here", echo(kind)),
    };
    ApiError::invalid(path, message)
}

fn needed(value: Option<String>, path: &str, field: &str) -> Result<String, ApiError> {
    value.ok_or_else(|| ApiError::invalid(format!("{path}.{field}"), "is required"))
}

/// The content of a block; an empty text where there is none.
fn content(content: Option<&Value>, path: &str) -> Result<InputContent, ApiError> {
    let Some(content) = content else { return Ok(InputContent::Text(String::new())) };
    from_value(content).map_err(|error| error.inside(path).into())
}

/// The texts of blocks, each read by `read`.
fn texts(
    blocks: Vec<InputBlock>,
    path: &str,
    read: fn(InputBlock, &str) -> Result<Option<String>, ApiError>,
) -> Result<Vec<String>, ApiError> {
    let mut texts = Vec::with_capacity(blocks.len());
    for (index, block) in blocks.into_iter().enumerate() {
        texts.extend(read(block, &format!("{path}[{index}]"))?);
    }
    Ok(texts)
}

/// The text of a block that may be nothing else.
fn only_text(block: InputBlock, path: &str) -> Result<Option<String>, ApiError> {
    match block.kind.as_str() {
        "text" => needed(block.text, path, "text").map(Some),
        // They say which tools there are from here on; all that the request names are offered.
        "tool_addition" | "tool_removal" => Ok(None),
        _ => Err(unsupported(&block, path)),
    }
}

/// The text of a block of any kind; `None` where it is passed over.
fn text(block: InputBlock, path: &str) -> Result<Option<String>, ApiError> {
    match block.kind.as_str() {
        "document" => document(block, path).map(Some),
        "search_result" => {
            let source = block.source.as_ref().and_then(Value::as_str).map(str::to_owned);
            let text = plain(block.content.as_ref(), &format!("{path}.content"))?;
            Ok(Some(with_head([block.title, source], text)))
        }
        "tool_reference" => needed(block.tool_name, path, "tool_name").map(Some),
        "redacted_thinking" | "server_tool_use" | "mcp_tool_use" | "mcp_tool_listing" | "container_upload"
        | "fallback" => Ok(None),
        kind if kind == "compaction" || kind.ends_with("_tool_result") => Ok(text_of_server(block.content.as_ref())),
        _ => only_text(block, path),
    }
}

/// A document that came as text. What it holds is text: a document in a document is none.
fn document(block: InputBlock, path: &str) -> Result<String, ApiError> {
    let source = block.source.as_ref().unwrap_or(&Value::Null);
    let invalid = |field: &str, message: String| Err(ApiError::invalid(format!("{path}.source{field}"), message));
    let text = match source["type"].as_str() {
        Some("text") => match source["data"].as_str() {
            Some(text) => text.to_owned(),
            None => return invalid(".data", "must be a string".to_owned()),
        },
        Some("content") => plain(source.get("content"), &format!("{path}.source.content"))?,
        Some(kind) => {
            let message = format!("documents of type {:?} are not supported here: send them as text", echo(kind));
            return invalid(".type", message);
        }
        None => return invalid("", "must be an object of type \"text\" or \"content\"".to_owned()),
    };
    Ok(with_head([block.title, block.context], text))
}

/// The text of content that may hold nothing else.
fn plain(value: Option<&Value>, path: &str) -> Result<String, ApiError> {
    match content(value, path)? {
        InputContent::Text(text) => Ok(text),
        InputContent::Blocks(blocks) => Ok(texts(blocks, path, only_text)?.join("\n")),
    }
}

fn with_head(head: [Option<String>; 2], text: String) -> String {
    let lines = head.into_iter().flatten().filter(|line| !line.is_empty()).chain([text]);
    lines.collect::<Vec<_>>().join("\n")
}

/// The text that a block of a server's tool holds, wherever it is: pages found, outputs of programs, summaries.
fn text_of_server(content: Option<&Value>) -> Option<String> {
    let mut texts = Vec::new();
    collect(content?, &mut texts);
    (!texts.is_empty()).then(|| texts.join("\n"))
}

fn collect<'v>(value: &'v Value, texts: &mut Vec<&'v str>) {
    match value {
        Value::String(text) if !text.is_empty() => texts.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Object(fields) => {
            // A document's data may also be a file.
            let data = fields.get("data").filter(|_| fields.get("type").is_some_and(|kind| kind == "text"));
            let named =
                ["title", "url", "text", "stdout", "stderr", "tool_name", "tool_references", "content", "source"];
            let named = named.into_iter().filter_map(|name| fields.get(name));
            named.chain(data).for_each(|inner| collect(inner, texts));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a chat that a message becomes, or the error.
    fn chat(role: &str, content: Value) -> Result<Value, String> {
        let message: InputMessage = from_value(&json!({"role": role, "content": content})).expect("is a message");
        let mut messages = Vec::new();
        match add(message, "content", &mut messages) {
            Ok(()) => Ok(json!(messages)),
            Err(error) => Err(error.to_messages_body().error.message),
        }
    }

    fn check(role: &str, content: Value, expected: &Value) {
        assert_eq!(chat(role, content.clone()).as_ref(), Ok(expected), "{content}");
    }

    /// As a message of the same role.
    fn check_text(role: &str, block: Value, expected: &str) {
        check(role, json!([block]), &json!([{"role": role, "content": expected}]));
    }

    #[test]
    fn what_holds_text_is_text() {
        let text = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}, "citations": null});
        let document =
            |source: Value| json!({"type": "document", "source": source, "title": "Title", "context": "Context"});
        let plain = json!({"type": "text", "media_type": "text/plain", "data": "Data"});
        let found =
            json!({"type": "search_result", "source": "http://a", "title": "A", "content": [text("b"), text("c")]});
        check_text("user", text("a"), "a");
        check_text("user", document(plain.clone()), "Title\nContext\nData");
        check_text("user", json!({"type": "document", "source": plain, "title": "", "context": null}), "Data");
        check_text("user", document(json!({"type": "content", "content": "Data"})), "Title\nContext\nData");
        check_text(
            "user",
            document(json!({"type": "content", "content": [text("a"), text("b")]})),
            "Title\nContext\na\nb",
        );
        check_text("user", found.clone(), "A\nhttp://a\nb\nc");
        check_text("user", json!({"type": "tool_reference", "tool_name": "grep"}), "grep");
        let result =
            |content: Value| json!([{"type": "tool_result", "tool_use_id": "1", "is_error": true, "content": content}]);
        let given = |text: &str| json!([{"role": "tool", "content": text, "tool_call_id": "1"}]);
        check(
            "user",
            result(json!([text("a"), found, {"type": "tool_reference", "tool_name": "f"}])),
            &given("a\nA\nhttp://a\nb\nc\nf"),
        );
        check("user", result(json!("a")), &given("a"));
        check("user", result(json!([])), &given(""));
        check("user", result(json!(null)), &given(""));
    }

    #[test]
    fn tools_of_servers_leave_their_text() {
        for passed_over in [
            json!({"type": "server_tool_use", "id": "1", "name": "web_search", "input": {"query": "q"}}),
            json!({"type": "mcp_tool_use", "id": "1", "name": "f", "server_name": "s", "input": {}}),
            json!({"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": []}),
            json!({"type": "container_upload", "file_id": "f"}),
            json!({"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}),
            json!({"type": "redacted_thinking", "data": "x"}),
            json!({"type": "compaction", "content": null, "encrypted_content": "x"}),
            json!({"type": "web_search_tool_result", "content": {"type": "web_search_tool_result_error", "error_code": "x"}}),
            json!({"type": "thinking", "thinking": "", "signature": "x"}),
        ] {
            check_text("assistant", passed_over, "");
        }
        let page = json!({"type": "web_search_result", "title": "T", "url": "http://t", "encrypted_content": "x", "page_age": null});
        check_text(
            "assistant",
            json!({"type": "web_search_tool_result", "tool_use_id": "1", "content": [page]}),
            "T\nhttp://t",
        );
        let pdf = json!({"type": "base64", "media_type": "application/pdf", "data": "x"});
        let plain = json!({"type": "text", "media_type": "text/plain", "data": "Page"});
        let fetched = |source: &Value| {
            let document = json!({"type": "document", "title": "T", "source": source});
            let content = json!({"type": "web_fetch_result", "url": "http://t", "content": document});
            json!({"type": "web_fetch_tool_result", "tool_use_id": "1", "content": content})
        };
        check_text("assistant", fetched(&plain), "http://t\nT\nPage");
        check_text("assistant", fetched(&pdf), "http://t\nT");
        let ran = json!({"type": "code_execution_result", "stdout": "4", "stderr": "", "return_code": 0, "content": [{"type": "code_execution_output", "file_id": "f"}]});
        check_text("assistant", json!({"type": "code_execution_tool_result", "tool_use_id": "1", "content": ran}), "4");
        let text = json!([{"type": "text", "text": "a"}]);
        check_text("assistant", json!({"type": "mcp_tool_result", "tool_use_id": "1", "content": text}), "a");
        check_text("assistant", json!({"type": "mcp_tool_result", "tool_use_id": "1", "content": "a"}), "a");
        check_text("assistant", json!({"type": "compaction", "content": "So far."}), "So far.");
    }

    #[test]
    fn turns_stay_turns() {
        let text = |text: &str| json!({"type": "text", "text": text});
        check("user", json!([]), &json!([{"role": "user", "content": ""}]));
        let note = text("x-anthropic-billing-header: cc_version=2.1; cch=1;");
        check("system", json!([note, text("a"), text("b")]), &json!([{"role": "system", "content": "a\nb"}]));
        check("system", json!([note]), &json!([]));
        check("system", json!("a"), &json!([{"role": "system", "content": "a"}]));
        let call = json!({"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}});
        check(
            "assistant",
            json!([{"type": "thinking", "thinking": "well", "signature": "x"}, text("a"), call]),
            &json!([{
                "role": "assistant", "content": "a", "reasoning_content": "well",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}],
            }]),
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}});
        let document = |source: Value| json!({"type": "document", "source": source});
        let inner = document(json!({"type": "text", "data": "x"}));
        for (role, block, begin) in [
            ("user", image.clone(), "content[0]: images are not supported here"),
            ("user", json!({"type": "tool_result", "content": [image]}), "content[0].content[0]: images are not"),
            (
                "user",
                document(json!({"type": "base64", "data": "x"})),
                "content[0].source.type: documents of type \"base64\"",
            ),
            ("user", document(json!({"type": "text"})), "content[0].source.data: must be a string"),
            ("user", document(json!({"type": "content", "content": [image]})), "content[0].source.content[0]: images"),
            (
                "user",
                document(json!({"type": "content", "content": [inner]})),
                "content[0].source.content[0]: blocks of",
            ),
            ("user", document(json!({"type": "content", "content": 5})), "content[0].source.content: must be"),
            ("user", json!({"type": "document"}), "content[0].source: must be an object"),
            ("user", json!({"type": "tool_reference"}), "content[0].tool_name: is required"),
            ("user", json!({"type": "tool_result", "content": {}}), "content[0].content: must be"),
            ("user", json!({"type": "video"}), "content[0]: blocks of type \"video\" are not supported here"),
            ("system", image, "content[0]: images"),
        ] {
            let error = chat(role, json!([block])).expect_err("cannot be read");
            assert!(error.starts_with(begin), "{block}: {error}");
        }
    }
}
