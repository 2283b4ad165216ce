//! Messages as a chat template takes them.

use std::borrow::Cow;
use std::collections::VecDeque;

use moesaic_protocol::{ChatMessage, Content, Role, ToolCall};
use serde_json::{Map, Value, json};

use crate::PromptError;
use crate::template_shape::TemplateShape;

impl TemplateShape {
    /// The messages for the template.
    pub fn messages(&self, messages: &[ChatMessage]) -> Result<Vec<Value>, PromptError> {
        for (index, message) in messages.iter().enumerate() {
            if let Some(Content::Parts(parts)) = &message.content
                && let Some((part, other)) = parts.iter().enumerate().find(|(_, part)| part.kind != "text")
            {
                return Err(PromptError::UnsupportedPart { message: index, part, kind: other.kind.clone() });
            }
        }
        let mut arranged = self.arranged(messages);
        if !self.takes_several_calls {
            arranged = split_calls(arranged);
        }
        Ok(arranged.iter().map(|message| self.message(message).into()).collect())
    }

    fn role(&self, message: &ChatMessage) -> Role {
        match message.role {
            Role::Developer if !self.knows_developer => Role::System,
            Role::Function => Role::Tool,
            role => role,
        }
    }

    /// Brings system messages to where the template looks for them.
    fn arranged<'a>(&self, messages: &'a [ChatMessage]) -> Vec<Cow<'a, ChatMessage>> {
        let is_system = |message: &ChatMessage| self.role(message) == Role::System;
        let num_first = messages.iter().take_while(|message| is_system(message)).count();
        let (first, rest) = messages.split_at(num_first);
        let has_late = rest.iter().any(is_system);
        let is_fine = self.takes_system
            && (num_first <= 1 || self.takes_several_systems)
            && (!has_late || self.takes_late_system);
        if is_fine || (num_first == 0 && !has_late) {
            return messages.iter().map(Cow::Borrowed).collect();
        }
        let moves_late = !self.takes_system || !self.takes_late_system;
        let (late, rest): (Vec<_>, Vec<_>) = rest.iter().partition(|message| moves_late && is_system(message));
        let mut systems: Vec<Cow<ChatMessage>> = first.iter().chain(late).map(Cow::Borrowed).collect();
        if !self.takes_several_systems && systems.len() > 1 {
            let texts: Vec<String> =
                systems.iter().filter_map(|system| system.content.as_ref()).map(plain_text).collect();
            systems.truncate(1);
            systems[0].to_mut().content = Some(Content::Text(texts.join("\n\n")));
        }
        let mut arranged = Vec::with_capacity(systems.len() + rest.len());
        if self.takes_system {
            arranged.extend(systems);
            arranged.extend(rest.into_iter().map(Cow::Borrowed));
            return arranged;
        }
        // Without a place for instructions, they open the first turn of the user.
        let mut instructions = systems.first().and_then(|system| system.content.as_ref()).map(plain_text);
        for message in rest {
            let mut message = Cow::Borrowed(message);
            if message.role == Role::User
                && let Some(instructions) = instructions.take()
            {
                let text = message.content.as_ref().map(plain_text).unwrap_or_default();
                message.to_mut().content = Some(Content::Text(format!("{instructions}\n\n{text}")));
            }
            arranged.push(message);
        }
        arranged
    }

    /// A message as the template knows it.
    fn message(&self, message: &ChatMessage) -> Map<String, Value> {
        let role = self.role(message);
        let place = match role {
            Role::System | Role::Developer => 0,
            Role::User => 1,
            Role::Assistant => 2,
            Role::Tool | Role::Function => 3,
        };
        let calls = self.calls(message);
        let mut value = Map::from_iter([("role".to_owned(), json!(role))]);
        let content =
            message.content.as_ref().filter(|content| !matches!(content, Content::Parts(parts) if parts.is_empty()));
        match content {
            None if calls.is_empty() => self.no_content[place].put(&mut value),
            None => self.beside_calls.put(&mut value),
            Some(Content::Text(text)) if text.is_empty() && !calls.is_empty() => {
                self.empty_beside_calls.put(&mut value);
            }
            Some(content) => {
                value.insert("content".to_owned(), self.content(place, content));
            }
        }
        let mut set = |key: &str, field: Option<Value>| {
            if let Some(field) = field {
                value.insert(key.to_owned(), field);
            }
        };
        set("name", message.name.clone().map(Value::from));
        let is_result = role == Role::Tool;
        let id = is_result.then(|| self.id(message.tool_call_id.as_deref(), message.name.as_deref()));
        set("tool_call_id", id.filter(|id| !id.is_null()));
        let reasoning = message.reasoning_content.as_ref().or(message.reasoning.as_ref());
        set("reasoning_content", reasoning.cloned().map(Value::from));
        set("tool_calls", (!calls.is_empty()).then(|| calls.into()));
        value
    }

    fn content(&self, place: usize, content: &Content) -> Value {
        let part = |text: &str| json!({"type": "text", "text": text});
        match content {
            Content::Parts(parts) if self.takes_parts[place] => {
                parts.iter().map(|text| part(text.text.as_deref().unwrap_or_default())).collect()
            }
            content if !self.takes_text[place] => json!([part(&plain_text(content))]),
            content => plain_text(content).into(),
        }
    }

    /// The calls of a message; an empty list is none.
    fn calls(&self, message: &ChatMessage) -> Vec<Value> {
        let legacy = message.function_call.iter().map(|function| ToolCall {
            id: None,
            kind: "function".to_owned(),
            function: function.clone(),
        });
        let calls = message.tool_calls.iter().flatten().cloned().chain(legacy);
        calls
            .map(|call| {
                let id = self.id(call.id.as_deref(), Some(&call.function.name));
                let arguments = self.arguments(&call.function.arguments);
                let function = json!({"name": call.function.name, "arguments": arguments});
                json!({"id": id, "type": call.kind, "function": function})
            })
            .collect()
    }

    /// Arguments that are empty or were cut off are `{}`: a template could not read them.
    fn arguments(&self, text: &str) -> Value {
        match serde_json::from_str::<Value>(text) {
            Ok(_) if !self.parses_arguments => text.into(),
            Ok(parsed) if parsed.is_object() || self.takes_other_arguments => parsed,
            Err(_) if !self.parses_arguments => "{}".into(),
            _ => json!({}),
        }
    }

    /// An id as the template takes it. Where it has to have nine letters or digits, they are made of the id, or of the
    /// function's name where there is none, so that a call and its result still have the same.
    fn id(&self, id: Option<&str>, name: Option<&str>) -> Value {
        let is_nine = |id: &str| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_fine = match id {
            Some(id) if is_nine(id) => true,
            Some(id) if id.len() >= 9 => self.takes_long_ids,
            _ => self.takes_short_ids,
        };
        if is_fine { json!(id) } else { nine_characters(id.or(name).unwrap_or_default()).into() }
    }
}

