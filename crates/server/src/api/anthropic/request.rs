//! A request for a message, as a chat request.

use moesaic_protocol::anthropic::{
    InputContent, InputMessage, InputRole, InputThinking, InputTool, InputToolChoice, OutputFormat,
};
use moesaic_protocol::{
    ChatMessage, ChatRequest, FormatFields, MessagesRequest, Role, SamplingFields, StopSequences, ToolCall,
};
use serde_json::{Value, json};

use crate::error::{ApiError, echo};
use crate::field::Field;

/// What the fields of the chat request are called here.
pub const FIELDS: &[Field] = &[
    // Instructions and results of tools are messages of their own there, so places differ.
    Field::whole("messages", "messages"),
    Field::whole("continue_final_message", "messages"),
    Field::new("stop", "stop_sequences"),
    Field::new("reasoning_effort", "thinking.type"),
    Field::new("thinking_token_budget", "thinking.budget_tokens"),
    Field::new("response_format.json_schema", "output_config.format"),
    Field::new("response_format", "output_config.format"),
    Field::new("tools[].function.parameters", "tools[].input_schema"),
    Field::new("tools[].function", "tools[]"),
    Field::new("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
];

/// Translates the request.
///
/// # Errors
/// When it holds what is not served.
pub fn chat_request(request: MessagesRequest) -> Result<ChatRequest, ApiError> {
    let continues = request.messages.last().is_some_and(|message| message.role == InputRole::Assistant);
    let format = request.output_config.and_then(|config| config.format);
    let response_format = format.map(response_format).transpose()?;
    let mut chat = ChatRequest {
        model: request.model,
        max_tokens: request.max_tokens,
        continue_final_message: continues.then_some(true),
        sampling: SamplingFields {
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k.map(i64::from),
            stop: request.stop_sequences.filter(|stops| !stops.is_empty()).map(StopSequences::Many),
            stream: request.stream,
            ..SamplingFields::default()
        },
        format: FormatFields { response_format, ..FormatFields::default() },
        ..ChatRequest::default()
    };
    if let Some(InputThinking { kind, budget_tokens }) = request.thinking {
        let thinks = match kind.as_str() {
            "enabled" | "adaptive" => true,
            "disabled" => false,
            _ => return Err(ApiError::invalid("thinking.type", "must be \"enabled\", \"adaptive\" or \"disabled\"")),
        };
        chat.reasoning_effort = Some(if thinks { "high" } else { "none" }.to_owned());
        chat.thinking_token_budget = budget_tokens.filter(|_| thinks);
    }
    chat.tools = tools(request.tools.unwrap_or_default())?;
    if let Some(choice) = request.tool_choice {
        chat.parallel_tool_calls = Some(!choice.disable_parallel_tool_use.unwrap_or(false));
        chat.tool_choice = Some(tool_choice(choice)?);
    }
    if let Some(system) = request.system {
        chat.messages.push(ChatMessage::new(Role::System, Some(text(system, "system")?.into())));
    }
    for (index, message) in request.messages.into_iter().enumerate() {
        add(message, &format!("messages[{index}].content"), &mut chat.messages)?;
    }
    Ok(chat)
}

fn response_format(format: OutputFormat) -> Result<Value, ApiError> {
    if format.kind != "json_schema" {
        return Err(ApiError::invalid("output_config.format.type", "must be \"json_schema\""));
    }
    Ok(json!({"type": "json_schema", "json_schema": {"name": "output", "schema": format.schema}}))
}

fn tools(tools: Vec<InputTool>) -> Result<Option<Vec<Value>>, ApiError> {
    if let Some(index) = tools.iter().position(|tool| tool.kind.as_deref().is_some_and(|kind| kind != "custom")) {
        return Err(ApiError::invalid(format!("tools[{index}].type"), "only custom tools are supported"));
    }
    let tool = |tool: InputTool| {
        let mut function = json!({"name": tool.name});
        if let Some(description) = tool.description {
            function["description"] = description.into();
        }
        function["parameters"] = tool.input_schema.unwrap_or_else(|| json!({"type": "object"}));
        json!({"type": "function", "function": function})
    };
    Ok(Some(tools.into_iter().map(tool).collect()).filter(|tools: &Vec<Value>| !tools.is_empty()))
}

fn tool_choice(choice: InputToolChoice) -> Result<Value, ApiError> {
    Ok(match (choice.kind.as_str(), choice.name) {
        ("auto", _) => "auto".into(),
        ("any", _) => "required".into(),
        ("none", _) => "none".into(),
        ("tool", Some(name)) => json!({"type": "function", "function": {"name": name}}),
        _ => {
            let message = "must be of type \"auto\", \"any\", \"none\", or \"tool\" with a name";
            return Err(ApiError::invalid("tool_choice", message));
        }
    })
}

fn unsupported(path: &str, index: usize, kind: &str) -> ApiError {
    ApiError::invalid(format!("{path}[{index}]"), format!("blocks of type {:?} are not supported here", echo(kind)))
}

fn needed(value: Option<String>, path: &str, index: usize, field: &str) -> Result<String, ApiError> {
    value.ok_or_else(|| ApiError::invalid(format!("{path}[{index}].{field}"), "is required"))
}

/// The text of content that may hold nothing else.
fn text(content: InputContent, path: &str) -> Result<String, ApiError> {
    match content {
        InputContent::Text(text) => Ok(text),
        InputContent::Blocks(blocks) => {
            let mut texts = Vec::new();
            for (index, block) in blocks.into_iter().enumerate() {
                match block.kind.as_str() {
                    "text" => texts.push(needed(block.text, path, index, "text")?),
                    kind => return Err(unsupported(path, index, kind)),
                }
            }
            Ok(texts.join("\n"))
        }
    }
}

/// One message becomes one or, with results of tools, several.
fn add(message: InputMessage, path: &str, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let role = if message.role == InputRole::User { Role::User } else { Role::Assistant };
    let blocks = match message.content {
        InputContent::Text(text) => {
            messages.push(ChatMessage::new(role, Some(text.into())));
            return Ok(());
        }
        InputContent::Blocks(blocks) if blocks.is_empty() && message.role == InputRole::User => {
            return Err(ApiError::invalid(path, "must hold at least one block"));
        }
        InputContent::Blocks(blocks) => blocks,
    };
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks.into_iter().enumerate() {
        match (block.kind.as_str(), message.role) {
            ("text", _) => texts.push(needed(block.text, path, index, "text")?),
            ("thinking", InputRole::Assistant) => thoughts.push(needed(block.thinking, path, index, "thinking")?),
            ("redacted_thinking", InputRole::Assistant) => {}
            ("tool_use", InputRole::Assistant) => {
                let arguments = block.input.unwrap_or_else(|| json!({})).to_string();
                let name = needed(block.name, path, index, "name")?;
                calls.push(ToolCall::function(block.id, name, arguments));
            }
            ("tool_result", InputRole::User) => {
                let content = block
                    .content
                    .map_or(Ok(String::new()), |content| text(*content, &format!("{path}[{index}].content")))?;
                let result = ChatMessage::new(Role::Tool, Some(content.into()));
                messages.push(ChatMessage { tool_call_id: block.tool_use_id, ..result });
            }
            (kind, _) => return Err(unsupported(path, index, kind)),
        }
    }
    if texts.is_empty() && thoughts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let joined = |texts: Vec<String>| (!texts.is_empty()).then(|| texts.join("\n"));
    messages.push(ChatMessage {
        reasoning_content: joined(thoughts),
        tool_calls: (!calls.is_empty()).then_some(calls),
        ..ChatMessage::new(role, joined(texts).map(Into::into))
    });
    Ok(())
}
