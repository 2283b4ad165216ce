//! From a conversation to a generation: what the routes that take one share.

use std::sync::Arc;
use std::time::Instant;

use moesaic_chat::{ChatFormat, Marker, PromptOptions, Tokenizer};
use moesaic_protocol::{ChatMessage, ChatRequest, Content};
use serde_json::Value;

use crate::answer_format::{AnswerRules, WantedFormat};
use crate::api::chat::answer::ChatAnswer;
use crate::api::chat::request;
use crate::auth::ClientKey;
use crate::clock::unix_now;
use crate::error::ApiError;
use crate::field::Field;
use crate::generation::{Generation, Submission, admit, tokenise};
use crate::state::{AppState, Serving};
use crate::tools::ToolSettings;
use crate::validate::prompt;
use crate::validate::response::response;

/// A request for a chat answer, in whatever shape it came and its answer will be.
pub struct Incoming<'a> {
    /// The request.
    pub request: &'a ChatRequest,
    /// What its fields are called where it came from, so that errors name the client's own.
    pub fields: &'static [Field],
    /// Whose it is.
    pub client: ClientKey,
    /// Its id.
    pub id: String,
    /// When it arrived.
    pub arrived: Instant,
}

/// Validates, renders and submits a chat request.
///
/// # Errors
/// When the request is wrong or cannot be served now.
pub async fn begin(state: &AppState, incoming: Incoming<'_>) -> Result<(ChatAnswer, Generation), ApiError> {
    let fields = incoming.fields;
    submit(state, incoming).await.map_err(|error| error.in_terms_of(fields))
}

async fn submit(state: &AppState, incoming: Incoming<'_>) -> Result<(ChatAnswer, Generation), ApiError> {
    let Incoming { request, client, id, arrived, fields: _ } = incoming;
    let serving = Arc::clone(state.serving()?);
    let model = serving.check_model(request.model.as_deref())?.to_owned();
    let mut sampling = request::validate(request, &serving, &state.config.limits)?;
    let settings = response(&request.sampling)?;
    let rules = AnswerRules {
        format: WantedFormat::new(&request.format)?,
        tools: ToolSettings::new(request)?,
        thinking_budget: request.thinking_token_budget,
    };
    rules.check(&sampling, &serving.markers)?;
    if rules.tools.is_none() && ToolSettings::invite_calls(request) {
        // No tool is a promise too.
        let openings =
            [Marker::CallsOpen, Marker::CallOpen].into_iter().filter_map(|marker| serving.markers.id(marker));
        sampling.params.logit_bias.extend(openings.map(|id| (id, f32::NEG_INFINITY)));
    }
    let admission = admit(&serving, 1, sampling.n as usize)?;
    let echo = request::echoed_text(request);
    let mut prompt = render(state, &serving, request, rules.tools.as_ref()).await?;
    let max_tokens = prompt::fit_prompt("messages", &mut prompt, &sampling, serving.max_model_len)?;
    prompt::check_prompt_logprobs("messages", prompt.len(), 1, &sampling)?;
    let answer = ChatAnswer {
        id: format!("chatcmpl-{}", settings.request_id.clone().unwrap_or(id)),
        created: unix_now(),
        model,
        prompt_token_ids: settings.return_token_ids.then(|| prompt.clone()),
        echo,
        legacy_functions: rules.tools.as_ref().is_some_and(|tools| tools.legacy),
        serving: Arc::clone(&serving),
        num_calls: vec![0; sampling.n as usize],
        sampling,
        settings,
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

/// The tokens of a request's prompt. `fields`: as in [`Incoming`].
///
/// # Errors
/// When the request is wrong.
pub async fn prompt(state: &AppState, request: &ChatRequest, fields: &[Field]) -> Result<Vec<u32>, ApiError> {
    let prompt = async {
        let serving = Arc::clone(state.serving()?);
        serving.check_model(request.model.as_deref())?;
        if request.messages.is_empty() {
            return Err(ApiError::invalid("messages", "must hold at least one message"));
        }
        render(state, &serving, request, ToolSettings::new(request)?.as_ref()).await
    };
    prompt.await.map_err(|error| error.in_terms_of(fields))
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
        thinking: request::thinking(request)?,
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
        prompt::check_text_length("messages", text.len(), tokenizer, max_tokens)?;
        tokenizer.encode(&text).map_err(|error| ApiError::invalid("messages", error.to_string()))
    })
    .await
}
