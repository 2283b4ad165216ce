//! The answer to a message request, in Anthropic's shape, whole or as a stream of events.

use moesaic_chat::OutputEvent;
use moesaic_protocol::anthropic::{MessageResponse, MessageUsage, OutputBlock, StopReason};
use moesaic_protocol::{FinishReason, Usage};
use serde_json::{Value, json};

use crate::api::chat::answer::ChatAnswer;
use crate::error::ApiError;
use crate::event_stream::StreamedAnswer;
use crate::generation::{ChoiceEnd, Delta, Generation};
use crate::sse::{self, Event};
use crate::validate::response::ResponseSettings;

/// What a thought is signed with: nothing is signed here, but clients drop thoughts that are not.
const SIGNATURE: &str = "unsigned";

/// An answer and the block that is open.
pub struct MessageAnswer {
    id: String,
    chat: ChatAnswer,
    omits_thoughts: bool,
    open: Option<Kind>,
    num_blocks: usize,
    num_calls: usize,
    end: Option<ChoiceEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    ToolUse,
}

/// What happens to blocks.
enum Step {
    Start(OutputBlock),
    Delta(Value),
    Stop,
}

impl MessageAnswer {
    /// `chat`: the same answer as a chat completion. `omits_thoughts`: thoughts are there, but their text is not.
    pub fn new(id: String, chat: ChatAnswer, omits_thoughts: bool) -> Self {
        Self { id, chat, omits_thoughts, open: None, num_blocks: 0, num_calls: 0, end: None }
    }

    /// Folds the events into one message.
    ///
    /// # Errors
    /// When the generation fails.
    pub async fn whole(mut self, mut generation: Generation) -> Result<MessageResponse, ApiError> {
        let (mut content, mut arguments): (Vec<OutputBlock>, String) = (Vec::new(), String::new());
        while let Some(delta) = generation.next().await? {
            for step in self.steps(delta) {
                match step {
                    Step::Start(block) => content.push(block),
                    Step::Delta(delta) => match content.last_mut() {
                        Some(OutputBlock::Thinking { thinking, signature }) => {
                            thinking.push_str(part(&delta, "thinking"));
                            signature.push_str(part(&delta, "signature"));
                        }
                        Some(OutputBlock::Text { text }) => text.push_str(part(&delta, "text")),
                        Some(OutputBlock::ToolUse { .. }) => arguments.push_str(part(&delta, "partial_json")),
                        None => {}
                    },
                    Step::Stop => {
                        if let Some(OutputBlock::ToolUse { input, .. }) = content.last_mut() {
                            // Clients expect an object; cut off in the middle it is none.
                            *input = serde_json::from_str(&std::mem::take(&mut arguments)).unwrap_or(json!({}));
                        }
                    }
                }
            }
        }
        let usage = generation.usage();
        let (stop_reason, stop_sequence) = self.stop(usage);
        Ok(MessageResponse { content, stop_reason, stop_sequence, ..self.message(usage) })
    }

