//! `/v1/responses`: translated to a chat request and back.

mod answer;
mod items;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_protocol::{
    ChatRequest, DeletedResponse, ErrorResponse, FormatFields, FromJson, InputItem, ResponseObject, ResponseStatus,
    ResponsesInput, ResponsesRequest,
};
use serde_json::{Map, Value, json};

use crate::api::chat::answer::ChatAnswer;
use crate::api::pipeline;
use crate::api::responses::answer::{Keep, ResponseAnswer};
use crate::api::responses::items::{add_item, add_output};
use crate::auth::ClientKey;
use crate::error::{ApiError, echo};
use crate::event_stream;
use crate::extract::{ApiPath, SizedJson};
use crate::request_id::RequestId;
use crate::state::{AppState, State as ServerState};

/// Fields of a chat request, and the fields here that they stand for.
const RENAMED: [(&str, &str); 5] = [
    ("messages", "input"),
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
];

/// Answers an input.
#[utoipa::path(
    post,
    path = "/v1/responses",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response, or with stream: true a stream of typed events", content(
            (ResponseObject = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "4XX", description = "The request is wrong or may not be served", body = ErrorResponse),
        (status = "5XX", description = "The server cannot serve it now", body = ErrorResponse),
    )
)]
pub async fn create_response(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    Extension(RequestId(id)): Extension<RequestId>,
    SizedJson(request, num_bytes): SizedJson<ResponsesRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    check(&request, &state)?;
    let translation = Translation { state: Arc::clone(&state), client };
    let (request, conversation, chat) = state.work(num_bytes, move || translation.translate(request)).await??;
    let (answer, generation) =
        pipeline::begin(&state, client, id, arrived, &chat).await.map_err(|error| error.rename(own_name))?;
    let streams = answer.settings.stream;
    let response = beginning(request, &answer);
    let keep = response.store.then(|| Keep { state: Arc::clone(&state), client, conversation, add_items: add_output });
    let answer = ResponseAnswer::new(answer, response, keep);
    if streams {
        return Ok(event_stream::respond(answer, generation, &state));
    }
    let begun = answer.response();
    if begun.background {
        if !answer.keep() {
            return Err(ApiError::invalid("background", "the response does not fit into what may be kept"));
        }
        let begun = begun.clone();
        let task = tokio::spawn(async move { drop(answer.whole(generation).await) });
        state.responses.set_task(&begun.id, task.abort_handle());
        return Ok(Json(begun).into_response());
    }
    Ok(Json(answer.whole(generation).await?).into_response())
}

