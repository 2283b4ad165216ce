//! The answer to a chat request, whole or as a stream of chunks.

use std::sync::Arc;

use moesaic_chat::OutputEvent;
use moesaic_protocol::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatResponseMessage, FinishReason,
    FunctionCall, FunctionCallDelta, Role, ToolCall, ToolCallDelta, Usage,
};

use crate::error::ApiError;
use crate::event_stream::StreamedAnswer;
use crate::generation::{ChoiceEnd, Delta, Generation};
use crate::sse::Event;
use crate::state::Serving;
use crate::validate::response::ResponseSettings;
use crate::validate::sampling::ValidSampling;
use crate::{sse, token_text};

/// What all parts of an answer share.
pub struct ChatAnswer {
    /// The response's id.
    pub id: String,
    /// Unix time.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Reported, where asked for.
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Text in front of the answer.
    pub echo: Option<String>,
    /// Calls take the older form.
    pub legacy_functions: bool,
    /// The model.
    pub serving: Arc<Serving>,
    /// What is generated.
    pub sampling: ValidSampling,
    /// How it is reported.
    pub settings: ResponseSettings,
    /// Calls begun so far, by choice.
    pub num_calls: Vec<u32>,
    /// How many of the oldest turns were left out of the prompt.
    pub dropped_turns: usize,
}

impl ChatAnswer {
    /// Of the delta's tokens, where asked for.
    pub fn logprobs(&self, delta: &Delta) -> Option<ChatLogprobs> {
        self.sampling.params.logprobs?;
        let tokenizer = self.serving.tokenizer.as_deref();
        let of_token = |logprobs| token_text::chat_logprob(tokenizer, logprobs);
        let content = delta.tokens.iter().filter_map(|token| token.logprobs.as_ref()).map(of_token).collect();
        Some(ChatLogprobs { content: Some(content), refusal: None })
    }

    fn token_ids(&self, delta: &Delta) -> Option<Vec<u32>> {
        self.settings.return_token_ids.then(|| delta.tokens.iter().map(|token| token.id).collect())
    }

    /// An event as a part of the message. Counts calls.
    fn delta_of(&mut self, choice: usize, event: OutputEvent) -> ChatDelta {
        let mut delta = ChatDelta::default();
        let (id, function) = match event {
            OutputEvent::Reasoning(text) => {
                (delta.reasoning_content, delta.reasoning) = (Some(text.clone()), Some(text));
                return delta;
            }
            OutputEvent::Content(text) => {
                delta.content = Some(text);
                return delta;
            }
            OutputEvent::CallStart { name, id } => {
                self.num_calls[choice] += 1;
                let id = id.unwrap_or_else(|| self.serving.dialect.call_id(uuid::Uuid::new_v4().as_u128()));
                (Some(id), FunctionCallDelta { name: Some(name), arguments: Some(String::new()) })
            }
            OutputEvent::CallArguments(text) => (None, FunctionCallDelta { name: None, arguments: Some(text) }),
        };
        if self.legacy_functions {
            delta.function_call = Some(function);
        } else {
            let kind = id.is_some().then(|| "function".to_owned());
            delta.tool_calls = Some(vec![ToolCallDelta { index: self.num_calls[choice] - 1, id, kind, function }]);
        }
        delta
    }

    /// An answer that ends by itself with a call ends because of the call.
    fn finish_reason(&self, choice: usize, end: &ChoiceEnd) -> FinishReason {
        match end.reason {
            FinishReason::Stop if self.num_calls[choice] > 0 && end.stop_reason.is_none() => {
                if self.legacy_functions {
                    FinishReason::FunctionCall
                } else {
                    FinishReason::ToolCalls
                }
            }
            reason => reason,
        }
    }

    /// Folds the deltas into one message per choice.
    ///
    /// # Errors
    /// When the generation fails.
    pub async fn whole(mut self, mut generation: Generation) -> Result<ChatCompletion, ApiError> {
        let mut choices: Vec<ChatChoice> = (0..self.sampling.n).map(|index| self.empty_choice(index)).collect();
        let mut prompt_rows = Vec::new();
        while let Some(mut delta) = generation.next().await? {
            let index = delta.choice;
            let choice = &mut choices[index];
            for event in std::mem::take(&mut delta.events) {
                append(&mut choice.message, self.delta_of(index, event));
            }
            if let (Some(all), Some(new)) = (&mut choice.logprobs, self.logprobs(&delta)) {
                all.content.get_or_insert_default().extend(new.content.unwrap_or_default());
            }
            if let (Some(all), Some(new)) = (&mut choice.token_ids, self.token_ids(&delta)) {
                all.extend(new);
            }
            if let Some(end) = delta.end {
                (choice.finish_reason, choice.stop_reason) = (Some(self.finish_reason(index, &end)), end.stop_reason);
            }
            if index == 0 {
                prompt_rows.extend(delta.prompt_logprobs);
            }
        }
        for choice in &mut choices {
            let message = &mut choice.message;
            let has_more =
                message.reasoning.is_some() || message.tool_calls.is_some() || message.function_call.is_some();
            if message.content.is_none() && !has_more {
                message.content = Some(String::new());
            }
        }
        let prompt_logprobs = self.settings.prompt_logprobs.map(|num_top| {
            token_text::prompt_logprobs(self.serving.tokenizer.as_deref(), &prompt_rows, num_top as usize)
        });
        Ok(ChatCompletion {
            id: self.id.clone(),
            object: "chat.completion".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: generation.usage(),
            system_fingerprint: self.serving.fingerprint.clone(),
            prompt_logprobs,
            prompt_token_ids: self.prompt_token_ids.clone(),
        })
    }

