//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use moesaic_chat::PromptOptions;
use moesaic_protocol::{
    DetokenizeRequest, DetokenizeResponse, ErrorResponse, TokenizeRequest, TokenizeResponse, TokenizerInfo,
};

use crate::api::prompt::{Conversation, render_messages};
use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::generation::tokenise;
use crate::state::AppState;
use crate::{token_text, validate};

/// Token ids of a text or of a rendered conversation.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest, responses(
    (status = 200, description = "The tokens", body = TokenizeResponse),
    (status = "4XX", description = "The request is wrong", body = ErrorResponse),
    (status = "5XX", description = "Still loading", body = ErrorResponse),
))]
pub async fn tokenize(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<TokenizeRequest>,
) -> Result<Response, ApiError> {
    let serving = Arc::clone(state.serving()?);
    serving.check_model(request.model.as_deref())?;
    let tokens = match (request.prompt, request.messages) {
        (Some(prompt), None) => {
            let add_special_tokens = request.add_special_tokens;
            tokenise(&state, &serving, prompt.len(), move |tokenizer| {
                let ids = tokenizer.encode_prompt(&prompt, add_special_tokens);
                ids.map_err(|error| ApiError::invalid("prompt", error.to_string()))
            })
            .await?
        }
        (None, Some(messages)) if !messages.is_empty() => {
            let continues = request.continue_final_message.unwrap_or(false);
            let options = PromptOptions {
                add_generation_prompt: request.add_generation_prompt.unwrap_or(!continues),
                continue_final_message: continues,
                variables: request.chat_template_kwargs.unwrap_or_default(),
                thinking: None,
            };
            let conversation = Conversation { messages, tools: request.tools.unwrap_or_default(), options };
            render_messages(&state, &serving, conversation, None).await?
        }
        _ => return Err(ApiError::invalid("prompt", "give either a prompt or at least one message")),
    };
    let (shows_strings, max_model_len) = (request.return_token_strs.unwrap_or(false), serving.max_model_len as u32);
    // Millions of tokens take a while to write, too.
    let num_bytes = 8 * tokens.len();
    let write = move || {
        let text = |id: &u32| token_text::lossy(serving.tokenizer.as_deref(), *id);
        let token_strs = shows_strings.then(|| tokens.iter().map(text).collect());
        Json(TokenizeResponse { count: tokens.len() as u32, max_model_len, tokens, token_strs }).into_response()
    };
    state.lanes.work(num_bytes, write).await
}

/// How the tokenizer is set up.
#[utoipa::path(get, path = "/tokenizer_info", responses(
    (status = 200, description = "Its settings", body = TokenizerInfo),
    (status = "4XX", description = "There is none", body = ErrorResponse),
    (status = "5XX", description = "Still loading", body = ErrorResponse),
))]
pub async fn tokenizer_info(State(state): State<AppState>) -> Result<Response, ApiError> {
    let info = state.serving()?.tokenizer_info.as_ref();
    Ok(Json(info.ok_or_else(ApiError::no_tokenizer)?).into_response())
}

/// Text of token ids.
#[utoipa::path(post, path = "/detokenize", request_body = DetokenizeRequest, responses(
    (status = 200, description = "The text", body = DetokenizeResponse),
    (status = "4XX", description = "The request is wrong", body = ErrorResponse),
    (status = "5XX", description = "Still loading", body = ErrorResponse),
))]
pub async fn detokenize(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let serving = Arc::clone(state.serving()?);
    serving.check_model(request.model.as_deref())?;
    validate::check_token_ids("tokens", &request.tokens, serving.vocab_size)?;
    let num_bytes = 4 * request.tokens.len();
    let prompt =
        tokenise(&state, &serving, num_bytes, move |tokenizer| Ok(tokenizer.decode(&request.tokens, false))).await?;
    Ok(Json(DetokenizeResponse { prompt }))
}