    fn message(&self, usage: Usage) -> MessageResponse {
        MessageResponse {
            id: self.id.clone(),
            kind: "message".to_owned(),
            role: "assistant".to_owned(),
            model: self.chat.model.clone(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: counts(usage),
        }
    }

    fn stop(&self, usage: Usage) -> (Option<StopReason>, Option<String>) {
        let Some(end) = &self.end else { return (None, None) };
        let stop = end.stop_reason.as_ref().and_then(Value::as_str).map(str::to_owned);
        let reason = match end.reason {
            FinishReason::Length if usage.completion_tokens < self.chat.sampling.params.max_tokens => {
                StopReason::ModelContextWindowExceeded
            }
            FinishReason::Length => StopReason::MaxTokens,
            _ if stop.is_some() => StopReason::StopSequence,
            _ if self.num_calls > 0 => StopReason::ToolUse,
            _ => StopReason::EndTurn,
        };
        (Some(reason), stop)
    }

    /// The delta as changes of blocks.
    fn steps(&mut self, delta: Delta) -> Vec<Step> {
        let mut steps = Vec::new();
        for event in delta.events {
            match event {
                OutputEvent::Reasoning(text) => {
                    let block = OutputBlock::Thinking { thinking: String::new(), signature: String::new() };
                    self.enter(Kind::Thinking, block, &mut steps);
                    if !self.omits_thoughts {
                        steps.push(Step::Delta(json!({"type": "thinking_delta", "thinking": text})));
                    }
                }
                OutputEvent::Content(text) => {
                    self.enter(Kind::Text, OutputBlock::Text { text: String::new() }, &mut steps);
                    steps.push(Step::Delta(json!({"type": "text_delta", "text": text})));
                }
                OutputEvent::CallStart { name, .. } => {
                    self.leave(&mut steps);
                    self.num_calls += 1;
                    let id = format!("toolu_{}", uuid::Uuid::new_v4().simple());
                    let block = OutputBlock::ToolUse { id, name, input: json!({}) };
                    self.enter(Kind::ToolUse, block, &mut steps);
                }
                OutputEvent::CallArguments(text) => {
                    steps.push(Step::Delta(json!({"type": "input_json_delta", "partial_json": text})));
                }
            }
        }
        if delta.end.is_some() {
            self.leave(&mut steps);
            self.end = delta.end;
        }
        steps
    }

    fn enter(&mut self, kind: Kind, block: OutputBlock, steps: &mut Vec<Step>) {
        if self.open == Some(kind) {
            return;
        }
        self.leave(steps);
        self.open = Some(kind);
        self.num_blocks += 1;
        steps.push(Step::Start(block));
    }

    fn leave(&mut self, steps: &mut Vec<Step>) {
        let Some(kind) = self.open.take() else { return };
        if kind == Kind::Thinking {
            steps.push(Step::Delta(json!({"type": "signature_delta", "signature": SIGNATURE})));
        }
        steps.push(Step::Stop);
    }
}

fn part<'a>(delta: &'a Value, key: &str) -> &'a str {
    delta[key].as_str().unwrap_or_default()
}

fn counts(usage: Usage) -> MessageUsage {
    let cached = usage.prompt_tokens_details.cached_tokens;
    MessageUsage {
        input_tokens: usage.prompt_tokens - cached,
        output_tokens: usage.completion_tokens,
        cache_read_input_tokens: cached,
        cache_creation_input_tokens: 0,
    }
}

fn event(kind: &'static str, mut data: Value) -> Event {
    data["type"] = kind.into();
    sse::named(kind, &data)
}

impl StreamedAnswer for MessageAnswer {
    fn settings(&self) -> &ResponseSettings {
        &self.chat.settings
    }

    fn opening(&self, usage: Usage) -> Vec<Event> {
        vec![event("message_start", json!({"message": self.message(usage)})), event("ping", json!({}))]
    }

    fn chunks(&mut self, delta: Delta, _usage: Option<Usage>) -> Vec<Event> {
        let mut index = self.num_blocks;
        let is_open = self.open.is_some();
        // Blocks are counted from 0; an open one has been counted.
        index -= usize::from(is_open && index > 0);
        let mut events = Vec::new();
        for step in self.steps(delta) {
            events.push(match step {
                Step::Start(block) => event("content_block_start", json!({"index": index, "content_block": block})),
                Step::Delta(delta) => event("content_block_delta", json!({"index": index, "delta": delta})),
                Step::Stop => {
                    index += 1;
                    event("content_block_stop", json!({"index": index - 1}))
                }
            });
        }
        events
    }

    fn closing(&mut self, usage: Usage) -> Vec<Event> {
        let (stop_reason, stop_sequence) = self.stop(usage);
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        vec![event("message_delta", json!({"delta": delta, "usage": counts(usage)})), event("message_stop", json!({}))]
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        let body = serde_json::to_value(error.to_messages_body()).expect("wire types always serialise");
        vec![event("error", body)]
    }
}
