//! Thoughts, content and tool calls, from the pieces of an answer: one state machine for all three.

use crate::dialect::{CallParser, Dialect, Marker, OutputEvent, Piece, Start};
use crate::dialects::plain;

/// Reads one answer. However its pieces are cut, the joined events are the same.
#[derive(Debug)]
pub struct OutputParser {
    state: State,
    calls: Box<dyn CallParser>,
    parses_calls: bool,
    /// At most one call is passed on.
    single_call: bool,
    num_calls: usize,
    /// The last call has no arguments yet.
    is_bare: bool,
    /// The last call is one too many.
    is_dropped: bool,
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
        let (num_calls, is_bare, is_dropped) = (0, false, false);
        Self { state, calls, parses_calls: tools.is_some(), single_call: false, num_calls, is_bare, is_dropped }
    }

    /// Passes on the first call only.
    #[must_use]
    pub fn with_single_call(self, single_call: bool) -> Self {
        Self { single_call, ..self }
    }

    /// Takes a piece.
    pub fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        match (self.state, piece) {
            (State::Thought { .. }, Piece::Marker(Marker::ThinkClose, _)) => self.state = State::Content,
            // Some models repeat the marker that the prompt ended with.
            (State::Thought { fresh: true }, Piece::Marker(Marker::ThinkOpen, _)) => {}
            (State::Thought { .. }, Piece::Marker(Marker::CallsOpen | Marker::CallOpen, _)) if self.parses_calls => {
                self.state = State::Content;
                self.push_call(piece, events);
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
            (State::Content, piece) => self.push_call(piece, events),
        }
    }

    /// Whether the next token belongs to a thought.
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Thought { .. })
    }

    /// Ends the answer.
    pub fn finish(&mut self, events: &mut Vec<OutputEvent>) {
        let mut new = Vec::new();
        self.calls.finish(&mut new);
        self.pass(new, events);
        // A call that was cut off keeps what it has.
        if !self.calls.is_open() {
            self.end_call(events);
        }
    }

    fn push_call(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        let mut new = Vec::new();
        self.calls.push(piece, &mut new);
        self.pass(new, events);
    }

    /// Clients parse arguments, so a whole call has some; a call too many has none and no name.
    fn pass(&mut self, new: Vec<OutputEvent>, events: &mut Vec<OutputEvent>) {
        for event in new {
            match event {
                OutputEvent::CallStart { .. } => {
                    self.end_call(events);
                    self.is_dropped = self.single_call && self.num_calls > 0;
                    self.is_bare = !self.is_dropped;
                    self.num_calls += 1;
                    events.extend((!self.is_dropped).then_some(event));
                }
                OutputEvent::CallArguments(_) => {
                    self.is_bare = false;
                    events.extend((!self.is_dropped).then_some(event));
                }
                OutputEvent::Reasoning(_) | OutputEvent::Content(_) => {
                    self.end_call(events);
                    events.push(event);
                }
            }
        }
    }

    fn end_call(&mut self, events: &mut Vec<OutputEvent>) {
        if std::mem::take(&mut self.is_bare) {
            events.push(OutputEvent::CallArguments("{}".to_owned()));
        }
    }
}
