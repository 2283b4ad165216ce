//! Calls between tokens of control: DeepSeek's up to V3.1, and Kimi's. They differ in what stands around the name.

use super::text_scan::{JsonString, take_certain};
use crate::dialect::{CallParser, Marker, OutputEvent, Piece};

/// Opens the arguments of DeepSeek-V3, after the name.
pub(super) const FENCE_OPEN: &str = "\n```json\n";
const FENCE_CLOSE: &str = "\n```";

/// What stands before the separator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// The name.
    Name,
    /// A word; the name follows the separator, and the arguments stand in a fence.
    Fenced,
    /// `functions.NAME:INDEX`, which is the call's id.
    Id,
}

/// Reads calls.
#[derive(Debug)]
pub(crate) struct Parser {
    header: Header,
    state: State,
    /// The header or the name so far, or what may be the closing fence.
    held: String,
    string: JsonString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Content,
    /// Inside the block, outside a call.
    Between,
    Header,
    /// The fenced form's name, up to the end of the opening fence.
    FencedName,
    Arguments,
}

impl Parser {
    pub fn new(header: Header) -> Self {
        Self { header, state: State::Content, held: String::new(), string: JsonString::default() }
    }

    fn start(&mut self, text: &str, events: &mut Vec<OutputEvent>) {
        let text = text.trim();
        let (name, id) = match self.header {
            Header::Name | Header::Fenced => (text, None),
            Header::Id => {
                let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
                (name.strip_prefix("functions.").unwrap_or(name), Some(text.to_owned()))
            }
        };
        events.push(OutputEvent::CallStart { name: name.to_owned(), id });
        (self.state, self.string) = (State::Arguments, JsonString::default());
    }

    fn arguments(&mut self, text: &str, events: &mut Vec<OutputEvent>) {
        self.string.follow(text);
        self.held.push_str(text);
        let is_fenced = self.header == Header::Fenced;
        // A whole fence is held as well: only the end of the call tells whether it closes.
        let certain = match self.held.find(FENCE_CLOSE) {
            Some(start) if is_fenced && self.held[start + FENCE_CLOSE.len()..].trim().is_empty() => {
                let rest = self.held.split_off(start);
                std::mem::replace(&mut self.held, rest)
            }
            _ if is_fenced => take_certain(&mut self.held, FENCE_CLOSE),
            _ => std::mem::take(&mut self.held),
        };
        emit(certain, events);
    }

    fn text(&mut self, text: &str, events: &mut Vec<OutputEvent>) {
        match self.state {
            State::Content if text.is_empty() => {}
            State::Content => events.push(OutputEvent::Content(text.to_owned())),
            State::Between => {}
            State::Header => self.held.push_str(text),
            State::FencedName => {
                self.held.push_str(text);
                let held = std::mem::take(&mut self.held);
                match held.split_once(FENCE_OPEN) {
                    Some((name, rest)) => {
                        self.start(name, events);
                        self.arguments(rest, events);
                    }
                    None => self.held = held,
                }
            }
            State::Arguments => self.arguments(text, events),
        }
    }
}

fn emit(text: String, events: &mut Vec<OutputEvent>) {
    if !text.is_empty() {
        events.push(OutputEvent::CallArguments(text));
    }
}

impl CallParser for Parser {
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        let Piece::Marker(marker, text) = piece else { return self.text(piece.text(), events) };
        match (self.state, marker) {
            (State::Arguments, _) if self.string.is_inside() => self.text(text, events),
            (State::Content | State::Between, Marker::CallOpen) => {
                self.state = State::Header;
                self.held.clear();
            }
            (State::Header, Marker::Separator) => {
                let header = std::mem::take(&mut self.held);
                if self.header == Header::Fenced {
                    self.state = State::FencedName;
                } else {
                    self.start(&header, events);
                }
            }
            (State::Arguments, Marker::CallClose) => {
                let held = std::mem::take(&mut self.held);
                emit(held.strip_suffix(FENCE_CLOSE).unwrap_or(&held).to_owned(), events);
                self.state = State::Between;
            }
            (State::Content, Marker::CallsOpen)
            | (State::Between | State::Header | State::FencedName, Marker::CallClose) => self.state = State::Between,
            (State::Between, Marker::CallsClose) => self.state = State::Content,
            _ => self.text(text, events),
        }
    }

    fn finish(&mut self, events: &mut Vec<OutputEvent>) {
        let held = std::mem::take(&mut self.held);
        if self.state == State::Arguments && held.trim_end() != FENCE_CLOSE {
            emit(held, events);
        }
    }

    fn is_open(&self) -> bool {
        self.state != State::Content
    }
}
