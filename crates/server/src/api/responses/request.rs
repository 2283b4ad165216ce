//! A request for a response, as a chat request.

use std::collections::HashSet;
use std::sync::Arc;

use moesaic_protocol::responses::{InputItem, ItemText, ResponseStatus, ResponsesInput};
use moesaic_protocol::{ChatMessage, ChatRequest, FormatFields, ResponsesRequest, Role};
use serde_json::{Value, json};

use crate::api::responses::items::{add_item, add_output, summary_message};
use crate::api::responses::tools::OfferedTools;
use crate::auth::ClientKey;
use crate::config::Limits;
use crate::error::{ApiError, echo};
use crate::field::Field;
use crate::response_store::Owner;
use crate::sealed::Sealed;
use crate::state::AppState;

/// What the fields of the chat request are called here.
pub const FIELDS: &[Field] = &[
    // Messages are not counted as items are.
    Field::whole("messages", "input"),
    Field::new("max_completion_tokens", "max_output_tokens"),
    Field::new("response_format.json_schema", "text.format"),
    Field::new("response_format", "text.format"),
    Field::new("reasoning_effort", "reasoning.effort"),
    Field::new("tools[].function", "tools[]"),
];

/// Refuses what is not served, and settings that contradict each other.
///
/// # Errors
/// Names the first field that is wrong.
pub fn check(request: &ResponsesRequest, limits: &Limits) -> Result<(), ApiError> {
    for (name, value) in [("conversation", &request.conversation), ("prompt", &request.prompt)] {
        if value.is_some() {
            return Err(ApiError::invalid(name, "is not supported"));
        }
    }
    if request.sampling.n.is_some_and(|n| n != 1) {
        return Err(ApiError::invalid("n", "a response is one answer"));
    }
    for (name, value) in
        [("max_tokens", &request.max_tokens), ("max_completion_tokens", &request.max_completion_tokens)]
    {
        if value.is_some() {
            return Err(ApiError::invalid(name, "is called max_output_tokens here"));
        }
    }
    if request.format.response_format.is_some() {
        return Err(ApiError::invalid("response_format", "is called text.format here"));
    }
    if let Some(field) = request.unsupported.first() {
        return Err(ApiError::invalid(field, "is not supported"));
    }
    if request.modalities.iter().flatten().any(|modality| modality != "text") {
        return Err(ApiError::invalid("modalities", "only [\"text\"] is supported"));
    }
    if let Some(metadata) = &request.metadata {
        let is_long = |text: &str, limit: usize| text.chars().count() > limit;
        let too_long = metadata.iter().any(|(name, value)| is_long(name, 64) || is_long(value, 512));
        if metadata.len() > 16 || too_long {
            return Err(ApiError::invalid("metadata", "takes 16 texts of 512 characters, under names of 64"));
        }
    }
    if request.truncation.as_deref().is_some_and(|truncation| !matches!(truncation, "disabled" | "auto")) {
        return Err(ApiError::invalid("truncation", "must be \"disabled\" or \"auto\""));
    }
    if request.background == Some(true) {
        let error = |message: &str| Err(ApiError::invalid("background", message));
        if request.store == Some(false) || limits.response_store_bytes == 0 {
            return error("needs store: it is where the response will be found");
        }
        if request.sampling.stream == Some(true) {
            return error("cannot be combined with stream");
        }
    }
    Ok(())
}

/// Where a request for a response comes from.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Who may come back to responses that are not stored for the client.
    pub owner: Owner,
    /// The prompt is prepared, nothing is generated.
    pub warms_up: bool,
}

impl Asker {
    /// A request over HTTP.
    pub fn client(client: ClientKey) -> Self {
        Self { owner: client.into(), warms_up: false }
    }

    /// What is found under the connection, or else under the client.
    fn find<T>(self, find: impl Fn(Owner) -> Option<T>) -> Option<T> {
        find(self.owner).or_else(|| find(self.owner.client.into()))
    }
}

