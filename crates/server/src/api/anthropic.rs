//! `POST /v1/messages` and `POST /v1/messages/count_tokens`, as Anthropic's clients know them: translated to a chat
//! request and back.

mod answer;

use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_protocol::{
    ChatRequest, FromJson, InputContent, InputMessage, InputRole, MessageResponse, MessagesError, MessagesRequest,
    TokenCount,
};
use serde_json::{Map, Value, json};

use crate::api::anthropic::answer::MessageAnswer;
use crate::api::pipeline;
use crate::auth::ClientKey;
use crate::error::{ApiError, echo};
use crate::event_stream;
use crate::extract::SizedJson;
use crate::request_id::RequestId;
use crate::state::AppState;

/// Where these routes begin.
pub const PATH: &str = "/v1/messages";

/// Answers a conversation in Anthropic's shape.
#[utoipa::path(
    post,
    path = "/v1/messages",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer, or with stream: true a stream of events", content(
            (MessageResponse = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "4XX", description = "The request is wrong or may not be served", body = MessagesError),
        (status = "5XX", description = "The server cannot serve it now", body = MessagesError),
    )
)]
pub async fn messages(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    Extension(RequestId(id)): Extension<RequestId>,
    SizedJson(request, num_bytes): SizedJson<MessagesRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    if request.max_tokens.is_none() {
        return Err(ApiError::invalid("max_tokens", "is required"));
    }
    let chat = state.work(num_bytes, move || chat_request(request)).await??;
    let (answer, generation) = pipeline::begin(&state, client, id.clone(), arrived, &chat).await?;
    let streams = answer.settings.stream;
    let answer = MessageAnswer::new(format!("msg_{id}"), answer);
    if streams {
        return Ok(event_stream::respond(answer, generation, &state));
    }
    Ok(Json(answer.whole(generation).await?).into_response())
}

/// Counts the tokens of a prompt.
#[utoipa::path(post, path = "/v1/messages/count_tokens", request_body = MessagesRequest, responses(
    (status = 200, description = "The count", body = TokenCount),
    (status = "4XX", description = "The request is wrong or may not be served", body = MessagesError),
    (status = "5XX", description = "The server cannot serve it now", body = MessagesError),
))]
pub async fn count_tokens(
    State(state): State<AppState>,
    SizedJson(request, num_bytes): SizedJson<MessagesRequest>,
) -> Result<Json<TokenCount>, ApiError> {
    let chat = state.work(num_bytes, move || chat_request(request)).await??;
    let prompt = pipeline::prompt(&state, &chat).await?;
    Ok(Json(TokenCount { input_tokens: prompt.len() as u32 }))
}

/// Gives errors of these routes Anthropic's shape, whatever part of the server they come from.
pub async fn error_layer(request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with(PATH) {
        return next.run(request).await;
    }
    let response = next.run(request).await;
    let Some(error) = response.extensions().get::<ApiError>() else { return response };
    let (mut parts, body) = (response.headers().clone(), Json(error.to_messages_body()));
    let mut shaped = (response.status(), body).into_response();
    for name in ["content-length", "content-type"] {
        parts.remove(name);
    }
    shaped.headers_mut().extend(parts);
    shaped
}

