//! The answer to a request for a response, whole or as a stream of typed events.

use std::sync::Arc;

use moesaic_chat::{InputDecoder, OutputEvent};
use moesaic_protocol::responses::{
    IncompleteDetails, InputTokensDetails, ItemStatus, OutputItem, OutputPart, OutputTokensDetails, ResponseError,
    ResponseObject, ResponseStatus, ResponseUsage,
};
use moesaic_protocol::{ChatMessage, ChatTokenLogprob, ErrorBody, FinishReason, Usage};
use serde::Serialize;

use crate::api::chat::answer::ChatAnswer;
use crate::api::responses::items::add_output;
use crate::api::responses::tools::{Offered, OfferedTools};
use crate::clock::unix_now;
use crate::error::ApiError;
use crate::event_stream::StreamedAnswer;
use crate::generation::{Delta, Generation};
use crate::response_store::Owner;
use crate::sealed::{Seal, Sealed};
use crate::sse::{self, Event};
use crate::state::AppState;
use crate::validate::response::ResponseSettings;

/// A response in the making.
pub struct ResponseAnswer {
    chat: ChatAnswer,
    response: ResponseObject,
    /// Where it is kept, if it is.
    keep: Option<Keep>,
    /// The last item is not whole yet.
    is_open: bool,
    ended_at_limit: bool,
    num_events: u64,
    tools: OfferedTools,
    /// Of the custom tool that is being called.
    input: InputDecoder,
    /// Seals thoughts, where the client is to carry them.
    seal: Option<Seal>,
}

/// Where a response is kept.
pub struct Keep {
    /// Holds the store.
    pub state: AppState,
    /// Who may come back to it.
    pub owner: Owner,
    /// Chat messages up to the response.
    pub conversation: Vec<ChatMessage>,
    /// The input's items, as a list in JSON.
    pub items: Arc<str>,
}

/// An event of a stream. Typed, because `Value` would write f32 numbers with the digits of f64.
#[derive(Debug, Default, Serialize)]
struct Change {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<OutputItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<OutputPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<ChatTokenLogprob>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<ResponseObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

impl ResponseAnswer {
    /// `chat`: the same answer as a chat completion; `response`: as it stands at its beginning.
    pub fn new(chat: ChatAnswer, response: ResponseObject, keep: Option<Keep>, tools: OfferedTools) -> Self {
        let input = InputDecoder::default();
        Self { chat, response, keep, is_open: false, ended_at_limit: false, num_events: 2, tools, input, seal: None }
    }

    /// Thoughts are given under seal too.
    #[must_use]
    pub fn sealing_thoughts(self, seal: Option<Seal>) -> Self {
        Self { seal, ..self }
    }

    /// As it stands.
    pub fn response(&self) -> &ResponseObject {
        &self.response
    }

    /// Keeps the response as it stands. Whether there was room for it.
    pub fn keep(&self) -> bool {
        let Some(keep) = &self.keep else { return false };
        let mut conversation = keep.conversation.clone();
        add_output(&self.response.output, &mut conversation);
        keep.state.responses.put(keep.owner, &self.response, &conversation, &keep.items)
    }

    /// Generates to the end.
    ///
    /// # Errors
    /// When the generation fails.
    pub async fn whole(mut self, mut generation: Generation) -> Result<ResponseObject, ApiError> {
        loop {
            match generation.next().await {
                Ok(Some(delta)) => drop(self.changes(delta)),
                Ok(None) => break,
                Err(error) => {
                    if self.response.background {
                        self.fail(&error);
                    }
                    return Err(error);
                }
            }
        }
        self.complete(generation.usage());
        Ok(self.response)
    }

    fn complete(&mut self, usage: Usage) {
        self.response.usage = Some(counts(usage));
        self.response.completed_at = Some(unix_now());
        self.response.status = if self.ended_at_limit {
            self.response.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens".to_owned() });
            ResponseStatus::Incomplete
        } else {
            ResponseStatus::Completed
        };
        self.keep();
    }

    fn fail(&mut self, error: &ApiError) {
        self.close(ItemStatus::Incomplete, &mut Vec::new());
        let body = error.to_body().error;
        let code = body.code.unwrap_or_else(|| "server_error".to_owned());
        self.response.error = Some(ResponseError { code, message: body.message });
        self.response.status = ResponseStatus::Failed;
        self.keep();
    }