/// What a request is translated with.
pub struct Translation {
    /// Holds earlier responses.
    pub state: AppState,
    /// Whose request it is.
    pub asker: Asker,
}

/// A request for a response, translated.
pub struct Translated {
    /// Without its input and tools.
    pub request: ResponsesRequest,
    /// The input's items, as a list in JSON; empty where nothing will be kept.
    pub items: Arc<str>,
    /// Chat messages up to the response, without the instructions, which are not kept.
    pub conversation: Vec<ChatMessage>,
    /// Its tools.
    pub tools: OfferedTools,
    /// As a chat request.
    pub chat: ChatRequest,
}

impl Translation {
    /// To a chat request.
    ///
    /// # Errors
    /// When the request holds what is not served, or names a response that is not stored.
    pub fn translate(&self, mut request: ResponsesRequest) -> Result<Translated, ApiError> {
        let keeps = request.store != Some(false) && self.state.config.limits.response_store_bytes > 0;
        let items = request.input.as_ref().filter(|_| keeps).map_or_else(|| "[]".into(), input_items);
        let conversation = self.conversation(&mut request)?;
        let tools = request.tools.take().unwrap_or_default();
        let mut tools = OfferedTools::new(tools, request.tool_choice.as_ref(), self.state.config.hosted_tools)?;
        let chat = chat_request(&request, &conversation, &mut tools);
        Ok(Translated { request, items, conversation, tools, chat })
    }

    /// Chat messages up to the response, without the instructions, which are not kept.
    fn conversation(&self, request: &mut ResponsesRequest) -> Result<Vec<ChatMessage>, ApiError> {
        let mut messages = Vec::new();
        if let Some(id) = &request.previous_response_id {
            let found = self.asker.find(|owner| self.state.responses.conversation(owner, id));
            let Some((status, earlier)) = found else {
                return Err(ApiError::previous_response_not_found(id));
            };
            if !matches!(status, ResponseStatus::Completed | ResponseStatus::Incomplete) {
                return Err(ApiError::invalid("previous_response_id", "names a response that has no answer"));
            }
            messages = earlier;
        }
        match request.input.take() {
            None if self.asker.warms_up => {}
            None => return Err(ApiError::invalid("input", "is required")),
            Some(ResponsesInput::Text(text)) => messages.push(ChatMessage::new(Role::User, Some(text.into()))),
            Some(ResponsesInput::Items(items)) => self.add_items(items, &mut messages)?,
        }
        if request.previous_response_id.is_some() {
            check_results(&messages)?;
        }
        for message in &mut messages {
            // A thought that nothing followed.
            if message.role == Role::Assistant && message.content.is_none() && message.tool_calls.is_none() {
                message.content = Some(String::new().into());
            }
        }
        // Instructions and tools alone can be prepared too.
        if messages.is_empty() && !self.asker.warms_up {
            return Err(ApiError::invalid("input", "must hold at least one item"));
        }
        Ok(messages)
    }

    fn add_items(&self, items: Vec<InputItem>, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
        let mut referred = HashSet::new();
        for (index, mut item) in items.into_iter().enumerate() {
            match (item.kind.as_deref(), item.encrypted_content.take()) {
                (Some("reasoning"), Some(sealed)) => {
                    item.content = self.open(Sealed::Thought, &sealed)?.map(ItemText::Text).or(item.content);
                }
                (Some("compaction"), Some(sealed)) => {
                    let summary = self.open(Sealed::Summary, &sealed)?.filter(|summary| !summary.is_empty());
                    messages.extend(summary.as_deref().map(summary_message));
                }
                _ => {}
            }
            let path = format!("input[{index}]");
            // A bare id is a reference too, in some clients.
            let refers = match item.kind.as_deref() {
                Some(kind) => kind == "item_reference",
                None => item.role.is_none() && item.id.is_some(),
            };
            if !refers {
                add_item(item, &path, messages)?;
                continue;
            }
            let id = item.id.unwrap_or_default();
            let invalid = |message: &str| ApiError::invalid(format!("{path}.id"), message);
            let found = self.asker.find(|owner| self.state.responses.item(owner, &id));
            let found = found.ok_or_else(|| invalid("names no item of a stored response"))?;
            // Each item once: a request cannot stand for more than is stored.
            if !referred.insert(id) {
                return Err(invalid("names an item for the second time"));
            }
            add_output(&[found], messages);
        }
        Ok(())
    }

