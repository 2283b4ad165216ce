//! From a conversation to the tokens of its prompt.

use std::sync::Arc;

use moesaic_chat::{PromptOptions, Tokenizer};
use moesaic_protocol::{ChatMessage, ChatRequest, Content, Role};
use serde_json::Value;

use crate::api::chat::request;
use crate::error::ApiError;
use crate::generation::tokenise;
use crate::state::{AppState, Serving};
use crate::tools::ToolSettings;
use crate::validate::prompt;

/// The tokens of a request's prompt, for a loaded model.
///
/// # Errors
/// When the model has no chat template, the template refuses the messages or they are surely too long.
pub async fn render(
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

/// The tokens of a request's prompt, without as many of its oldest turns as do not fit, and how many these are. What
/// stands before the first turn (instructions) and the last turn stay. `reserved`: tokens for the answer.
///
/// # Errors
/// When even the last turn is too long, or the request is wrong.
pub async fn render_what_fits(
    state: &AppState,
    serving: &Arc<Serving>,
    request: &ChatRequest,
    tools: Option<&ToolSettings>,
    reserved: usize,
) -> Result<(Vec<u32>, usize), ApiError> {
    // An answer of which nothing is said gets a quarter of the context, so that there is one.
    let room = serving.max_model_len - reserved.clamp(1, (serving.max_model_len / 4).max(1));
    let starts = turn_starts(request);
    let most = starts.len().saturating_sub(1);
    let (mut fewest, mut fitting) = (0, None);
    let mut dropped = 0;
    // Doubles the number until it fits, then halves the interval.
    let mut tried_most = most;
    loop {
        match attempt(state, serving, request, tools, &starts, dropped).await {
            Ok(prompt) if prompt.len() <= room => {
                tried_most = dropped;
                fitting = Some(prompt);
            }
            Ok(prompt) if dropped == most => return Ok((prompt, dropped)),
            Err(error) if dropped == most || error.code() != Some("context_length_exceeded") => return Err(error),
            _ => fewest = dropped + 1,
        }
        if let Some(prompt) = fitting.take_if(|_| fewest >= tried_most) {
            return Ok((prompt, tried_most));
        }
        dropped = if fitting.is_some() { fewest.midpoint(tried_most) } else { (2 * dropped).clamp(1, most) };
    }
}

async fn attempt(
    state: &AppState,
    serving: &Arc<Serving>,
    request: &ChatRequest,
    tools: Option<&ToolSettings>,
    starts: &[usize],
    dropped: usize,
) -> Result<Vec<u32>, ApiError> {
    if dropped == 0 {
        return render(state, serving, request, tools).await;
    }
    let mut messages = request.messages.clone();
    messages.drain(starts[0]..starts[dropped]);
    render(state, serving, &ChatRequest { messages, ..request.clone() }, tools).await
}

/// Where turns begin: at the first message of what a user says.
fn turn_starts(request: &ChatRequest) -> Vec<usize> {
    let is_user = |index: usize| request.messages[index].role == Role::User;
    (0..request.messages.len()).filter(|index| is_user(*index) && (*index == 0 || !is_user(index - 1))).collect()
}
