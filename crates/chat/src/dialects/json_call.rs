//! A call written as one JSON object with a name and arguments, read as it arrives.

use super::text_scan::JsonString;
use crate::dialect::OutputEvent;

/// Reads `{"name": …, "arguments": …}` (or `"parameters"`), keys in any order. Arguments are passed on
/// unchanged, as soon as the name is known.
#[derive(Debug, Default)]
pub(super) struct JsonCall {
    phase: Phase,
    string: JsonString,
    depth: usize,
    key: String,
    /// What has arrived of the value and was not passed on yet.
    value: String,
    /// Whether part of the value was passed on.
    begun: bool,
    name: Option<String>,
    early_arguments: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Start,
    Key,
    Colon,
    Value,
    Done,
}

impl JsonCall {
    /// Takes text and gives what is left after the object's end.
    pub fn push<'a>(&mut self, text: &'a str, events: &mut Vec<OutputEvent>) -> &'a str {
        for (index, character) in text.char_indices() {
            if self.phase == Phase::Done {
                return &text[index..];
            }
            self.step(character, events);
        }
        self.flush(events);
        ""
    }

    /// The function, once known.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Whether the text so far ends inside a string.
    pub fn is_inside_string(&self) -> bool {
        self.string.is_inside()
    }

    fn step(&mut self, character: char, events: &mut Vec<OutputEvent>) {
        match self.phase {
            Phase::Start if character == '{' => self.phase = Phase::Key,
            Phase::Key => self.step_key(character),
            Phase::Colon if character == ':' => self.phase = Phase::Value,
            Phase::Start | Phase::Colon | Phase::Done => {}
            Phase::Value => self.step_value(character, events),
        }
    }

    fn step_key(&mut self, character: char) {
        if self.string.is_inside() {
            self.follow(character);
            if self.string.is_inside() {
                self.key.push(character);
            } else {
                self.phase = Phase::Colon;
            }
        } else if character == '"' {
            self.key.clear();
            self.follow(character);
        } else if character == '}' {
            self.phase = Phase::Done;
        }
    }

    fn step_value(&mut self, character: char, events: &mut Vec<OutputEvent>) {
        if self.value.is_empty() && !self.begun && character.is_whitespace() {
            return;
        }
        let was_inside = self.string.is_inside();
        if !was_inside && self.depth == 0 && matches!(character, ',' | '}') {
            self.end_value(events);
            self.phase = if character == '}' { Phase::Done } else { Phase::Key };
            return;
        }
        self.follow(character);
        if !was_inside {
            match character {
                '{' | '[' => self.depth += 1,
                '}' | ']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.value.push(character);
    }

    fn follow(&mut self, character: char) {
        // Quotes and backslashes are ASCII; any other character counts as one harmless byte.
        self.string.step(if character.is_ascii() { character as u8 } else { b'x' });
    }

    fn holds_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    /// Passes on what is certain of the arguments. White space may turn out to stand after them.
    fn flush(&mut self, events: &mut Vec<OutputEvent>) {
        if self.phase != Phase::Value || !self.holds_arguments() || self.name.is_none() {
            return;
        }
        let certain = if self.string.is_inside() { self.value.len() } else { self.value.trim_end().len() };
        if certain > 0 {
            events.push(OutputEvent::CallArguments(self.value.drain(..certain).collect()));
            self.begun = true;
        }
    }

    fn end_value(&mut self, events: &mut Vec<OutputEvent>) {
        let value = std::mem::take(&mut self.value);
        let value = value.trim_end();
        self.begun = false;
        if self.key == "name" && self.name.is_none() {
            let name = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
            events.push(OutputEvent::CallStart { name: name.clone(), id: None });
            self.name = Some(name);
            emit(&std::mem::take(&mut self.early_arguments), events);
        } else if self.holds_arguments() {
            if self.name.is_some() {
                emit(value, events);
            } else {
                value.clone_into(&mut self.early_arguments);
            }
        }
    }
}

fn emit(text: &str, events: &mut Vec<OutputEvent>) {
    if !text.is_empty() {
        events.push(OutputEvent::CallArguments(text.to_owned()));
    }
}
