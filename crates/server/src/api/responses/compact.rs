//! `/v1/responses/compact`: a summary in the place of a conversation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::{Extension, Json};
use moesaic_protocol::responses::{CompactedResponse, CompactionItem, ResponsesInput};
use moesaic_protocol::{ChatMessage, ChatRequest, ErrorResponse, ResponsesRequest, Role};

use crate::api::pipeline::{self, Incoming};
use crate::api::responses::answer::counts;
use crate::api::responses::items::summary_message;
use crate::api::responses::request::{Asker, FIELDS, Translation, check};
use crate::auth::ClientKey;
use crate::clock::unix_now;
use crate::error::ApiError;
use crate::extract::SizedJson;
use crate::request_id::RequestId;
use crate::sealed::Sealed;
use crate::state::AppState;

/// Most tokens of a summary.
const MAX_SUMMARY_TOKENS: usize = 2048;

const WISH: &str = "Summarise our conversation so that you could go on with nothing but the summary: what I asked for, \
    what was decided and done, the names, numbers, paths and results that matter, and what is still open. \
    Write the summary only.";

/// Summarises a conversation. The item, sent in its place, costs fewer tokens.
#[utoipa::path(post, path = "/v1/responses/compact", request_body = ResponsesRequest, responses(
    (status = 200, description = "The item", body = CompactedResponse),
    (status = "4XX", description = "The request is wrong or may not be served", body = ErrorResponse),
    (status = "5XX", description = "The server cannot serve it now", body = ErrorResponse),
))]
pub async fn compact_response(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    Extension(RequestId(id)): Extension<RequestId>,
    SizedJson(request, num_bytes): SizedJson<ResponsesRequest>,
) -> Result<Json<CompactedResponse>, ApiError> {
    let arrived = Instant::now();
    if request.model.is_none() {
        return Err(ApiError::invalid("model", "is required"));
    }
    check(&request, &state.config.limits)?;
    let serving = Arc::clone(state.serving()?);
    // What is not of the conversation says nothing here.
    let mut request = ResponsesRequest { tools: None, tool_choice: None, store: Some(false), ..request };
    if request.previous_response_id.is_some() {
        request.input.get_or_insert_with(|| ResponsesInput::Items(Vec::new()));
    }
    let model = request.model.clone();
    let chat = |messages| ChatRequest { model: model.clone(), messages, ..ChatRequest::default() };
    let translation = Translation { state: Arc::clone(&state), asker: Asker::client(client) };
    let translated = state.lanes.work(num_bytes, move || translation.translate(request)).await??;
    let mut messages = translated.chat.messages;
    let instructions = messages[..messages.len() - translated.conversation.len()].to_vec();
    let replaced = num_tokens(&state, &chat(messages.clone())).await?;
    let bound = MAX_SUMMARY_TOKENS.min(serving.max_model_len / 4).min(replaced / 2).max(1);
    messages.push(ChatMessage::new(Role::User, Some(WISH.to_owned().into())));
    let asked =
        ChatRequest { max_completion_tokens: Some(bound as u32), thinking_token_budget: Some(0), ..chat(messages) };
    let inputs = HashMap::new();
    let incoming = Incoming { request: &asked, fields: FIELDS, client, id, arrived, inputs, truncates: true };
    let (_, mut generation) = pipeline::begin(&state, incoming).await?;
    let mut summary = String::new();
    while let Some(delta) = generation.next().await? {
        summary.push_str(&delta.text());
    }
    let mut summary = summary.trim().to_owned();
    // It costs fewer tokens than what it replaces, if need be by ending sooner.
    while !summary.is_empty() {
        let messages = instructions.iter().cloned().chain([summary_message(&summary)]).collect();
        if num_tokens(&state, &chat(messages)).await? < replaced {
            break;
        }
        summary = summary.chars().take(summary.chars().count() / 2).collect();
    }
    let seal = state.sealer.bound_to(client, &serving.model_names[0]);
    Ok(Json(CompactedResponse {
        id: format!("resp_{}", uuid::Uuid::new_v4().simple()),
        object: "response.compaction".to_owned(),
        created_at: unix_now(),
        output: vec![CompactionItem {
            kind: "compaction".to_owned(),
            id: format!("cmp_{}", uuid::Uuid::new_v4().simple()),
            encrypted_content: seal.seal(Sealed::Summary, &summary),
        }],
        usage: counts(generation.usage()),
    }))
}

/// The tokens of a conversation; of one that is too long to count, more than any other has.
async fn num_tokens(state: &AppState, conversation: &ChatRequest) -> Result<usize, ApiError> {
    match pipeline::prompt(state, conversation, FIELDS).await {
        Ok(prompt) => Ok(prompt.len()),
        Err(error) if error.code() == Some("context_length_exceeded") => Ok(usize::MAX),
        Err(error) => Err(error),
    }
}
