//! Thoughts, content and tool calls, from the pieces of an answer: one state machine for all three.

use crate::dialect::{CallParser, Dialect, Marker, OutputEvent, Piece, Start};
use crate::dialects::plain;

/// Reads one answer. However its pieces are cut, the joined events are the same.
#[derive(Debug)]
pub struct OutputParser {
    state: State,
    calls: Box<dyn CallParser>,
    parses_calls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `fresh`: nothing was thought yet, and one line break is dropped.
    Thought {
        fresh: bool,
    },
    Content,
}

impl OutputParser {
    /// `tools`: functions that may be called; without any, calls are content like everything else.
    pub fn new(dialect: Dialect, start: Start, tools: Option<&[String]>) -> Self {
        let calls =
            tools.map_or_else(|| Box::new(plain::Parser) as Box<dyn CallParser>, |tools| dialect.call_parser(tools));
        let state = match start {
            Start::Thought => State::Thought { fresh: true },
            Start::Content | Start::Open => State::Content,
        };
        Self { state, calls, parses_calls: tools.is_some() }
    }

    /// Takes a piece.
    pub fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        match (self.state, piece) {
            (State::Thought { .. }, Piece::Marker(Marker::ThinkClose, _)) => self.state = State::Content,
            // Some models repeat the marker that the prompt ended with.
            (State::Thought { fresh: true }, Piece::Marker(Marker::ThinkOpen, _)) => {}
            (State::Thought { .. }, Piece::Marker(Marker::CallsOpen | Marker::CallOpen, _)) if self.parses_calls => {
                self.state = State::Content;
                self.calls.push(piece, events);
            }
            (State::Thought { fresh }, piece) => {
                let text = piece.text();
                let text = if fresh { text.strip_prefix('\n').unwrap_or(text) } else { text };
                if !piece.text().is_empty() {
                    self.state = State::Thought { fresh: false };
                }
                if !text.is_empty() {
                    events.push(OutputEvent::Reasoning(text.to_owned()));
                }
            }
            (State::Content, Piece::Marker(Marker::ThinkOpen, _)) if !self.calls.is_open() => {
                self.state = State::Thought { fresh: true };
            }
            (State::Content, piece) => self.calls.push(piece, events),
        }
    }

    /// Whether the next token belongs to a thought.
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Thought { .. })
    }

    /// Ends the answer.
    pub fn finish(&mut self, events: &mut Vec<OutputEvent>) {
        self.calls.finish(events);
    }
}
