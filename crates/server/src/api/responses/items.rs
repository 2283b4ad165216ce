//! Items of the Responses API as chat messages.

use moesaic_protocol::{InputItem, ItemPart, ItemText, OutputItem};
use serde_json::{Value, json};

use crate::error::{ApiError, echo};

/// Adds an item of a request to chat messages. `path` names it in errors.
///
/// # Errors
/// When the item is of a kind that is not served, or lacks something.
pub fn add_item(item: InputItem, path: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let needed = |value: Option<String>, field: &str| {
        value.ok_or_else(|| ApiError::invalid(format!("{path}.{field}"), "is required"))
    };
    match item.kind.as_deref().unwrap_or("message") {
        "message" => {
            let role = needed(item.role, "role")?;
            let content = item.content.ok_or_else(|| ApiError::invalid(format!("{path}.content"), "is required"))?;
            let content = text(content, &format!("{path}.content"))?;
            match role.as_str() {
                "assistant" => {
                    // A thought and what was said after it are one message.
                    match messages.last_mut().filter(|last| last["role"] == "assistant" && last["content"].is_null()) {
                        Some(last) if last["tool_calls"].is_null() => last["content"] = content.into(),
                        _ => messages.push(json!({"role": role, "content": content})),
                    }
                }
                "user" | "system" | "developer" => messages.push(json!({"role": role, "content": content})),
                _ => {
                    let message = "must be \"user\", \"assistant\", \"system\" or \"developer\"";
                    return Err(ApiError::invalid(format!("{path}.role"), message));
                }
            }
        }
        "reasoning" => {
            let (content, summary) = (item.content, item.summary);
            let mut thought = content.map_or(Ok(String::new()), |part| text(part, &format!("{path}.content")))?;
            if thought.is_empty() {
                thought = summary.map_or(Ok(String::new()), |part| text(part, &format!("{path}.summary")))?;
            }
            if !thought.is_empty() {
                messages.push(json!({"role": "assistant", "reasoning_content": thought}));
            }
        }
        "function_call" => {
            let (name, arguments) = (needed(item.name, "name")?, needed(item.arguments, "arguments")?);
            let id = needed(item.call_id, "call_id")?;
            let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
            if messages.last().is_none_or(|last| last["role"] != "assistant") {
                messages.push(json!({"role": "assistant"}));
            }
            let message = messages.last_mut().expect("there is one now");
            match message["tool_calls"].as_array_mut() {
                Some(calls) => calls.push(call),
                None => message["tool_calls"] = vec![call].into(),
            }
        }
        "function_call_output" => {
            let id = needed(item.call_id, "call_id")?;
            let output = item.output.ok_or_else(|| ApiError::invalid(format!("{path}.output"), "is required"))?;
            let output = text(output, &format!("{path}.output"))?;
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
        }
        kind => {
            let message = format!("items of type {:?} are not supported here", echo(kind));
            return Err(ApiError::invalid(format!("{path}.type"), message));
        }
    }
    Ok(())
}

/// Adds what a response said to chat messages.
pub fn add_output(output: &[OutputItem], messages: &mut Vec<Value>) {
    for item in output {
        let item = serde_json::to_value(item).and_then(serde_json::from_value).expect("output can be input");
        add_item(item, "output", messages).expect("own items are served");
    }
}

fn text(content: ItemText, path: &str) -> Result<String, ApiError> {
    let parts = match content {
        ItemText::Text(text) => return Ok(text),
        ItemText::Parts(parts) => parts,
    };
    let mut whole = String::new();
    for (index, ItemPart { kind, text, refusal }) in parts.into_iter().enumerate() {
        let known = matches!(kind.as_str(), "text" | "input_text" | "output_text" | "reasoning_text" | "summary_text");
        match (if kind == "refusal" { refusal } else { text.filter(|_| known) }, known || kind == "refusal") {
            (Some(part), _) => whole.push_str(&part),
            (None, true) => return Err(ApiError::invalid(format!("{path}[{index}].text"), "is required")),
            (None, false) => {
                let message = format!("parts of type {:?} are not supported here", echo(&kind));
                return Err(ApiError::invalid(format!("{path}[{index}].type"), message));
            }
        }
    }
    Ok(whole)
}