    /// Adds what is new.
    fn changes(&mut self, delta: Delta) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut logprobs = self.chat.logprobs(&delta).and_then(|logprobs| logprobs.content).unwrap_or_default();
        for event in delta.events {
            match event {
                OutputEvent::Reasoning(text) => {
                    if !(self.is_open && matches!(self.response.output.last(), Some(OutputItem::Reasoning { .. }))) {
                        self.close(ItemStatus::Completed, &mut changes);
                        self.open_text(true, &mut changes);
                    }
                    self.add_text(&text, Vec::new(), &mut changes);
                }
                OutputEvent::Content(text) => {
                    if !(self.is_open && matches!(self.response.output.last(), Some(OutputItem::Message { .. }))) {
                        self.close(ItemStatus::Completed, &mut changes);
                        self.open_text(false, &mut changes);
                    }
                    self.add_text(&text, std::mem::take(&mut logprobs), &mut changes);
                }
                OutputEvent::CallStart { name, id } => {
                    self.close(ItemStatus::Completed, &mut changes);
                    self.open_call(&name, id, &mut changes);
                }
                OutputEvent::CallArguments(text) => {
                    let is_custom = matches!(self.response.output.last(), Some(OutputItem::CustomToolCall { .. }));
                    let text = if is_custom { self.input.push(&text) } else { text };
                    if !text.is_empty() {
                        self.add_text(&text, Vec::new(), &mut changes);
                    }
                }
            }
        }
        if let Some(end) = delta.end {
            self.ended_at_limit = end.reason == FinishReason::Length;
            let status = if self.ended_at_limit { ItemStatus::Incomplete } else { ItemStatus::Completed };
            self.close(status, &mut changes);
        }
        changes
    }

    fn open(&mut self, item: OutputItem, changes: &mut Vec<Change>) {
        let index = self.response.output.len();
        let (kind, added) = ("response.output_item.added", Some(item.clone()));
        changes.push(Change { kind, output_index: Some(index), item: added, ..Change::default() });
        self.response.output.push(item);
        self.is_open = true;
    }

    fn open_call(&mut self, function: &str, id: Option<String>, changes: &mut Vec<Change>) {
        let call_id = id.unwrap_or_else(|| self.chat.serving.dialect.call_id(uuid::Uuid::new_v4().as_u128()));
        let Offered { name, namespace, is_custom } = self.tools.get(function);
        let status = ItemStatus::InProgress;
        let item = if is_custom {
            self.input = InputDecoder::default();
            OutputItem::CustomToolCall { id: item_id("ctc"), call_id, name, namespace, input: String::new(), status }
        } else {
            OutputItem::FunctionCall { id: item_id("fc"), call_id, name, namespace, arguments: String::new(), status }
        };
        self.open(item, changes);
    }

    /// Opens a thought or a message: first without parts, then with an empty one.
    fn open_text(&mut self, is_thought: bool, changes: &mut Vec<Change>) {
        let (content, status) = (Vec::new(), ItemStatus::InProgress);
        let (item, part) = if is_thought {
            let (id, summary, encrypted_content) = (item_id("rs"), Vec::new(), None);
            let item = OutputItem::Reasoning { id, summary, content, encrypted_content, status };
            (item, OutputPart::ReasoningText { text: String::new() })
        } else {
            let item = OutputItem::Message { id: item_id("msg"), role: "assistant".to_owned(), content, status };
            let (annotations, logprobs) = (Vec::new(), Vec::new());
            (item, OutputPart::OutputText { text: String::new(), annotations, logprobs })
        };
        self.open(item, changes);
        changes.push(Change { part: Some(part.clone()), ..self.change("response.content_part.added") });
        if let Some(OutputItem::Reasoning { content, .. } | OutputItem::Message { content, .. }) =
            self.response.output.last_mut()
        {
            content.push(part);
        }
    }

    fn add_text(&mut self, text: &str, new_logprobs: Vec<ChatTokenLogprob>, changes: &mut Vec<Change>) {
        let mut change = Change { delta: Some(text.to_owned()), ..self.change("") };
        change.kind = match self.response.output.last_mut().expect("text belongs to an item") {
            OutputItem::FunctionCall { arguments, .. } => {
                arguments.push_str(text);
                "response.function_call_arguments.delta"
            }
            OutputItem::CustomToolCall { input, .. } => {
                input.push_str(text);
                "response.custom_tool_call_input.delta"
            }
            OutputItem::Reasoning { content, .. } | OutputItem::Message { content, .. } => {
                match content.last_mut().expect("text belongs to a part") {
                    OutputPart::ReasoningText { text: whole } => {
                        whole.push_str(text);
                        "response.reasoning_text.delta"
                    }
                    OutputPart::OutputText { text: whole, logprobs, .. } => {
                        whole.push_str(text);
                        logprobs.extend_from_slice(&new_logprobs);
                        change.logprobs = Some(new_logprobs);
                        "response.output_text.delta"
                    }
                }
            }
        };
        changes.push(change);
    }

