//! From a conversation to a generation: what the routes that take one share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use moesaic_chat::{ChatFormat, InputGrammar, Marker};
use moesaic_protocol::ChatRequest;

use crate::answer_format::{AnswerRules, WantedFormat};
use crate::api::chat::answer::ChatAnswer;
use crate::api::chat::request;
use crate::api::prompt::{render, render_what_fits};
use crate::auth::ClientKey;
use crate::clock::unix_now;
use crate::error::ApiError;
use crate::field::Field;
use crate::generation::{Generation, Submission, admit, bad_words};
use crate::state::AppState;
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
    /// What the inputs of functions that take text must look like, by the functions' names.
    pub inputs: HashMap<String, InputGrammar>,
    /// Leave out the oldest turns of a conversation that is too long.
    pub truncates: bool,
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
    let Incoming { request, client, id, arrived, inputs, truncates, fields: _ } = incoming;
    let serving = Arc::clone(state.serving()?);
    let model = serving.check_model(request.model.as_deref())?.to_owned();
    let mut sampling = request::validate(request, &serving, &state.config.limits)?;
    sampling.bad_words = bad_words(state, &serving, &request.sampling).await?;
    let settings = response(&request.sampling)?;
    let rules = AnswerRules {
        format: WantedFormat::new(&request.format)?,
        tools: ToolSettings::new(request)?.map(|tools| ToolSettings { inputs, ..tools }),
        thinking_budget: request.thinking_token_budget,
    };
    rules.check(&sampling, &serving.markers)?;
    if rules.tools.is_none() && ToolSettings::invite_calls(request) {
        // No tool is a promise too.
        let openings =
            [Marker::CallsOpen, Marker::CallOpen].into_iter().filter_map(|marker| serving.markers.id(marker));
        sampling.params.logit_bias.extend(openings.map(|id| (id, f32::NEG_INFINITY)));
    }
    let admission = admit(&serving, client, 1, sampling.n as usize)?;
    let echo = request::echoed_text(request);
    let tools = rules.tools.as_ref();
    let (mut prompt, dropped_turns) = if truncates {
        let reserved = sampling.params.max_tokens as usize;
        render_what_fits(state, &serving, request, tools, reserved).await?
    } else {
        (render(state, &serving, request, tools).await?, 0)
    };
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
        dropped_turns,
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
