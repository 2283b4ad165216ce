//! Llama 3.1: the whole answer is a JSON object with `name` and `parameters`; several are joined by `; `.
//! Also what is read where a model has no format of its own.

use super::json_call::JsonCall;
use crate::dialect::{CallParser, Marker, OutputEvent, Piece};

pub(crate) const MARKERS: &[(&str, Marker)] = &[("<|python_tag|>", Marker::CallOpen)];

/// Reads calls. An object counts as one when it names a function that was offered.
#[derive(Debug)]
pub(crate) struct Parser {
    tools: Vec<String>,
    state: State,
    /// The answer so far, while it may still turn out to be content.
    held: String,
}

#[derive(Debug)]
enum State {
    /// Nothing but white space (and separators) since the beginning or the last call.
    Waiting,
    Call(JsonCall),
    Content,
}

impl Parser {
    pub fn new(tools: &[String]) -> Self {
        Self { tools: tools.to_vec(), state: State::Waiting, held: String::new() }
    }

    fn text(&mut self, mut text: &str, events: &mut Vec<OutputEvent>) {
        while !text.is_empty() {
            match &mut self.state {
                State::Content => {
                    events.push(OutputEvent::Content(std::mem::take(&mut self.held) + text));
                    return;
                }
                State::Waiting => {
                    let start = text.find(|c: char| !(c.is_whitespace() || c == ';')).unwrap_or(text.len());
                    self.held.push_str(&text[..start]);
                    text = &text[start..];
                    if text.starts_with('{') {
                        self.state = State::Call(JsonCall::default());
                    } else if !text.is_empty() {
                        self.state = State::Content;
                    }
                }
                State::Call(call) => {
                    let mut new = Vec::new();
                    let rest = call.push(text, &mut new);
                    self.held.push_str(&text[..text.len() - rest.len()]);
                    let is_offered = call.name().map(|name| self.tools.iter().any(|tool| tool == name));
                    let is_done = call.is_done();
                    match is_offered {
                        Some(true) => {
                            self.held.clear();
                            events.append(&mut new);
                            if is_done {
                                self.state = State::Waiting;
                            }
                        }
                        None if !is_done => {}
                        _ => {
                            self.state = State::Content;
                            events.push(OutputEvent::Content(std::mem::take(&mut self.held)));
                        }
                    }
                    text = rest;
                }
            }
        }
    }
}

impl CallParser for Parser {
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        match (piece, &self.state) {
            (Piece::Marker(Marker::CallOpen, _), State::Waiting | State::Content) => self.state = State::Waiting,
            (piece, _) => self.text(piece.text(), events),
        }
    }

    fn finish(&mut self, events: &mut Vec<OutputEvent>) {
        // White space and separators after a call are no content.
        if !self.held.is_empty() && !matches!(self.state, State::Waiting) {
            events.push(OutputEvent::Content(std::mem::take(&mut self.held)));
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Call(_))
    }
}