    fn close(&mut self, end: ItemStatus, changes: &mut Vec<Change>) {
        if !self.is_open {
            return;
        }
        if matches!(self.response.output.last(), Some(OutputItem::CustomToolCall { .. })) {
            let rest = self.input.finish();
            if !rest.is_empty() {
                self.add_text(&rest, Vec::new(), changes);
            }
        }
        self.is_open = false;
        let (done, part_done) = (self.change(""), self.change("response.content_part.done"));
        let item = self.response.output.last_mut().expect("an open item is there");
        if let (OutputItem::Reasoning { content, encrypted_content, .. }, Some(seal)) = (&mut *item, &self.seal)
            && let [OutputPart::ReasoningText { text }] = content.as_slice()
        {
            *encrypted_content = Some(seal.seal(Sealed::Thought, text));
        }
        match item {
            OutputItem::FunctionCall { arguments, name, status, .. } => {
                *status = end;
                let kind = "response.function_call_arguments.done";
                let (arguments, name) = (Some(arguments.clone()), Some(name.clone()));
                changes.push(Change { kind, name, arguments, ..done });
            }
            OutputItem::CustomToolCall { input, status, .. } => {
                *status = end;
                changes.push(Change {
                    kind: "response.custom_tool_call_input.done",
                    input: Some(input.clone()),
                    ..done
                });
            }
            OutputItem::Reasoning { content, status, .. } | OutputItem::Message { content, status, .. } => {
                *status = end;
                let part = content[0].clone();
                changes.push(match part.clone() {
                    OutputPart::ReasoningText { text } => {
                        Change { kind: "response.reasoning_text.done", text: Some(text), ..done }
                    }
                    OutputPart::OutputText { text, logprobs, .. } => {
                        let kind = "response.output_text.done";
                        Change { kind, text: Some(text), logprobs: Some(logprobs), ..done }
                    }
                });
                changes.push(Change { part: Some(part), ..part_done });
            }
        }
        let (kind, item) = ("response.output_item.done", Some(item.clone()));
        let output_index = Some(self.response.output.len() - 1);
        changes.push(Change { kind, output_index, item, ..Change::default() });
    }

    /// A change of the last item.
    fn change(&self, kind: &'static str) -> Change {
        let index = self.response.output.len() - 1;
        let item = &self.response.output[index];
        let has_parts = matches!(item, OutputItem::Reasoning { .. } | OutputItem::Message { .. });
        let content_index = has_parts.then_some(0);
        Change {
            kind,
            item_id: Some(item.id().to_owned()),
            output_index: Some(index),
            content_index,
            ..Change::default()
        }
    }

    fn event(&mut self, change: Change) -> Event {
        self.num_events += 1;
        event(change, self.num_events - 1)
    }

    fn whole_response(&self, kind: &'static str) -> Change {
        Change { kind, response: Some(self.response.clone()), ..Change::default() }
    }
}

fn item_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

fn event(change: Change, sequence_number: u64) -> Event {
    let change = Change { sequence_number, ..change };
    sse::named(change.kind, &change)
}

/// Token counts in the words of this API.
pub fn counts(usage: Usage) -> ResponseUsage {
    ResponseUsage {
        input_tokens: usage.prompt_tokens,
        input_tokens_details: InputTokensDetails {
            cached_tokens: usage.prompt_tokens_details.cached_tokens,
            cache_write_tokens: 0,
        },
        output_tokens: usage.completion_tokens,
        output_tokens_details: OutputTokensDetails {
            reasoning_tokens: usage.completion_tokens_details.reasoning_tokens,
        },
        total_tokens: usage.total_tokens,
    }
}

impl StreamedAnswer for ResponseAnswer {
    fn settings(&self) -> &ResponseSettings {
        &self.chat.settings
    }

    fn opening(&self, _usage: Usage) -> Vec<Event> {
        let events = ["response.created", "response.in_progress"].into_iter().zip(0..);
        events.map(|(kind, number)| event(self.whole_response(kind), number)).collect()
    }

    fn chunks(&mut self, delta: Delta, _usage: Option<Usage>) -> Vec<Event> {
        self.changes(delta).into_iter().map(|change| self.event(change)).collect()
    }

    fn closing(&mut self, usage: Usage) -> Vec<Event> {
        self.complete(usage);
        let kind = if self.ended_at_limit { "response.incomplete" } else { "response.completed" };
        let last = self.whole_response(kind);
        vec![self.event(last), sse::done()]
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        self.fail(error);
        let body = error.to_body().error;
        let kind = "error";
        let (code, message, param) = (body.code.clone(), Some(body.message.clone()), body.param.clone());
        // OpenAI's clients read the fields of the event, those of Open Responses the error in it.
        let what = Change { kind, code, message, param, error: Some(body), ..Change::default() };
        let last = self.whole_response("response.failed");
        vec![self.event(what), self.event(last), sse::done()]
    }
}
