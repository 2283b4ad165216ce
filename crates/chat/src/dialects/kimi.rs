//! Kimi-K2: `<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:INDEX<|tool_call_argument_begin|>{…}
//! <|tool_call_end|><|tool_calls_section_end|>`. The header is the call's id.

use super::text_scan::JsonString;
use crate::dialect::{ArgumentFormat, CallFormat, CallParser, Marker, Markers, OutputEvent, Piece, lark_token};

pub(crate) const MARKERS: &[(&str, Marker)] = &[
    ("<|tool_calls_section_begin|>", Marker::CallsOpen),
    ("<|tool_calls_section_end|>", Marker::CallsClose),
    ("<|tool_call_begin|>", Marker::CallOpen),
    ("<|tool_call_argument_begin|>", Marker::Separator),
    ("<|tool_call_end|>", Marker::CallClose),
];

/// Reads calls.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    header: String,
    string: JsonString,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Content,
    Between,
    Header,
    Arguments,
}

impl Parser {
    fn text(&mut self, text: &str, events: &mut Vec<OutputEvent>) {
        match self.state {
            _ if text.is_empty() => {}
            State::Content => events.push(OutputEvent::Content(text.to_owned())),
            State::Between => {}
            State::Header => self.header.push_str(text),
            State::Arguments => {
                self.string.follow(text);
                events.push(OutputEvent::CallArguments(text.to_owned()));
            }
        }
    }
}

impl CallParser for Parser {
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        let Piece::Marker(marker, text) = piece else { return self.text(piece.text(), events) };
        match (self.state, marker) {
            (State::Arguments, _) if self.string.is_inside() => self.text(text, events),
            (State::Content | State::Between, Marker::CallOpen) => {
                self.state = State::Header;
                self.header.clear();
            }
            (State::Header, Marker::Separator) => {
                let id = self.header.trim().to_owned();
                let name = id.rsplit_once(':').map_or(id.as_str(), |(name, _)| name);
                let name = name.strip_prefix("functions.").unwrap_or(name).to_owned();
                events.push(OutputEvent::CallStart { name, id: Some(id) });
                (self.state, self.string) = (State::Arguments, JsonString::default());
            }
            (State::Content, Marker::CallsOpen)
            | (State::Arguments | State::Header | State::Between, Marker::CallClose) => self.state = State::Between,
            (State::Between, Marker::CallsClose) => self.state = State::Content,
            _ => self.text(text, events),
        }
    }

    fn finish(&mut self, _: &mut Vec<OutputEvent>) {}

    fn is_open(&self) -> bool {
        self.state != State::Content
    }
}

/// How a call is written.
pub(crate) fn format(markers: &Markers) -> CallFormat {
    let token = |marker| lark_token(markers, marker);
    CallFormat {
        open: token(Marker::CallsOpen),
        before_name: token(Marker::CallOpen),
        around_name: ("functions.", ":"),
        before_arguments: format!("/[0-9]{{1,4}}/ {}", token(Marker::Separator)),
        after: token(Marker::CallClose),
        between: String::new(),
        close: token(Marker::CallsClose),
        opening_token: markers.id(Marker::CallsOpen),
        arguments: ArgumentFormat::Json,
    }
}