/// A call's result is looked for among so many; honest results come in the order of the calls.
const MAX_LOOKAHEAD: usize = 64;

/// Gives every call a message of its own, with its result behind it.
fn split_calls(messages: Vec<Cow<ChatMessage>>) -> Vec<Cow<ChatMessage>> {
    let mut split = Vec::with_capacity(messages.len());
    let mut messages = messages.into_iter().peekable();
    while let Some(message) = messages.next() {
        let Some(calls) = message.tool_calls.clone().filter(|calls| calls.len() > 1) else {
            split.push(message);
            continue;
        };
        let mut results = VecDeque::new();
        while let Some(result) = messages.next_if(|next| matches!(next.role, Role::Tool | Role::Function)) {
            results.push_back(result);
        }
        let mut message = message.into_owned();
        for call in calls {
            let is_its = |result: &Cow<ChatMessage>| call.id.is_some() && result.tool_call_id == call.id;
            let result = results.iter().take(MAX_LOOKAHEAD).position(is_its).and_then(|index| results.remove(index));
            message.tool_calls = Some(vec![call]);
            split.push(Cow::Owned(message.clone()));
            split.extend(result);
            // Said and thought before the first call only.
            (message.content, message.reasoning_content, message.reasoning) = (None, None, None);
        }
        split.extend(results);
    }
    split
}

/// Nine letters or digits that depend on the text alone: FNV-1a in base 36.
fn nine_characters(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let digit = |place: u32| char::from_digit((hash / 36_u64.pow(place) % 36) as u32, 36);
    (0..9).filter_map(digit).collect()
}

/// The text of a message's content; parts are joined by line breaks.
pub(crate) fn plain_text(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            parts.iter().map(|part| part.text.as_deref().unwrap_or_default()).collect::<Vec<_>>().join("\n")
        }
    }
}
