//! DeepSeek-V3, R1 and V3.1: calls between tokens of control.
//!
//! V3 and R1: `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, a line break, the arguments in a
//! fence of three backticks, `<｜tool▁call▁end｜><｜tool▁calls▁end｜>`; V3.1 leaves out `function` and the fence.

use super::text_scan::{JsonString, take_certain};
use crate::dialect::{ArgumentFormat, CallFormat, CallParser, Marker, Markers, OutputEvent, Piece, lark_token};

pub(crate) const MARKERS: &[(&str, Marker)] = &[
    ("<｜tool▁calls▁begin｜>", Marker::CallsOpen),
    ("<｜tool▁calls▁end｜>", Marker::CallsClose),
    ("<｜tool▁call▁begin｜>", Marker::CallOpen),
    ("<｜tool▁call▁end｜>", Marker::CallClose),
    ("<｜tool▁sep｜>", Marker::Separator),
];

const FENCE_OPEN: &str = "\n```json\n";
const FENCE_CLOSE: &str = "\n```";

/// Reads calls.
#[derive(Debug)]
pub(crate) struct Parser {
    fenced: bool,
    state: State,
    /// The name so far, or what may be the closing fence.
    held: String,
    string: JsonString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Content,
    /// Inside the block, outside a call.
    Between,
    /// Before the separator: V3.1's name, V3's word "function".
    Header,
    /// V3's name, up to the end of the opening fence.
    Name,
    Arguments,
}

impl Parser {
    pub fn new(fenced: bool) -> Self {
        Self { fenced, state: State::Content, held: String::new(), string: JsonString::default() }
    }

    fn start(&mut self, name: &str, events: &mut Vec<OutputEvent>) {
        events.push(OutputEvent::CallStart { name: name.trim().to_owned(), id: None });
        (self.state, self.string) = (State::Arguments, JsonString::default());
    }

    fn arguments(&mut self, text: &str, events: &mut Vec<OutputEvent>) {
        self.string.follow(text);
        self.held.push_str(text);
        // A whole fence is held as well: only the end of the call tells whether it closes.
        let certain = match self.held.find(FENCE_CLOSE) {
            Some(start) if self.fenced && self.held[start + FENCE_CLOSE.len()..].trim().is_empty() => {
                let rest = self.held.split_off(start);
                std::mem::replace(&mut self.held, rest)
            }
            _ if self.fenced => take_certain(&mut self.held, FENCE_CLOSE),
            _ => std::mem::take(&mut self.held),
        };
        emit(certain, events);
    }

    fn text(&mut self, text: &str, events: &mut Vec<OutputEvent>) {
        match self.state {
            State::Content => emit_content(text, events),
            State::Between => {}
            State::Header => self.held.push_str(text),
            State::Name => {
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

fn emit_content(text: &str, events: &mut Vec<OutputEvent>) {
    if !text.is_empty() {
        events.push(OutputEvent::Content(text.to_owned()));
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
                let name = std::mem::take(&mut self.held);
                if self.fenced {
                    self.state = State::Name;
                } else {
                    self.start(&name, events);
                }
            }
            (State::Arguments, Marker::CallClose) => {
                let held = std::mem::take(&mut self.held);
                emit(held.strip_suffix(FENCE_CLOSE).map_or(held.clone(), str::to_owned), events);
                self.state = State::Between;
            }
            (State::Content, Marker::CallsOpen) | (State::Between | State::Header | State::Name, Marker::CallClose) => {
                self.state = State::Between;
            }
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

/// How a call is written.
pub(crate) fn format(markers: &Markers, fenced: bool) -> CallFormat {
    let token = |marker| lark_token(markers, marker);
    let sep = token(Marker::Separator);
    CallFormat {
        open: token(Marker::CallsOpen),
        before_name: if fenced {
            format!("{} \"function\" {sep}", token(Marker::CallOpen))
        } else {
            token(Marker::CallOpen)
        },
        around_name: if fenced { ("", FENCE_OPEN) } else { ("", "") },
        before_arguments: if fenced { String::new() } else { sep },
        after: if fenced { format!("\"\\n```\" {}", token(Marker::CallClose)) } else { token(Marker::CallClose) },
        between: if fenced { "\"\\n\"".to_owned() } else { String::new() },
        close: token(Marker::CallsClose),
        opening_token: markers.id(Marker::CallsOpen),
        arguments: ArgumentFormat::Json,
    }
}
