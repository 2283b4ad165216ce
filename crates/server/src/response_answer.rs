//! The answer to a request for a response, whole or as a stream of typed events.

use axum::response::sse::Event;
use moesaic_chat::OutputEvent;
use moesaic_protocol::{
    ChatTokenLogprob, FinishReason, IncompleteDetails, InputTokensDetails, ItemStatus, OutputItem, OutputPart,
    OutputTokensDetails, ResponseError, ResponseObject, ResponseStatus, ResponseUsage, Usage,
};
use serde_json::{Value, json};

use crate::auth::ClientKey;
use crate::chat_answer::ChatAnswer;
use crate::error::ApiError;
use crate::event_stream::StreamedAnswer;
use crate::generation::{Delta, Generation};
use crate::routes::unix_now;
use crate::state::AppState;
use crate::validate::ValidSampling;

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
}

/// Where a response is kept.
pub struct Keep {
    /// Holds the store.
    pub state: AppState,
    /// Whose it is.
    pub client: ClientKey,
    /// Chat messages up to the response.
    pub conversation: Vec<Value>,
    /// Adds items to chat messages.
    pub add_items: fn(&[OutputItem], &mut Vec<Value>),
}

/// A change, for the events of a stream: kind and content.
type Change = (&'static str, Value);

impl ResponseAnswer {
    /// `chat`: the same answer as a chat completion; `response`: as it stands at its beginning.
    pub fn new(chat: ChatAnswer, response: ResponseObject, keep: Option<Keep>) -> Self {
        Self { chat, response, keep, is_open: false, ended_at_limit: false, num_events: 2 }
    }

    /// As it stands.
    pub fn response(&self) -> &ResponseObject {
        &self.response
    }

    /// Keeps the response as it stands.
    pub fn keep(&self) {
        let Some(keep) = &self.keep else { return };
        let mut conversation = keep.conversation.clone();
        (keep.add_items)(&self.response.output, &mut conversation);
        keep.state.responses.put(keep.client, &self.response, &conversation);
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
                    let call_id =
                        id.unwrap_or_else(|| self.chat.serving.dialect.call_id(uuid::Uuid::new_v4().as_u128()));
                    let (id, arguments) = (item_id("fc"), String::new());
                    let status = ItemStatus::InProgress;
                    self.open(OutputItem::FunctionCall { id, call_id, name, arguments, status }, &mut changes);
                }
                OutputEvent::CallArguments(text) => self.add_text(&text, Vec::new(), &mut changes),
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
        changes.push(("response.output_item.added", json!({"output_index": index, "item": item})));
        self.response.output.push(item);
        self.is_open = true;
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
        let mut added = self.place();
        added["part"] = json!(part);
        changes.push(("response.content_part.added", added));
        if let Some(OutputItem::Reasoning { content, .. } | OutputItem::Message { content, .. }) =
            self.response.output.last_mut()
        {
            content.push(part);
        }
    }

    fn add_text(&mut self, text: &str, new_logprobs: Vec<ChatTokenLogprob>, changes: &mut Vec<Change>) {
        let mut change = self.place();
        change["delta"] = text.into();
        let kind = match self.response.output.last_mut().expect("text belongs to an item") {
            OutputItem::FunctionCall { arguments, .. } => {
                arguments.push_str(text);
                "response.function_call_arguments.delta"
            }
            OutputItem::Reasoning { content, .. } | OutputItem::Message { content, .. } => {
                match content.last_mut().expect("text belongs to a part") {
                    OutputPart::ReasoningText { text: whole } => {
                        whole.push_str(text);
                        "response.reasoning_text.delta"
                    }
                    OutputPart::OutputText { text: whole, logprobs, .. } => {
                        whole.push_str(text);
                        change["logprobs"] = json!(new_logprobs);
                        logprobs.extend(new_logprobs);
                        "response.output_text.delta"
                    }
                }
            }
        };
        changes.push((kind, change));
    }

    fn close(&mut self, end: ItemStatus, changes: &mut Vec<Change>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let place = self.place();
        let done = |more: Value| {
            let mut done = place.clone();
            done.as_object_mut().expect("made as an object").extend(more.as_object().cloned().unwrap_or_default());
            done
        };
        let index = self.response.output.len() - 1;
        let item = &mut self.response.output[index];
        match item {
            OutputItem::FunctionCall { arguments, name, status, .. } => {
                *status = end;
                let whole = json!({"arguments": arguments, "name": name});
                changes.push(("response.function_call_arguments.done", done(whole)));
            }
            OutputItem::Reasoning { content, status, .. } | OutputItem::Message { content, status, .. } => {
                *status = end;
                let part = &content[0];
                changes.push(match part {
                    OutputPart::ReasoningText { text } => ("response.reasoning_text.done", done(json!({"text": text}))),
                    OutputPart::OutputText { text, logprobs, .. } => {
                        ("response.output_text.done", done(json!({"text": text, "logprobs": logprobs})))
                    }
                });
                changes.push(("response.content_part.done", done(json!({"part": part}))));
            }
        }
        changes.push(("response.output_item.done", json!({"output_index": index, "item": item})));
    }

    /// Where in the output the open item is.
    fn place(&self) -> Value {
        let index = self.response.output.len() - 1;
        match &self.response.output[index] {
            OutputItem::FunctionCall { id, .. } => json!({"item_id": id, "output_index": index}),
            OutputItem::Reasoning { id, .. } | OutputItem::Message { id, .. } => {
                json!({"item_id": id, "output_index": index, "content_index": 0})
            }
        }
    }

    fn event(&mut self, (kind, content): Change) -> Event {
        self.num_events += 1;
        event(kind, content, self.num_events - 1)
    }
}

fn item_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

fn event(kind: &str, mut content: Value, sequence_number: u64) -> Event {
    content["type"] = kind.into();
    content["sequence_number"] = sequence_number.into();
    Event::default().event(kind).data(content.to_string())
}

fn counts(usage: Usage) -> ResponseUsage {
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
    fn sampling(&self) -> &ValidSampling {
        self.chat.sampling()
    }

    fn opening(&self, _usage: Usage) -> Vec<Event> {
        let events = ["response.created", "response.in_progress"].into_iter().zip(0..);
        events.map(|(kind, number)| event(kind, json!({"response": self.response}), number)).collect()
    }

    fn chunks(&mut self, delta: Delta, _usage: Option<Usage>) -> Vec<Event> {
        self.changes(delta).into_iter().map(|change| self.event(change)).collect()
    }

    fn closing(&mut self, usage: Usage) -> Vec<Event> {
        self.complete(usage);
        let kind = if self.ended_at_limit { "response.incomplete" } else { "response.completed" };
        vec![self.event((kind, json!({"response": self.response})))]
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        self.fail(error);
        let body = error.to_body().error;
        let what = json!({"code": body.code, "message": body.message, "param": body.param});
        vec![self.event(("error", what)), self.event(("response.failed", json!({"response": self.response})))]
    }
}
