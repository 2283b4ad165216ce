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