/// A stored response.
#[utoipa::path(get, path = "/v1/responses/{id}", params(("id" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The response", body = ResponseObject),
    (status = "4XX", description = "There is none", body = ErrorResponse),
))]
pub async fn get_response(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    ApiPath(id): ApiPath<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<ResponseObject>, ApiError> {
    if query.get("stream").is_some_and(|stream| stream != "false") {
        return Err(ApiError::invalid("stream", "a stored response cannot be streamed again"));
    }
    state.responses.get(client, &id).map(Json).ok_or_else(|| ApiError::response_not_found(&id))
}

/// Forgets a stored response.
#[utoipa::path(delete, path = "/v1/responses/{id}", params(("id" = String, Path, description = "Its id")), responses(
    (status = 200, description = "It is gone", body = DeletedResponse),
    (status = "4XX", description = "There is none", body = ErrorResponse),
))]
pub async fn delete_response(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<DeletedResponse>, ApiError> {
    if !state.responses.delete(client, &id) {
        return Err(ApiError::response_not_found(&id));
    }
    Ok(Json(DeletedResponse { id, object: "response".to_owned(), deleted: true }))
}

/// Ends a response that is being generated in the background.
#[utoipa::path(post, path = "/v1/responses/{id}/cancel", params(("id" = String, Path, description = "Its id")), responses(
    (status = 200, description = "The response as it stands", body = ResponseObject),
    (status = "4XX", description = "There is none, or it is not in the background", body = ErrorResponse),
))]
pub async fn cancel_response(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<ResponseObject>, ApiError> {
    let response = state.responses.cancel(client, &id).ok_or_else(|| ApiError::response_not_found(&id))?;
    if !response.background {
        return Err(ApiError::bad_request("Only a response in the background can be cancelled."));
    }
    Ok(Json(response))
}

/// The name here of a field of the chat request.
fn own_name(param: &str) -> String {
    if let Some((tool, field)) = param.strip_prefix("tools").and_then(|rest| rest.split_once(".function")) {
        return format!("tools{tool}{field}");
    }
    match RENAMED.iter().find_map(|(chat, own)| Some((chat, own, param.strip_prefix(chat)?))) {
        // Messages are not counted as items are.
        Some((&"messages", own, _)) => (*own).to_owned(),
        Some((_, own, rest)) => format!("{own}{rest}"),
        None => param.to_owned(),
    }
}

fn check(request: &ResponsesRequest, state: &ServerState) -> Result<(), ApiError> {
    for (name, value) in [("conversation", &request.conversation), ("prompt", &request.prompt)] {
        if value.is_some() {
            return Err(ApiError::invalid(name, "is not supported"));
        }
    }
    if request.sampling.n.is_some_and(|n| n != 1) {
        return Err(ApiError::invalid("n", "a response is one answer"));
    }
    for (name, value) in
        [("max_tokens", &request.max_tokens), ("max_completion_tokens", &request.max_completion_tokens)]
    {
        if value.is_some() {
            return Err(ApiError::invalid(name, "is called max_output_tokens here"));
        }
    }
    if request.format.response_format.is_some() {
        return Err(ApiError::invalid("response_format", "is called text.format here"));
    }
    if let Some(field) = request.unsupported.first() {
        return Err(ApiError::invalid(field, "is not supported"));
    }
    if request.modalities.iter().flatten().any(|modality| modality != "text") {
        return Err(ApiError::invalid("modalities", "only [\"text\"] is supported"));
    }
    if let Some(metadata) = &request.metadata {
        let is_long = |text: &str, limit: usize| text.chars().count() > limit;
        let too_long = metadata.iter().any(|(name, value)| is_long(name, 64) || is_long(value, 512));
        if metadata.len() > 16 || too_long {
            return Err(ApiError::invalid("metadata", "takes 16 texts of 512 characters, under names of 64"));
        }
    }
    if request.truncation.as_deref().is_some_and(|truncation| truncation != "disabled") {
        return Err(ApiError::invalid("truncation", "must be \"disabled\""));
    }
    if request.background == Some(true) {
        let error = |message: &str| Err(ApiError::invalid("background", message));
        if request.store == Some(false) || state.config.limits.response_store_bytes == 0 {
            return error("needs store: it is where the response will be found");
        }
        if request.sampling.stream == Some(true) {
            return error("cannot be combined with stream");
        }
    }
    Ok(())
}

/// What a request is translated with.
struct Translation {
    state: AppState,
    client: ClientKey,
}

impl Translation {
    /// To a chat request; also gives the request without its input, and the conversation, which is kept.
    fn translate(
        &self,
        mut request: ResponsesRequest,
    ) -> Result<(ResponsesRequest, Vec<Value>, ChatRequest), ApiError> {
        let conversation = self.conversation(&mut request)?;
        let chat = chat_request(&request, &conversation)?;
        Ok((request, conversation, chat))
    }

    /// Chat messages up to the response, without the instructions, which are not kept.
    fn conversation(&self, request: &mut ResponsesRequest) -> Result<Vec<Value>, ApiError> {
        let mut messages = Vec::new();
        if let Some(id) = &request.previous_response_id {
            let Some((status, earlier)) = self.state.responses.conversation(self.client, id) else {
                return Err(ApiError::previous_response_not_found(id));
            };
            if !matches!(status, ResponseStatus::Completed | ResponseStatus::Incomplete) {
                return Err(ApiError::invalid("previous_response_id", "names a response that has no answer"));
            }
            messages = earlier;
        }
        match request.input.take() {
            None => return Err(ApiError::invalid("input", "is required")),
            Some(ResponsesInput::Text(text)) => messages.push(json!({"role": "user", "content": text})),
            Some(ResponsesInput::Items(items)) => self.add_items(items, &mut messages)?,
        }
        for message in &mut messages {
            // A thought that nothing followed.
            if message["role"] == "assistant" && message["content"].is_null() && message["tool_calls"].is_null() {
                message["content"] = "".into();
            }
        }
        if messages.is_empty() {
            return Err(ApiError::invalid("input", "must hold at least one item"));
        }
        Ok(messages)
    }

    fn add_items(&self, items: Vec<InputItem>, messages: &mut Vec<Value>) -> Result<(), ApiError> {
        let mut referred = HashSet::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("input[{index}]");
            // A bare id is a reference too, in some clients.
            let refers = match item.kind.as_deref() {
                Some(kind) => kind == "item_reference",
                None => item.role.is_none() && item.id.is_some(),
            };
            if !refers {
                add_item(item, &path, messages)?;
                continue;
            }
            let id = item.id.unwrap_or_default();
            let invalid = |message: &str| ApiError::invalid(format!("{path}.id"), message);
            let found = self.state.responses.item(self.client, &id);
            let found = found.ok_or_else(|| invalid("names no item of a stored response"))?;
            // Each item once: a request cannot stand for more than is stored.
            if !referred.insert(id) {
                return Err(invalid("names an item for the second time"));
            }
            add_output(&[serde_json::from_str(&found).expect("written from the same type")], messages);
        }
        Ok(())
    }
}

