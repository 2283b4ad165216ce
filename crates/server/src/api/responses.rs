//! `/v1/responses`: translated to a chat request and back.

mod answer;
mod items;
mod request;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_protocol::responses::{DeletedResponse, ResponseObject, ResponseStatus};
use moesaic_protocol::{ErrorResponse, ResponsesRequest};
use serde_json::json;

use crate::api::chat::answer::ChatAnswer;
use crate::api::pipeline::{self, Incoming};
use crate::api::responses::answer::{Keep, ResponseAnswer};
use crate::api::responses::request::{FIELDS, Translation, check};
use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::event_stream;
use crate::extract::{ApiPath, SizedJson};
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
    let arrived = Instant::now();
    check(&request, &state.config.limits)?;
    let translation = Translation { state: Arc::clone(&state), client };
    let (request, conversation, chat) = state.work(num_bytes, move || translation.translate(request)).await??;
    let incoming = Incoming { request: &chat, fields: FIELDS, client, id, arrived };
    let (answer, generation) = pipeline::begin(&state, incoming).await?;
    let streams = answer.settings.stream;
    let response = beginning(request, &answer);
    let keep = response.store.then(|| Keep { state: Arc::clone(&state), client, conversation });
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
