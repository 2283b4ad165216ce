//! `POST /v1/chat/completions`

pub mod answer;
pub mod request;

use std::collections::HashMap;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_protocol::{ChatChunk, ChatCompletion, ChatRequest, ErrorResponse};

use crate::api::pipeline::{self, Incoming};
use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::event_stream;
use crate::extract::ApiJson;
use crate::request_id::RequestId;
use crate::state::AppState;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer, or with stream: true a stream of chunks", content(
            (ChatCompletion = "application/json"),
            (ChatChunk = "text/event-stream"),
        )),
        (status = "4XX", description = "The request is wrong or may not be served", body = ErrorResponse),
        (status = "5XX", description = "The server cannot serve it now", body = ErrorResponse),
    )
)]
pub async fn chat_completions(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    Extension(RequestId(id)): Extension<RequestId>,
    ApiJson(request): ApiJson<ChatRequest>,
) -> Result<Response, ApiError> {
    let incoming = Incoming {
        request: &request,
        fields: &[],
        client,
        id,
        arrived: Instant::now(),
        inputs: HashMap::new(),
        truncates: false,
    };
    let (answer, generation) = pipeline::begin(&state, incoming).await?;
    if answer.settings.stream {
        return Ok(event_stream::respond(answer, generation, &state));
    }
    Ok(Json(answer.whole(generation).await?).into_response())
}
