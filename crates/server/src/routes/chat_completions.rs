//! `POST /v1/chat/completions`

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_chat::{PromptOptions, Tokenizer};
use moesaic_protocol::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage, ChatRequest,
    ChatResponseMessage, Content, ErrorResponse, Role, Usage,
};

use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::event_stream::{self, StreamedAnswer};
use crate::extract::ApiJson;
use crate::generation::{Delta, Generation, Submission, admit, tokenise};
use crate::request_id::RequestId;
use crate::routes::unix_now;
use crate::state::{AppState, Serving};
use crate::validate::{self, EndpointFields, ValidSampling};
use crate::{sse, token_text};

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
    let arrived = Instant::now();
    let serving = Arc::clone(state.serving()?);
    let model = serving.check_model(request.model.as_deref())?.to_owned();
    let sampling = validate_request(&request, &serving, &state)?;
    let admission = admit(&serving, sampling.n as usize)?;
    let echo = echoed_text(&request);
    let (mut prompt, options) = (render(&state, &serving, &request).await?, sampling);
    let max_tokens = validate::fit_prompt("messages", &mut prompt, &options, serving.max_model_len)?;
    validate::check_prompt_logprobs("messages", prompt.len(), 1, &options)?;
    let answer = Answer {
        id: format!("chatcmpl-{}", options.request_id.clone().unwrap_or(id)),
        created: unix_now(),
        model,
        prompt_token_ids: options.return_token_ids.then(|| prompt.clone()),
        echo,
        serving: Arc::clone(&serving),
        sampling: options,
    };
    let submission = Submission { prompts: vec![(prompt, max_tokens)], sampling: &answer.sampling, client, arrived };
    let generation = Generation::submit(&state, &serving, admission, submission)?;
    if answer.sampling.stream {
        return Ok(event_stream::respond(answer, generation, &state));
    }
    Ok(Json(answer.whole(generation).await?).into_response())
}

fn validate_request(request: &ChatRequest, serving: &Serving, state: &AppState) -> Result<ValidSampling, ApiError> {
    if request.messages.is_empty() {
        return Err(ApiError::invalid("messages", "must hold at least one message"));
    }
    if let Some(field) = request.unsupported.first() {
        return Err(ApiError::invalid(field, "is not supported"));
    }
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && request.tool_choice != Some("none".into()) {
        return Err(ApiError::invalid("tools", "is not supported yet"));
    }
    if request.tool_choice.as_ref().is_some_and(|choice| choice != "none" && choice != "auto") {
        return Err(ApiError::invalid("tool_choice", "is not supported yet, only \"none\" and \"auto\" are"));
    }
    validate::response_format(request.response_format.as_ref())?;
    if request.modalities.as_ref().is_some_and(|modalities| modalities.iter().any(|modality| modality != "text")) {
        return Err(ApiError::invalid("modalities", "only [\"text\"] is supported"));
    }
    let continues = request.continue_final_message.unwrap_or(false);
    if continues && request.add_generation_prompt == Some(true) {
        return Err(ApiError::invalid("continue_final_message", "cannot be combined with add_generation_prompt"));
    }
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    let endpoint = EndpointFields {
        max_tokens_param: if request.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" },
        max_tokens,
        default_max_tokens: serving.max_model_len as u32,
        logprobs: num_logprobs(request)?,
    };
    validate::sampling(&request.sampling, endpoint, serving, &state.config.limits)
}

fn num_logprobs(request: &ChatRequest) -> Result<Option<u32>, ApiError> {
    let wanted = request.logprobs.unwrap_or(false);
    if request.top_logprobs.is_some() && !wanted {
        return Err(ApiError::invalid("top_logprobs", "needs logprobs: true"));
    }
    let top = validate::num_logprobs("top_logprobs", request.top_logprobs)?;
    Ok(wanted.then(|| top.unwrap_or(0)))
}

/// The text that `echo` puts in front of the answer.
fn echoed_text(request: &ChatRequest) -> Option<String> {
    let last = request.messages.last().filter(|_| request.echo == Some(true))?;
    match last.content.as_ref()? {
        Content::Text(text) => Some(text.clone()),
        Content::Parts(parts) => Some(parts.iter().filter_map(|part| part.text.clone()).collect()),
    }
}

async fn render(state: &AppState, serving: &Arc<Serving>, request: &ChatRequest) -> Result<Vec<u32>, ApiError> {
    let continues = request.continue_final_message.unwrap_or(false);
    let options = PromptOptions {
        add_generation_prompt: request.add_generation_prompt.unwrap_or(!continues),
        continue_final_message: continues,
        variables: request.chat_template_kwargs.clone().unwrap_or_default(),
        thinking: request.reasoning_effort.as_deref().map(|effort| !matches!(effort, "none" | "minimal")),
    };
    let cuts = request.sampling.truncate_prompt_tokens.is_some();
    let limit = (!cuts).then_some(serving.max_model_len);
    render_messages(state, serving, request.messages.clone(), options, limit).await
}

/// Renders and tokenises a conversation, off the async threads; `max_tokens`: more are refused
/// where the text's length alone shows it.
///
/// # Errors
/// When the model has no chat template or the template refuses the messages.
pub async fn render_messages(
    state: &AppState,
    serving: &Arc<Serving>,
    messages: Vec<ChatMessage>,
    options: PromptOptions,
    max_tokens: Option<usize>,
) -> Result<Vec<u32>, ApiError> {
    let renderer = serving.renderer.clone();
    let num_bytes = messages.iter().filter_map(|message| message.content.as_ref()).map(Content::num_bytes).sum();
    tokenise(state, serving, num_bytes, move |tokenizer: &Tokenizer| {
        let renderer =
            renderer.ok_or_else(|| ApiError::bad_request("This model has no chat template: use /v1/completions."))?;
        let text = renderer.render(&messages, &options)?;
        validate::check_text_length("messages", text.len(), tokenizer, max_tokens)?;
        tokenizer.encode(&text).map_err(|error| ApiError::invalid("messages", error.to_string()))
    })
    .await
}

