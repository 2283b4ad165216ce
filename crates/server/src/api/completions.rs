//! `POST /v1/completions`

mod answer;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_chat::{Start, Tokenizer};
use moesaic_protocol::{Completion, CompletionRequest, ErrorResponse, Prompt};

use crate::answer_format::{AnswerRules, WantedFormat};
use crate::api::completions::answer::{CompletionAnswer, Streamed};
use crate::auth::ClientKey;
use crate::clock::unix_now;
use crate::error::ApiError;
use crate::event_stream;
use crate::extract::ApiJson;
use crate::generation::{Generation, Submission, admit, bad_words};
use crate::request_id::RequestId;
use crate::state::AppState;
use crate::validate::prompt;
use crate::validate::response::response;

/// Continues prompts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The continuations, or with stream: true a stream of pieces", content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
        )),
        (status = "4XX", description = "The request is wrong or may not be served", body = ErrorResponse),
        (status = "5XX", description = "The server cannot serve it now", body = ErrorResponse),
    )
)]
pub async fn completions(
    State(state): State<AppState>,
    Extension(client): Extension<ClientKey>,
    Extension(RequestId(id)): Extension<RequestId>,
    ApiJson(request): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let serving = Arc::clone(state.serving()?);
    let model = serving.check_model(request.model.as_deref())?.to_owned();
    let mut sampling = request::validate(&request, &serving, &state.config.limits)?;
    sampling.bad_words = bad_words(&state, &serving, &request.sampling).await?;
    let settings = response(&request.sampling)?;
    let rules = AnswerRules { format: WantedFormat::new(&request.format)?, ..AnswerRules::default() };
    rules.check(&sampling, &serving.markers)?;
    let num_prompts = request::num_prompts(&request.prompt)?;
    let admission = admit(&serving, client, num_prompts, sampling.n as usize)?;
    let echo = request.echo.unwrap_or(false);
    let echoes_text = matches!(request.prompt, Prompt::Text(_) | Prompt::Texts(_));
    let added = |tokenizer: &Tokenizer| tokenizer.added_to_prompt(request.add_special_tokens);
    let echoes_first = echoes_text && serving.tokenizer.as_deref().and_then(added).is_none();
    let prompts =
        request::prompts(&state, &serving, request.prompt, request.add_special_tokens, &sampling, echo).await?;
    let num_prompt_tokens = prompts.iter().map(|prompt| prompt.token_ids.len()).sum();
    // Reported with every choice, twice where an echo has them too.
    prompt::check_prompt_logprobs("prompt", num_prompt_tokens, 2 * sampling.n as usize, &sampling)?;
    let answer = CompletionAnswer {
        id: format!("cmpl-{}", settings.request_id.clone().unwrap_or(id)),
        created: unix_now(),
        model,
        echoes: prompts.iter().map(|prompt| prompt.echo.clone()).collect(),
        prompt_token_ids: prompts.iter().map(|prompt| prompt.token_ids.clone()).collect(),
        echoes_text,
        echoes_first,
        num_alternatives: request.logprobs,
        serving: Arc::clone(&serving),
        sampling,
        settings,
    };
    let prompts = prompts.into_iter().map(|prompt| (prompt.token_ids, prompt.max_tokens)).collect();
    let constraint = rules.constraint(&state, &serving, &answer.sampling, Start::Content).await?;
    let submission = Submission { prompts, chat: None, constraint, sampling: &answer.sampling, client, arrived };
    let generation = Generation::submit(&state, &serving, admission, submission)?;
    if answer.settings.stream {
        return Ok(event_stream::respond(Streamed::new(answer), generation, &state));
    }
    Ok(Json(answer.whole(generation).await?).into_response())
}