    /// What the client carried for us. What cannot be opened, other servers' for one, is counted and left out.
    fn open(&self, kind: Sealed, sealed: &str) -> Result<Option<String>, ApiError> {
        let serving = self.state.serving()?;
        let opened = self.state.sealer.bound_to(self.asker.owner.client, &serving.model_names[0]).open(kind, sealed);
        if opened.is_none() {
            self.state.metrics.unopened_item();
        }
        Ok(opened)
    }
}

/// Refuses results of calls that a stored conversation does not hold: their sender takes it for another one.
fn check_results(messages: &[ChatMessage]) -> Result<(), ApiError> {
    let calls = messages.iter().flat_map(|message| message.tool_calls.iter().flatten());
    let calls: HashSet<&str> = calls.filter_map(|call| call.id.as_deref()).collect();
    let mut results = messages.iter().filter_map(|message| message.tool_call_id.as_deref());
    match results.find(|id| !calls.contains(id)) {
        Some(id) => {
            Err(ApiError::invalid("input", format!("holds the output of the call {:?}, which is not there", echo(id))))
        }
        None => Ok(()),
    }
}

/// The items of an input with an id each, as a list in JSON: those fields of them that are known here.
fn input_items(input: &ResponsesInput) -> Arc<str> {
    let mut items = match input {
        ResponsesInput::Text(text) => {
            vec![json!({"role": "user", "content": [{"type": "input_text", "text": text}]})]
        }
        ResponsesInput::Items(items) => items.iter().map(|item| json!(item)).collect(),
    };
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        item.retain(|_, value| !value.is_null());
        item.entry("type").or_insert_with(|| "message".into());
        item.entry("id").or_insert_with(|| format!("item_{}", uuid::Uuid::new_v4().simple()).into());
    }
    Value::from(items).to_string().into()
}

fn chat_request(request: &ResponsesRequest, conversation: &[ChatMessage], tools: &mut OfferedTools) -> ChatRequest {
    let wants_logprobs =
        request.includes("message.output_text.logprobs") || request.top_logprobs.is_some_and(|top| top > 0);
    let functions = tools.functions.take();
    let instructions =
        request.instructions.iter().map(|text| ChatMessage::new(Role::System, Some(text.clone().into())));
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    ChatRequest {
        messages: instructions.chain(conversation.iter().cloned()).collect(),
        model: request.model.clone(),
        max_completion_tokens: request.max_output_tokens,
        logprobs: wants_logprobs.then_some(true),
        top_logprobs: request.top_logprobs.filter(|_| wants_logprobs),
        sampling: request.sampling.clone(),
        chat_template_kwargs: request.chat_template_kwargs.clone(),
        reasoning_effort: request.reasoning.as_ref().and_then(|wanted| wanted.effort.clone()),
        // Clients send both also where there are no tools.
        parallel_tool_calls: request.parallel_tool_calls.filter(|_| functions.is_some()),
        tools: functions,
        tool_choice: tools.choice.take(),
        thinking_token_budget: request.thinking_token_budget,
        format: FormatFields { response_format: format.map(response_format), ..request.format.clone() },
        ..ChatRequest::default()
    }
}

fn response_format(format: &Value) -> Value {
    if format["type"] == "json_schema" {
        return json!({"type": "json_schema", "json_schema": format});
    }
    format.clone()
}