fn chat_request(request: MessagesRequest) -> Result<ChatRequest, ApiError> {
    let mut chat = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            chat.insert(key.to_owned(), value);
        }
    };
    set("model", request.model.map(Value::from));
    set("max_tokens", request.max_tokens.map(Value::from));
    set("temperature", request.temperature.map(Value::from));
    set("top_p", request.top_p.map(Value::from));
    set("top_k", request.top_k.map(Value::from));
    set("stream", request.stream.map(Value::from));
    set("stop", request.stop_sequences.filter(|stops| !stops.is_empty()).map(Value::from));
    if let Some(thinking) = &request.thinking {
        let thinks = match thinking.kind.as_str() {
            "enabled" | "adaptive" => true,
            "disabled" => false,
            _ => return Err(ApiError::invalid("thinking.type", "must be \"enabled\", \"adaptive\" or \"disabled\"")),
        };
        set("reasoning_effort", Some(if thinks { "high" } else { "none" }.into()));
        set("thinking_token_budget", thinking.budget_tokens.filter(|_| thinks).map(Value::from));
    }
    if let Some(format) = request.output_config.and_then(|config| config.format) {
        let schema = json!({"name": "output", "schema": format.schema});
        set("response_format", Some(json!({"type": format.kind, "json_schema": schema})));
    }
    let tools = request.tools.unwrap_or_default();
    if let Some(index) = tools.iter().position(|tool| tool.kind.as_deref().is_some_and(|kind| kind != "custom")) {
        return Err(ApiError::invalid(format!("tools[{index}].type"), "only custom tools are supported"));
    }
    if !tools.is_empty() {
        let tool = |tool: &moesaic_protocol::InputTool| {
            let mut function = json!({"name": tool.name});
            if let Some(description) = &tool.description {
                function["description"] = description.clone().into();
            }
            function["parameters"] = tool.input_schema.clone().unwrap_or_else(|| json!({"type": "object"}));
            json!({"type": "function", "function": function})
        };
        set("tools", Some(tools.iter().map(tool).collect()));
    }
    if let Some(choice) = request.tool_choice {
        set(
            "tool_choice",
            Some(match (choice.kind.as_str(), choice.name) {
                ("auto", _) => "auto".into(),
                ("any", _) => "required".into(),
                ("none", _) => "none".into(),
                ("tool", Some(name)) => json!({"type": "function", "function": {"name": name}}),
                _ => {
                    return Err(ApiError::invalid(
                        "tool_choice",
                        "must be of type \"auto\", \"any\", \"none\", or \"tool\" with a name",
                    ));
                }
            }),
        );
        set("parallel_tool_calls", Some((!choice.disable_parallel_tool_use.unwrap_or(false)).into()));
    }
    let continues = request.messages.last().is_some_and(|message| message.role == InputRole::Assistant);
    set("continue_final_message", continues.then_some(true.into()));
    let mut messages: Vec<Value> = Vec::new();
    if let Some(system) = &request.system {
        messages.push(json!({"role": "system", "content": text(system, "system")?}));
    }
    for (index, message) in request.messages.into_iter().enumerate() {
        add(message, &format!("messages[{index}].content"), &mut messages)?;
    }
    set("messages", Some(messages.into()));
    Ok(ChatRequest::from_json(Value::from(chat).to_string().as_bytes())?)
}

fn unsupported(path: &str, index: usize, kind: &str) -> ApiError {
    ApiError::invalid(format!("{path}[{index}]"), format!("blocks of type {:?} are not supported here", echo(kind)))
}

/// The text of content that may hold nothing else.
fn text(content: &InputContent, path: &str) -> Result<String, ApiError> {
    match content {
        InputContent::Text(text) => Ok(text.clone()),
        InputContent::Blocks(blocks) => {
            let mut texts = Vec::new();
            for (index, block) in blocks.iter().enumerate() {
                match (block.kind.as_str(), &block.text) {
                    ("text", Some(text)) => texts.push(text.as_str()),
                    (kind, _) => return Err(unsupported(path, index, kind)),
                }
            }
            Ok(texts.join("\n"))
        }
    }
}

/// One message becomes one or, with results of tools, several.
fn add(message: InputMessage, path: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = if message.role == InputRole::User { "user" } else { "assistant" };
    let blocks = match message.content {
        InputContent::Text(text) => {
            messages.push(json!({"role": role, "content": text}));
            return Ok(());
        }
        InputContent::Blocks(blocks) => blocks,
    };
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks.into_iter().enumerate() {
        match (block.kind.as_str(), message.role) {
            ("text", _) => texts.push(block.text.unwrap_or_default()),
            ("thinking", InputRole::Assistant) => thoughts.push(block.thinking.unwrap_or_default()),
            ("redacted_thinking", InputRole::Assistant) => {}
            ("tool_use", InputRole::Assistant) => {
                let arguments = block.input.unwrap_or_else(|| json!({})).to_string();
                let function = json!({"name": block.name.unwrap_or_default(), "arguments": arguments});
                calls.push(json!({"id": block.id, "type": "function", "function": function}));
            }
            ("tool_result", InputRole::User) => {
                let content =
                    block.content.map_or(Ok(String::new()), |c| text(&c, &format!("{path}[{index}].content")))?;
                messages.push(json!({"role": "tool", "tool_call_id": block.tool_use_id, "content": content}));
            }
            (kind, _) => return Err(unsupported(path, index, kind)),
        }
    }
    let mut whole = json!({"role": role});
    if !texts.is_empty() {
        whole["content"] = texts.join("\n").into();
    }
    if !thoughts.is_empty() {
        whole["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        whole["tool_calls"] = calls.into();
    }
    if whole.as_object().is_some_and(|fields| fields.len() > 1) {
        messages.push(whole);
    }
    Ok(())
}
