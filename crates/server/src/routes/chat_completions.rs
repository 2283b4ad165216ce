//! `POST /v1/chat/completions`

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use moesaic_chat::{ChatFormat, Marker, PromptOptions, Tokenizer};
use moesaic_protocol::{ChatChunk, ChatCompletion, ChatMessage, ChatRequest, Content, ErrorResponse};
use serde_json::Value;

use crate::answer_format::{AnswerRules, WantedFormat};
use crate::auth::ClientKey;
use crate::chat_answer::ChatAnswer;
use crate::error::ApiError;
use crate::event_stream;
use crate::extract::ApiJson;
use crate::generation::{Generation, Submission, admit, tokenise};
use crate::request_id::RequestId;
use crate::routes::unix_now;
use crate::state::{AppState, Serving};
use crate::tools::ToolSettings;
use crate::validate::{self, EndpointFields, ValidSampling};

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
    let (answer, generation) = begin(&state, client, id, Instant::now(), &request).await?;
    if answer.sampling.stream {
        return Ok(event_stream::respond(answer, generation, &state));
    }
    Ok(Json(answer.whole(generation).await?).into_response())
}

/// Validates, renders and submits a chat request, in whatever shape its answer will be.
///
/// # Errors
/// When the request is wrong or cannot be served now.
pub async fn begin(
    state: &AppState,
    client: ClientKey,
    id: String,
    arrived: Instant,
    request: &ChatRequest,
) -> Result<(ChatAnswer, Generation), ApiError> {
    let serving = Arc::clone(state.serving()?);
    let model = serving.check_model(request.model.as_deref())?.to_owned();
    let mut options = validate_request(request, &serving, state)?;
    let rules = AnswerRules {
        format: WantedFormat::new(&request.format)?,
        tools: ToolSettings::new(request)?,
        thinking_budget: request.thinking_token_budget,
    };
    rules.check(&options, &serving.markers)?;
    if rules.tools.is_none() && ToolSettings::invite_calls(request) {
        // No tool is a promise too.
        let openings =
            [Marker::CallsOpen, Marker::CallOpen].into_iter().filter_map(|marker| serving.markers.id(marker));
        options.params.logit_bias.extend(openings.map(|id| (id, f32::NEG_INFINITY)));
    }
    let admission = admit(&serving, options.n as usize)?;
    let echo = echoed_text(request);
    let mut prompt = render(state, &serving, request, rules.tools.as_ref()).await?;
    let max_tokens = validate::fit_prompt("messages", &mut prompt, &options, serving.max_model_len)?;
    validate::check_prompt_logprobs("messages", prompt.len(), 1, &options)?;
    let answer = ChatAnswer {
        id: format!("chatcmpl-{}", options.request_id.clone().unwrap_or(id)),
        created: unix_now(),
        model,
        prompt_token_ids: options.return_token_ids.then(|| prompt.clone()),
        echo,
        legacy_functions: rules.tools.as_ref().is_some_and(|tools| tools.legacy),
        serving: Arc::clone(&serving),
        num_calls: vec![0; options.n as usize],
        sampling: options,
    };
    let start = serving.markers.start(&prompt);
    let chat = ChatFormat {
        dialect: serving.dialect,
        markers: Arc::clone(&serving.markers),
        start,
        tools: rules.tools.as_ref().map(ToolSettings::names),
        single_call: rules.tools.as_ref().is_some_and(|tools| !tools.parallel),
    };
    let constraint = rules.constraint(state, &serving, &answer.sampling, start).await?;
    let prompts = vec![(prompt, max_tokens)];
    let submission = Submission { prompts, chat: Some(chat), constraint, sampling: &answer.sampling, client, arrived };
    let generation = Generation::submit(state, &serving, admission, submission)?;
    Ok((answer, generation))
}

/// The tokens of a request's prompt.
///
/// # Errors
/// When the request is wrong.
pub async fn prompt(state: &AppState, request: &ChatRequest) -> Result<Vec<u32>, ApiError> {
    let serving = Arc::clone(state.serving()?);
    serving.check_model(request.model.as_deref())?;
    if request.messages.is_empty() {
        return Err(ApiError::invalid("messages", "must hold at least one message"));
    }
    render(state, &serving, request, ToolSettings::new(request)?.as_ref()).await
}

fn validate_request(request: &ChatRequest, serving: &Serving, state: &AppState) -> Result<ValidSampling, ApiError> {
    if request.messages.is_empty() {
        return Err(ApiError::invalid("messages", "must hold at least one message"));
    }
    if let Some(field) = request.unsupported.first() {
        return Err(ApiError::invalid(field, "is not supported"));
    }
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

async fn render(
    state: &AppState,
    serving: &Arc<Serving>,
    request: &ChatRequest,
    tools: Option<&ToolSettings>,
) -> Result<Vec<u32>, ApiError> {
    let continues = request.continue_final_message.unwrap_or(false);
    let options = PromptOptions {
        add_generation_prompt: request.add_generation_prompt.unwrap_or(!continues),
        continue_final_message: continues,
        variables: request.chat_template_kwargs.clone().unwrap_or_default(),
        thinking: request.reasoning_effort.as_deref().map(|effort| !matches!(effort, "none" | "minimal")),
    };
    let cuts = request.sampling.truncate_prompt_tokens.is_some();
    let limit = (!cuts).then_some(serving.max_model_len);
    let conversation = Conversation {
        messages: request.messages.clone(),
        tools: tools.map(|tools| tools.for_prompt.clone()).unwrap_or_default(),
        options,
    };
    render_messages(state, serving, conversation, limit).await
}

/// What a prompt is rendered from.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Oldest first.
    pub messages: Vec<ChatMessage>,
    /// As the client sent them.
    pub tools: Vec<Value>,
    /// How.
    pub options: PromptOptions,
}

impl Conversation {
    fn num_bytes(&self) -> usize {
        let texts = self.messages.iter().filter_map(|message| message.content.as_ref()).map(Content::num_bytes);
        texts.sum::<usize>() + self.tools.iter().map(|tool| tool.to_string().len()).sum::<usize>()
    }
}

/// Renders and tokenises a conversation, off the async threads; `max_tokens`: more are refused
/// where the text's length alone shows it.
///
/// # Errors
/// When the model has no chat template or the template refuses the messages.
pub async fn render_messages(
    state: &AppState,
    serving: &Arc<Serving>,
    conversation: Conversation,
    max_tokens: Option<usize>,
) -> Result<Vec<u32>, ApiError> {
    let renderer = serving.renderer.clone();
    tokenise(state, serving, conversation.num_bytes(), move |tokenizer: &Tokenizer| {
        let renderer =
            renderer.ok_or_else(|| ApiError::bad_request("This model has no chat template: use /v1/completions."))?;
        let text = renderer.render(&conversation.messages, &conversation.tools, &conversation.options)?;
        validate::check_text_length("messages", text.len(), tokenizer, max_tokens)?;
        tokenizer.encode(&text).map_err(|error| ApiError::invalid("messages", error.to_string()))
    })
    .await
}