/// What all parts of an answer share.
struct Answer {
    id: String,
    created: u64,
    model: String,
    prompt_token_ids: Option<Vec<u32>>,
    echo: Option<String>,
    serving: Arc<Serving>,
    sampling: ValidSampling,
}

impl Answer {
    fn logprobs(&self, delta: &Delta) -> Option<ChatLogprobs> {
        self.sampling.params.logprobs?;
        let tokenizer = self.serving.tokenizer.as_deref();
        let of_token = |logprobs| token_text::chat_logprob(tokenizer, logprobs);
        let content = delta.tokens.iter().filter_map(|token| token.logprobs.as_ref()).map(of_token).collect();
        Some(ChatLogprobs { content: Some(content), refusal: None })
    }

    fn token_ids(&self, delta: &Delta) -> Option<Vec<u32>> {
        self.sampling.return_token_ids.then(|| delta.tokens.iter().map(|token| token.id).collect())
    }

    /// Folds the deltas into one message per choice.
    async fn whole(&self, mut generation: Generation) -> Result<ChatCompletion, ApiError> {
        let mut choices: Vec<ChatChoice> = (0..self.sampling.n).map(|index| self.empty_choice(index)).collect();
        let mut prompt_rows = Vec::new();
        while let Some(delta) = generation.next().await? {
            let choice = &mut choices[delta.choice];
            choice.message.content.get_or_insert_default().push_str(&delta.text);
            if let (Some(all), Some(new)) = (&mut choice.logprobs, self.logprobs(&delta)) {
                all.content.get_or_insert_default().extend(new.content.unwrap_or_default());
            }
            if let (Some(all), Some(new)) = (&mut choice.token_ids, self.token_ids(&delta)) {
                all.extend(new);
            }
            if let Some(end) = delta.end {
                (choice.finish_reason, choice.stop_reason) = (Some(end.reason), end.stop_reason);
            }
            if delta.choice == 0 {
                prompt_rows.extend(delta.prompt_logprobs);
            }
        }
        let prompt_logprobs = self.sampling.wants_prompt_logprobs.map(|num_top| {
            token_text::prompt_logprobs(self.serving.tokenizer.as_deref(), &prompt_rows, num_top as usize)
        });
        Ok(ChatCompletion {
            id: self.id.clone(),
            object: "chat.completion".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: generation.usage(),
            system_fingerprint: self.serving.fingerprint.clone(),
            prompt_logprobs,
            prompt_token_ids: self.prompt_token_ids.clone(),
        })
    }

    fn empty_choice(&self, index: u32) -> ChatChoice {
        ChatChoice {
            index,
            message: ChatResponseMessage {
                role: Role::Assistant,
                content: Some(self.echo.clone().unwrap_or_default()),
                refusal: None,
            },
            logprobs: self.logprobs(&Delta::default()),
            finish_reason: None,
            stop_reason: None,
            token_ids: self.token_ids(&Delta::default()),
        }
    }

    fn chunk(&self, index: usize, delta: ChatDelta) -> ChatChunk {
        let choice = ChatChunkChoice {
            index: index as u32,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        };
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.serving.fingerprint.clone(),
            choices: vec![choice],
            usage: None,
            prompt_token_ids: None,
        }
    }
}

impl StreamedAnswer for Answer {
    fn sampling(&self) -> &ValidSampling {
        &self.sampling
    }

    /// Who speaks, for each choice.
    fn opening(&self, usage: Option<Usage>) -> Vec<Event> {
        let chunk = |index: usize| {
            let content = Some(self.echo.clone().unwrap_or_default());
            let mut chunk = self.chunk(index, ChatDelta { role: Some(Role::Assistant), content });
            chunk.usage = usage;
            if index == 0 {
                chunk.prompt_token_ids.clone_from(&self.prompt_token_ids);
            }
            sse::json(&chunk)
        };
        (0..self.sampling.n as usize).map(chunk).collect()
    }

    /// What is new, then why it ended.
    fn chunks(&mut self, delta: Delta, usage: Option<Usage>) -> Vec<Event> {
        let mut chunks = Vec::new();
        let (logprobs, token_ids) = (self.logprobs(&delta), self.token_ids(&delta));
        let shows_tokens = logprobs.is_some() || token_ids.is_some() || self.serving.tokenizer.is_none();
        if !delta.text.is_empty() || (shows_tokens && !delta.tokens.is_empty()) {
            let mut chunk = self.chunk(delta.choice, ChatDelta { role: None, content: Some(delta.text) });
            (chunk.choices[0].logprobs, chunk.choices[0].token_ids) = (logprobs, token_ids);
            chunks.push(chunk);
        }
        if let Some(end) = delta.end {
            let mut chunk = self.chunk(delta.choice, ChatDelta::default());
            (chunk.choices[0].finish_reason, chunk.choices[0].stop_reason) = (Some(end.reason), end.stop_reason);
            chunks.push(chunk);
        }
        chunks.into_iter().map(|chunk| sse::json(&ChatChunk { usage, ..chunk })).collect()
    }

    fn usage_chunk(&self, usage: Usage) -> Event {
        let mut chunk = self.chunk(0, ChatDelta::default());
        chunk.choices.clear();
        chunk.usage = Some(usage);
        sse::json(&chunk)
    }
}
