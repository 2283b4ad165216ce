//! `/v1/responses`: translated to a chat request and back.

mod answer;
pub mod compact;
mod items;
mod request;
pub mod socket;
mod tools;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_protocol::responses::{
    DeletedResponse, InputItemList, InputTokens, ResponseObject, ResponseStatus, ResponsesTool,
};
use moesaic_protocol::{ErrorResponse, ResponsesRequest};
use serde_json::{Value, json};

use crate::api::chat::answer::ChatAnswer;
use crate::api::pipeline::{self, Incoming};
use crate::api::responses::answer::{Keep, ResponseAnswer};
use crate::api::responses::request::{Asker, FIELDS, Translated, Translation, check};
use crate::api::responses::tools::OfferedTools;
use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::event_stream::{self, StreamedAnswer};
use crate::extract::{ApiPath, SizedJson};
use crate::generation::Generation;
use crate::request_id::RequestId;
use crate::state::AppState;

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
    let (answer, generation) = Box::pin(begin(&state, Asker::client(client), id, request, num_bytes)).await?;
    if answer.settings().stream {
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

/// How many tokens the prompt of a response would have.
#[utoipa::path(post, path = "/v1/responses/input_tokens", request_body = ResponsesRequest, responses(
    (status = 200, description = "The count", body = InputTokens),
    (status = "4XX", description = "The request is wrong", body = ErrorResponse),
    (status = "5XX", description = "Still loading", body = ErrorResponse),
))]
pub async fn count_input_tokens(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    SizedJson(request, num_bytes): SizedJson<ResponsesRequest>,
) -> Result<Json<InputTokens>, ApiError> {
    let Translated { tools, chat, .. } = translate(&state, Asker::client(client), request, num_bytes).await?;
    let prompt = pipeline::prompt(&state, &chat, FIELDS).await;
    let prompt = prompt.map_err(|error| error.at_own_places("tools", &tools.places))?;
    Ok(Json(InputTokens { object: "response.input_tokens".to_owned(), input_tokens: prompt.len() }))
}

/// What a stored response was the answer to.
#[utoipa::path(get, path = "/v1/responses/{id}/input_items", params(
    ("id" = String, Path, description = "Its id"),
    ("order" = Option<String>, Query, description = "desc (default), the last first, or asc"),
    ("after" = Option<String>, Query, description = "Items behind the one of this id"),
    ("limit" = Option<u32>, Query, description = "At most so many, 1 to 100 (default 20)"),
), responses(
    (status = 200, description = "The items", body = InputItemList),
    (status = "4XX", description = "There is none", body = ErrorResponse),
))]
pub async fn input_items(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    ApiPath(id): ApiPath<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<InputItemList>, ApiError> {
    let mut items = state.responses.input_items(client, &id).ok_or_else(|| ApiError::response_not_found(&id))?;
    match query.get("order").map(String::as_str) {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return Err(ApiError::invalid("order", "must be \"asc\" or \"desc\"")),
    }
    let limit = query.get("limit").map_or(Ok(20), |limit| limit.parse());
    let limit = limit.ok().filter(|limit| (1..=100).contains(limit));
    let limit = limit.ok_or_else(|| ApiError::invalid("limit", "must be 1 to 100"))?;
    if let Some(after) = query.get("after") {
        let at = items.iter().position(|item| item["id"] == **after);
        let at = at.ok_or_else(|| ApiError::invalid("after", "names no item of this response"))?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
    let (first_id, last_id) = (id_of(items.first()), id_of(items.last()));
    Ok(Json(InputItemList { object: "list".to_owned(), data: items, first_id, last_id, has_more }))
}

/// Submits a request of `num_bytes`. What it holds meanwhile belongs into a box.
async fn begin(
    state: &AppState,
    asker: Asker,
    id: String,
    request: ResponsesRequest,
    num_bytes: usize,
) -> Result<(ResponseAnswer, Generation), ApiError> {
    let arrived = Instant::now();
    let client = asker.owner.client;
    let Translated { request, items, conversation, mut tools, mut chat } =
        translate(state, asker, request, num_bytes).await?;
    if asker.warms_up {
        // No token comes without another one: this one is not told.
        (chat.max_completion_tokens, chat.sampling.min_tokens) = (Some(1), None);
    }
    let seals = request.includes("reasoning.encrypted_content");
    let (inputs, truncates) = (std::mem::take(&mut tools.inputs), request.truncation.as_deref() == Some("auto"));
    let incoming = Incoming { request: &chat, fields: FIELDS, client, id, arrived, inputs, truncates };
    let begun = pipeline::begin(state, incoming).await;
    let (answer, generation) = begun.map_err(|error| error.at_own_places("tools", &tools.places))?;
    let response = beginning(request, &answer, &tools);
    let owner = if response.store { client.into() } else { asker.owner };
    let is_kept = response.store || owner.connection.is_some();
    let keep = is_kept.then(|| Keep { state: Arc::clone(state), owner, conversation, items });
    let seal = seals.then(|| state.sealer.bound_to(client, &answer.serving.model_names[0]));
    Ok((ResponseAnswer::new(answer, response, keep, tools).sealing_thoughts(seal), generation))
}

/// Checks a request of `num_bytes` and translates it to a chat request, off the async threads.
async fn translate(
    state: &AppState,
    asker: Asker,
    request: ResponsesRequest,
    num_bytes: usize,
) -> Result<Translated, ApiError> {
    check(&request, &state.config.limits)?;
    let translation = Translation { state: Arc::clone(state), asker };
    state.lanes.work(num_bytes, move || translation.translate(request)).await?
}

/// The response at its beginning.
fn beginning(request: ResponsesRequest, answer: &ChatAnswer, tools: &OfferedTools) -> ResponseObject {
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
        tools: tools.remaining.iter().map(ResponsesTool::shown).collect(),
        tool_choice: request.tool_choice.unwrap_or_else(|| "auto".into()),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        text: text_settings,
        reasoning: request.reasoning.unwrap_or_default(),
        truncation: request.truncation.unwrap_or_else(|| "disabled".to_owned()),
        dropped_turns: Some(answer.dropped_turns).filter(|dropped| *dropped > 0),
        presence_penalty: answer.sampling.params.presence_penalty,
        frequency_penalty: answer.sampling.params.frequency_penalty,
        max_tool_calls: request.max_tool_calls,
        service_tier: "default".to_owned(),
        safety_identifier: request.safety_identifier,
        prompt_cache_key: request.prompt_cache_key,
        metadata: request.metadata.unwrap_or_default(),
        user: request.user,
        system_fingerprint: answer.serving.fingerprint.clone(),
        status: ResponseStatus::InProgress,
        ..ResponseObject::default()
    }
}
