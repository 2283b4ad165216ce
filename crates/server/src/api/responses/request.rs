//! A request for a response, as a chat request.

use std::collections::HashSet;

use moesaic_protocol::responses::{InputItem, ResponseStatus, ResponsesInput, ResponsesTool};
use moesaic_protocol::{ChatMessage, ChatRequest, FormatFields, ResponsesRequest, Role};
use serde_json::{Value, json};

use crate::api::responses::items::{add_item, add_output};
use crate::auth::ClientKey;
use crate::config::Limits;
use crate::error::{ApiError, echo};
use crate::field::Field;
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
    if request.truncation.as_deref().is_some_and(|truncation| truncation != "disabled") {
        return Err(ApiError::invalid("truncation", "must be \"disabled\""));
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

/// What a request is translated with.
pub struct Translation {
    /// Holds earlier responses.
    pub state: AppState,
    /// Whose they are.
    pub client: ClientKey,
}

impl Translation {
    /// To a chat request; also gives the request without its input, and the conversation, which is kept.
    ///
    /// # Errors
    /// When the request holds what is not served, or names a response that is not stored.
    pub fn translate(
        &self,
        mut request: ResponsesRequest,
    ) -> Result<(ResponsesRequest, Vec<ChatMessage>, ChatRequest), ApiError> {
        let conversation = self.conversation(&mut request)?;
        let chat = chat_request(&request, &conversation)?;
        Ok((request, conversation, chat))
    }

    /// Chat messages up to the response, without the instructions, which are not kept.
    fn conversation(&self, request: &mut ResponsesRequest) -> Result<Vec<ChatMessage>, ApiError> {
        let mut messages = Vec::new();
        if let Some(id) = &request.previous_response_id {
            let Some((status, earlier)) = self.state.responses.conversation(self.client, id) else {
                return Err(ApiError::previous_response_not_found(id));
            };
            if !matches!(status, ResponseStatus::Completed | ResponseStatus::Incomplete) {
                return Err(ApiError::invalid("previous_response_id", "names a response that has no answer"));
            }
            messages = earlier;
        }
        match request.input.take() {
            None => return Err(ApiError::invalid("input", "is required")),
            Some(ResponsesInput::Text(text)) => messages.push(ChatMessage::new(Role::User, Some(text.into()))),
            Some(ResponsesInput::Items(items)) => self.add_items(items, &mut messages)?,
        }
        for message in &mut messages {
            // A thought that nothing followed.
            if message.role == Role::Assistant && message.content.is_none() && message.tool_calls.is_none() {
                message.content = Some(String::new().into());
            }
        }
        if messages.is_empty() {
            return Err(ApiError::invalid("input", "must hold at least one item"));
        }
        Ok(messages)
    }

    fn add_items(&self, items: Vec<InputItem>, messages: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
        let mut referred = HashSet::new();
        for (index, item) in items.into_iter().enumerate() {
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
            let found = self.state.responses.item(self.client, &id);
            let found = found.ok_or_else(|| invalid("names no item of a stored response"))?;
            // Each item once: a request cannot stand for more than is stored.
            if !referred.insert(id) {
                return Err(invalid("names an item for the second time"));
            }
            add_output(&[found], messages);
        }
        Ok(())
    }
}

fn chat_request(request: &ResponsesRequest, conversation: &[ChatMessage]) -> Result<ChatRequest, ApiError> {
    let includes = |what: &str| request.include.iter().flatten().any(|included| included == what);
    let wants_logprobs = includes("message.output_text.logprobs") || request.top_logprobs.is_some_and(|top| top > 0);
    let tools = tools(request.tools.as_deref().unwrap_or_default())?;
    let instructions =
        request.instructions.iter().map(|text| ChatMessage::new(Role::System, Some(text.clone().into())));
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    Ok(ChatRequest {
        messages: instructions.chain(conversation.iter().cloned()).collect(),
        model: request.model.clone(),
        max_completion_tokens: request.max_output_tokens,
        logprobs: wants_logprobs.then_some(true),
        top_logprobs: request.top_logprobs.filter(|_| wants_logprobs),
        sampling: request.sampling.clone(),
        chat_template_kwargs: request.chat_template_kwargs.clone(),
        reasoning_effort: request.reasoning.as_ref().and_then(|wanted| wanted.effort.clone()),
        // Clients send both also where there are no tools.
        parallel_tool_calls: request.parallel_tool_calls.filter(|_| tools.is_some()),
        tools,
        tool_choice: request.tool_choice.clone(),
        thinking_token_budget: request.thinking_token_budget,
        format: FormatFields { response_format: format.map(response_format), ..request.format.clone() },
        ..ChatRequest::default()
    })
}

fn response_format(format: &Value) -> Value {
    if format["type"] == "json_schema" {
        return json!({"type": "json_schema", "json_schema": format});
    }
    format.clone()
}

fn tools(tools: &[ResponsesTool]) -> Result<Option<Vec<Value>>, ApiError> {
    if let Some(index) = tools.iter().position(|tool| tool.kind != "function") {
        let message = format!("tools of type {:?} are not supported here", echo(&tools[index].kind));
        return Err(ApiError::invalid(format!("tools[{index}].type"), message));
    }
    let tool = |tool: &ResponsesTool| {
        let mut function = json!({"name": tool.name.clone().unwrap_or_default()});
        for (key, value) in [
            ("description", tool.description.clone().map(Value::from)),
            ("parameters", tool.parameters.clone()),
            ("strict", tool.strict.map(Value::from)),
        ] {
            if let Some(value) = value {
                function[key] = value;
            }
        }
        json!({"type": "function", "function": function})
    };
    Ok((!tools.is_empty()).then(|| tools.iter().map(tool).collect()))
}
