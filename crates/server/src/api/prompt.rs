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
    render_some(state, serving, request, request.messages.clone(), tools).await
}

/// As [`render`], with other messages.
async fn render_some(
    state: &AppState,
    serving: &Arc<Serving>,
    request: &ChatRequest,
    messages: Vec<ChatMessage>,
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
    let conversation =
        Conversation { messages, tools: tools.map(|tools| tools.for_prompt.clone()).unwrap_or_default(), options };
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
    let without = async |num_turns: usize| {
        let mut messages = request.messages.clone();
        if num_turns > 0 {
            messages.drain(starts[0]..starts[num_turns]);
        }
        render_some(state, serving, request, messages, tools).await
    };
    let fits = |rendered: &Result<Vec<u32>, ApiError>| rendered.as_ref().is_ok_and(|prompt| prompt.len() <= room);
    let is_too_long = |error: &ApiError| error.code() == Some("context_length_exceeded");
    let whole = without(0).await;
    // Of a single turn nothing can go; other errors say nothing of lengths.
    if starts.len() < 2 || fits(&whole) || whole.as_ref().is_err_and(|error| !is_too_long(error)) {
        return whole.map(|prompt| (prompt, 0));
    }
    let (mut least, mut most) = (1, starts.len() - 1);
    let mut shortest = without(most).await?;
    while least < most && shortest.len() <= room {
        let middle = least.midpoint(most);
        match without(middle).await {
            Ok(prompt) if prompt.len() <= room => (shortest, most) = (prompt, middle),
            Err(error) if !is_too_long(&error) => return Err(error),
            _ => least = middle + 1,
        }
    }
    Ok((shortest, most))
}

/// Where turns begin: at the first message of what a user says.
fn turn_starts(request: &ChatRequest) -> Vec<usize> {
    let is_user = |index: usize| request.messages[index].role == Role::User;
    (0..request.messages.len()).filter(|index| is_user(*index) && (*index == 0 || !is_user(index - 1))).collect()
}
