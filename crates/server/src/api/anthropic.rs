//! `POST /v1/messages` and `POST /v1/messages/count_tokens`, as Anthropic's clients know them: translated to a chat
//! request and back.

mod answer;
mod content;
pub mod models;
mod request;
mod tools;

use std::collections::HashMap;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_protocol::MessagesRequest;
use moesaic_protocol::anthropic::{MessageResponse, MessagesError, TokenCount};

use crate::api::anthropic::answer::MessageAnswer;
use crate::api::anthropic::request::{FIELDS, translate};
use crate::api::pipeline::{self, Incoming};
use crate::auth::ClientKey;
use crate::error::ApiError;
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
    if request.compaction.is_some() {
        return Err(ApiError::invalid("compaction", "is not supported here: ask for a summary with a message"));
    }
    let translation = state.lanes.work(num_bytes, move || translate(request)).await??;
    let incoming = Incoming {
        request: &translation.chat,
        fields: FIELDS,
        client,
        id: id.clone(),
        arrived,
        inputs: HashMap::new(),
        truncates: false,
    };
    let begun = pipeline::begin(&state, incoming).await;
    let (answer, generation) = begun.map_err(|error| translation.own_error(error))?;
    let streams = answer.settings.stream;
    let answer = MessageAnswer::new(format!("msg_{id}"), answer, translation.omits_thoughts);
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
    let translation = state.lanes.work(num_bytes, move || translate(request)).await??;
    let prompt = pipeline::prompt(&state, &translation.chat, FIELDS).await;
    let prompt = prompt.map_err(|error| translation.own_error(error))?;
    Ok(Json(TokenCount { input_tokens: prompt.len() as u32 }))
}

/// Gives errors of these routes, and of models for Anthropic's clients, Anthropic's shape, whatever part of the server they
/// come from.
pub async fn error_layer(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_model = path.starts_with(models::PATH) && models::is_for_anthropic(request.headers());
    if !path.starts_with(PATH) && !is_model {
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
