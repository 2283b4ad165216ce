//! Items of the Responses API as chat messages.

use moesaic_chat::text_arguments;
use moesaic_protocol::responses::{InputItem, ItemPart, ItemText, OutputItem, OutputPart};
use moesaic_protocol::{ChatMessage, Role, ToolCall};

use crate::api::responses::tools::{function_name, is_run_by_servers};
use crate::error::{ApiError, echo};

/// Adds an item of a request to chat messages. `path` names it in errors.
///
/// # Errors
/// When the item is of a kind that is not served, or lacks something.
pub fn add_item(item: InputItem, path: &str, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let missing = |field: &str| ApiError::invalid(format!("{path}.{field}"), "is required");
    let needed = |value: Option<String>, field: &str| value.ok_or_else(|| missing(field));
    match item.kind.as_deref().unwrap_or("message") {
        "message" => {
            let role = needed(item.role, "role")?;
            let content = text(item.content.ok_or_else(|| missing("content"))?, &format!("{path}.content"))?;
            let role = match role.as_str() {
                "assistant" => {
                    add_answer(content, messages);
                    return Ok(());
                }
                "user" => Role::User,
                "system" => Role::System,
                "developer" => Role::Developer,
                _ => {
                    let message = "must be \"user\", \"assistant\", \"system\" or \"developer\"";
                    return Err(ApiError::invalid(format!("{path}.role"), message));
                }
            };
            messages.push(ChatMessage::new(role, Some(content.into())));
        }
        "reasoning" => {
            let (content, summary) = (item.content, item.summary);
            let mut thought = content.map_or(Ok(String::new()), |part| text(part, &format!("{path}.content")))?;
            if thought.is_empty() {
                thought = summary.map_or(Ok(String::new()), |part| text(part, &format!("{path}.summary")))?;
            }
            add_thought(thought, messages);
        }
        "function_call" => {
            let (name, arguments) = (needed(item.name, "name")?, needed(item.arguments, "arguments")?);
            let name = function_name(item.namespace.as_deref(), &name);
            add_call(ToolCall::function(Some(needed(item.call_id, "call_id")?), name, arguments), messages);
        }
        "custom_tool_call" => {
            let (name, input) = (needed(item.name, "name")?, needed(item.input, "input")?);
            let (name, arguments) = (function_name(item.namespace.as_deref(), &name), text_arguments(&input));
            add_call(ToolCall::function(Some(needed(item.call_id, "call_id")?), name, arguments), messages);
        }
        // Tools of the API's own that run at the client's: calls of functions of their names.
        kind @ ("local_shell_call" | "shell_call" | "apply_patch_call") => {
            let (what, field) =
                if kind == "apply_patch_call" { (item.operation, "operation") } else { (item.action, "action") };
            let arguments = what.ok_or_else(|| missing(field))?.to_string();
            let name = kind.strip_suffix("_call").unwrap_or(kind).to_owned();
            add_call(ToolCall::function(Some(needed(item.call_id.or(item.id), "call_id")?), name, arguments), messages);
        }
        kind if kind.ends_with("_call_output") && !is_passed_over(kind) => {
            let id = needed(item.call_id.or(item.id), "call_id")?;
            let output = text(item.output.ok_or_else(|| missing("output"))?, &format!("{path}.output"))?;
            let result = ChatMessage::new(Role::Tool, Some(output.into()));
            messages.push(ChatMessage { tool_call_id: Some(id), ..result });
        }
        kind if is_passed_over(kind) => {}
        kind => {
            let message = format!("items of type {:?} are not supported here", echo(kind));
            return Err(ApiError::invalid(format!("{path}.type"), message));
        }
    }
    Ok(())
}

/// Items about which a model that has not their tools learns nothing: other providers' histories carry them.
fn is_passed_over(kind: &str) -> bool {
    kind == "compaction" || is_run_by_servers(kind)
}

/// A conversation's summary in its place, as the user tells it: it is of what the user said as much as of the answers.
pub fn summary_message(summary: &str) -> ChatMessage {
    ChatMessage::new(Role::User, Some(format!("Our conversation so far, in short:\n{summary}").into()))
}

/// Adds what a response said to chat messages.
pub fn add_output(output: &[OutputItem], messages: &mut Vec<ChatMessage>) {
    let text = |parts: &[OutputPart]| -> String {
        let text = |part: &OutputPart| match part {
            OutputPart::OutputText { text, .. } | OutputPart::ReasoningText { text } => text.clone(),
        };
        parts.iter().map(text).collect()
    };
    for item in output {
        match item {
            OutputItem::Reasoning { content, .. } => add_thought(text(content), messages),
            OutputItem::Message { content, .. } => add_answer(text(content), messages),
            OutputItem::FunctionCall { call_id, name, namespace, arguments, .. } => {
                let name = function_name(namespace.as_deref(), name);
                add_call(ToolCall::function(Some(call_id.clone()), name, arguments.clone()), messages);
            }
            OutputItem::CustomToolCall { call_id, name, namespace, input, .. } => {
                let name = function_name(namespace.as_deref(), name);
                add_call(ToolCall::function(Some(call_id.clone()), name, text_arguments(input)), messages);
            }
        }
    }
}

fn add_thought(thought: String, messages: &mut Vec<ChatMessage>) {
    if !thought.is_empty() {
        messages.push(ChatMessage { reasoning_content: Some(thought), ..ChatMessage::new(Role::Assistant, None) });
    }
}

/// A thought and what was said after it are one message.
fn add_answer(text: String, messages: &mut Vec<ChatMessage>) {
    let is_open =
        |last: &&mut ChatMessage| last.role == Role::Assistant && last.content.is_none() && last.tool_calls.is_none();
    match messages.last_mut().filter(is_open) {
        Some(last) => last.content = Some(text.into()),
        None => messages.push(ChatMessage::new(Role::Assistant, Some(text.into()))),
    }
}

/// Calls belong to what the assistant said before them.
fn add_call(call: ToolCall, messages: &mut Vec<ChatMessage>) {
    if messages.last().is_none_or(|last| last.role != Role::Assistant) {
        messages.push(ChatMessage::new(Role::Assistant, None));
    }
    let message = messages.last_mut().expect("there is one now");
    message.tool_calls.get_or_insert_default().push(call);
}

fn text(content: ItemText, path: &str) -> Result<String, ApiError> {
    let parts = match content {
        ItemText::Text(text) => return Ok(text),
        ItemText::Parts(parts) => parts,
    };
    let mut whole = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let ItemPart { kind, text, refusal, stdout, stderr } = part;
        let field = |field: &str| format!("{path}[{index}].{field}");
        let found = match kind.as_deref() {
            Some("text" | "input_text" | "output_text" | "reasoning_text" | "summary_text") => text,
            Some("refusal") => refusal,
            Some(kind) => {
                let message = format!("parts of type {:?} are not supported here", echo(kind));
                return Err(ApiError::invalid(field("type"), message));
            }
            None if stdout.is_some() || stderr.is_some() => {
                Some(stdout.unwrap_or_default() + &stderr.unwrap_or_default())
            }
            None => return Err(ApiError::invalid(field("type"), "is required")),
        };
        whole.push_str(&found.ok_or_else(|| ApiError::invalid(field("text"), "is required"))?);
    }
    Ok(whole)
}