    fn empty_choice(&self, index: u32) -> ChatChoice {
        ChatChoice {
            index,
            message: ChatResponseMessage {
                role: Role::Assistant,
                content: self.echo.clone(),
                refusal: None,
                reasoning_content: None,
                reasoning: None,
                tool_calls: None,
                function_call: None,
            },
            logprobs: self.logprobs(&Delta::default()),
            finish_reason: None,
            stop_reason: None,
            token_ids: self.token_ids(&Delta::default()),
        }
    }

    fn chunk(&self, index: usize, delta: ChatDelta) -> ChatChunk {
        let choice = ChatChunkChoice {
            index: index as u32,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        };
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.serving.fingerprint.clone(),
            choices: vec![choice],
            usage: None,
            prompt_token_ids: None,
        }
    }
}

fn append(message: &mut ChatResponseMessage, delta: ChatDelta) {
    let add = |whole: &mut Option<String>, part: Option<String>| {
        if let Some(part) = part {
            whole.get_or_insert_default().push_str(&part);
        }
    };
    add(&mut message.content, delta.content);
    add(&mut message.reasoning_content, delta.reasoning_content);
    add(&mut message.reasoning, delta.reasoning);
    for part in delta.tool_calls.into_iter().flatten() {
        let calls = message.tool_calls.get_or_insert_default();
        if let (Some(name), Some(kind)) = (part.function.name, part.kind) {
            calls.push(ToolCall { id: part.id, kind, function: FunctionCall { name, arguments: String::new() } });
        }
        let call = calls.last_mut().expect("arguments follow a name");
        call.function.arguments.push_str(&part.function.arguments.unwrap_or_default());
    }
    if let Some(part) = delta.function_call {
        let empty = || FunctionCall { name: String::new(), arguments: String::new() };
        let call = message.function_call.get_or_insert_with(empty);
        call.name.push_str(&part.name.unwrap_or_default());
        call.arguments.push_str(&part.arguments.unwrap_or_default());
    }
}

impl StreamedAnswer for ChatAnswer {
    fn settings(&self) -> &ResponseSettings {
        &self.settings
    }

    /// Who speaks, for each choice.
    fn opening(&self, usage: Usage) -> Vec<Event> {
        let usage = self.settings.continuous_usage.then_some(usage);
        let chunk = |index: usize| {
            let content = Some(self.echo.clone().unwrap_or_default());
            let mut chunk =
                self.chunk(index, ChatDelta { role: Some(Role::Assistant), content, ..ChatDelta::default() });
            chunk.usage = usage;
            if index == 0 {
                chunk.prompt_token_ids.clone_from(&self.prompt_token_ids);
            }
            sse::json(&chunk)
        };
        (0..self.sampling.n as usize).map(chunk).collect()
    }

    /// What is new, then why it ended. Log-probabilities and ids go with the first part.
    fn chunks(&mut self, mut delta: Delta, usage: Option<Usage>) -> Vec<Event> {
        let (mut logprobs, mut token_ids) = (self.logprobs(&delta), self.token_ids(&delta));
        let shows_tokens = logprobs.is_some() || token_ids.is_some() || self.serving.tokenizer.is_none();
        let index = delta.choice;
        let events = std::mem::take(&mut delta.events);
        let mut parts: Vec<ChatDelta> = events.into_iter().map(|event| self.delta_of(index, event)).collect();
        if parts.is_empty() && shows_tokens && !delta.tokens.is_empty() {
            parts.push(ChatDelta { content: Some(String::new()), ..ChatDelta::default() });
        }
        let mut chunks = Vec::new();
        for part in parts {
            let mut chunk = self.chunk(index, part);
            (chunk.choices[0].logprobs, chunk.choices[0].token_ids) = (logprobs.take(), token_ids.take());
            chunks.push(chunk);
        }
        if let Some(end) = delta.end {
            let mut chunk = self.chunk(index, ChatDelta::default());
            chunk.choices[0].finish_reason = Some(self.finish_reason(index, &end));
            chunk.choices[0].stop_reason = end.stop_reason;
            chunks.push(chunk);
        }
        chunks.into_iter().map(|chunk| sse::json(&ChatChunk { usage, ..chunk })).collect()
    }

    fn closing(&mut self, usage: Usage) -> Vec<Event> {
        let mut chunk = self.chunk(0, ChatDelta::default());
        chunk.choices.clear();
        chunk.usage = Some(usage);
        let counts = self.settings.include_usage.then(|| sse::json(&chunk));
        counts.into_iter().chain([sse::done()]).collect()
    }
}