fn chat_request(request: &ResponsesRequest, conversation: &[Value]) -> Result<ChatRequest, ApiError> {
    let mut chat = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            chat.insert(key.to_owned(), value);
        }
    };
    set("model", request.model.clone().map(Value::from));
    set("max_completion_tokens", request.max_output_tokens.map(Value::from));
    set("reasoning_effort", request.reasoning.as_ref().and_then(|wanted| wanted.effort.clone()).map(Value::from));
    set("thinking_token_budget", request.thinking_token_budget.map(Value::from));
    set("chat_template_kwargs", request.chat_template_kwargs.clone().map(Value::from));
    let includes = |what: &str| request.include.iter().flatten().any(|included| included == what);
    let wants_logprobs = includes("message.output_text.logprobs") || request.top_logprobs.is_some_and(|top| top > 0);
    set("logprobs", wants_logprobs.then_some(true.into()));
    set("top_logprobs", request.top_logprobs.filter(|_| wants_logprobs).map(Value::from));
    if let Some(format) = request.text.as_ref().and_then(|text| text.format.as_ref()) {
        let is_schema = format["type"] == "json_schema";
        let flat = || json!({"type": "json_schema", "json_schema": format});
        set("response_format", Some(if is_schema { flat() } else { format.clone() }));
    }
    let tools = request.tools.as_deref().unwrap_or_default();
    if let Some(index) = tools.iter().position(|tool| tool.kind != "function") {
        let message = format!("tools of type {:?} are not supported here", echo(&tools[index].kind));
        return Err(ApiError::invalid(format!("tools[{index}].type"), message));
    }
    if !tools.is_empty() {
        let tool = |tool: &moesaic_protocol::ResponsesTool| {
            let mut function = json!({"name": tool.name.clone().unwrap_or_default()});
            for (key, value) in [
                ("description", tool.description.clone().map(Value::from)),
                ("parameters", tool.parameters.clone()),
                ("strict", tool.strict.map(Value::from)),
            ] {
                if let Some(value) = value {
                    function[key] = value;
                }
            }
            json!({"type": "function", "function": function})
        };
        set("tools", Some(tools.iter().map(tool).collect()));
        // Clients send both also where there are no tools.
        set("parallel_tool_calls", request.parallel_tool_calls.map(Value::from));
    }
    set("tool_choice", request.tool_choice.clone());
    let instructions = request.instructions.iter().map(|text| json!({"role": "system", "content": text}));
    set("messages", Some(instructions.chain(conversation.iter().cloned()).collect()));
    let chat = ChatRequest::from_json(Value::from(chat).to_string().as_bytes())
        .map_err(|error| ApiError::from(error).rename(own_name))?;
    let response_format = chat.format.response_format;
    let format = FormatFields { response_format, ..request.format.clone() };
    Ok(ChatRequest { sampling: request.sampling.clone(), format, ..chat })
}

/// The response at its beginning.
fn beginning(request: ResponsesRequest, answer: &ChatAnswer) -> ResponseObject {
    let text = request.text.unwrap_or_default();
    let mut text_settings = json!({"format": text.format.unwrap_or_else(|| json!({"type": "text"}))});
    if let Some(verbosity) = text.verbosity {
        text_settings["verbosity"] = verbosity.into();
    }
    ResponseObject {
        id: format!("resp_{}", uuid::Uuid::new_v4().simple()),
        object: "response".to_owned(),
        created_at: answer.created,
        instructions: request.instructions,
        model: answer.model.clone(),
        previous_response_id: request.previous_response_id,
        background: request.background.unwrap_or(false),
        store: request.store.unwrap_or(true),
        max_output_tokens: request.max_output_tokens,
        temperature: answer.sampling.params.temperature,
        top_p: answer.sampling.params.top_p,
        top_logprobs: request.top_logprobs.unwrap_or(0),
        tools: request.tools.iter().flatten().map(|tool| json!(tool)).collect(),
        tool_choice: request.tool_choice.unwrap_or_else(|| "auto".into()),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        text: text_settings,
        reasoning: request.reasoning.unwrap_or_default(),
        truncation: "disabled".to_owned(),
        metadata: request.metadata.unwrap_or_default(),
        user: request.user,
        system_fingerprint: answer.serving.fingerprint.clone(),
        status: ResponseStatus::InProgress,
        ..ResponseObject::default()
    }
}
