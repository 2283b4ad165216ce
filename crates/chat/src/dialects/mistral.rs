//! Mistral: `[TOOL_CALLS]`, then a JSON list of calls (older models) or `NAME[ARGS]{…}` (newer ones).

use super::json_call::JsonCall;
use super::text_scan::JsonString;
use crate::dialect::{ArgumentFormat, CallFormat, CallParser, Marker, Markers, OutputEvent, Piece, lark_token};

pub(crate) const MARKERS: &[(&str, Marker)] =
    &[("[TOOL_CALLS]", Marker::CallsOpen), ("[ARGS]", Marker::Separator), ("[CALL_ID]", Marker::CallOpen)];

/// Reads calls.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    name: String,
    string: JsonString,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Content,
    /// After the marker: a list, or a name.
    Open,
    Name,
    /// An id stands between name and arguments.
    Id,
    Arguments,
    List(JsonCall),
    /// Between two objects of a list.
    BetweenObjects,
}

impl Parser {
    fn text(&mut self, mut text: &str, events: &mut Vec<OutputEvent>) {
        while !text.is_empty() {
            match &mut self.state {
                State::Content => return events.push(OutputEvent::Content(text.to_owned())),
                State::Open => {
                    text = text.trim_start();
                    if let Some(rest) = text.strip_prefix('[') {
                        (self.state, text) = (State::BetweenObjects, rest);
                    } else if text.starts_with('{') {
                        self.state = State::BetweenObjects;
                    } else if !text.is_empty() {
                        self.state = State::Name;
                    }
                }
                State::Name => {
                    self.name.push_str(text);
                    return;
                }
                State::Id => return,
                State::Arguments => {
                    self.string.follow(text);
                    return events.push(OutputEvent::CallArguments(text.to_owned()));
                }
                State::List(call) => {
                    text = call.push(text, events);
                    if call.is_done() {
                        self.state = State::BetweenObjects;
                    }
                }
                State::BetweenObjects => match text.find(['{', ']']) {
                    Some(end) if text[end..].starts_with(']') => {
                        (self.state, text) = (State::Content, &text[end + 1..]);
                    }
                    Some(start) => (self.state, text) = (State::List(JsonCall::default()), &text[start..]),
                    None => return,
                },
            }
        }
    }

    fn is_inside_string(&self) -> bool {
        match &self.state {
            State::Arguments => self.string.is_inside(),
            State::List(call) => call.is_inside_string(),
            _ => false,
        }
    }
}

impl CallParser for Parser {
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        let Piece::Marker(marker, text) = piece else { return self.text(piece.text(), events) };
        match (&self.state, marker) {
            _ if self.is_inside_string() => self.text(text, events),
            (_, Marker::CallsOpen) => {
                self.state = State::Open;
                self.name.clear();
            }
            (State::Name, Marker::CallOpen) => self.state = State::Id,
            (State::Name | State::Id, Marker::Separator) => {
                let name = std::mem::take(&mut self.name).trim().to_owned();
                events.push(OutputEvent::CallStart { name, id: None });
                (self.state, self.string) = (State::Arguments, JsonString::default());
            }
            _ => self.text(text, events),
        }
    }

    fn finish(&mut self, _: &mut Vec<OutputEvent>) {}

    fn is_open(&self) -> bool {
        !matches!(self.state, State::Content)
    }
}

/// How a call is written: the list form, or the newer one where the tokenizer knows `[ARGS]`.
pub(crate) fn format(markers: &Markers) -> CallFormat {
    let open = lark_token(markers, Marker::CallsOpen);
    let opening_token = markers.id(Marker::CallsOpen);
    let list = CallFormat {
        open: format!("{open} \"[\""),
        before_name: String::new(),
        around_name: ("{\"name\": \"", "\", \"arguments\": "),
        before_arguments: String::new(),
        after: "\"}\"".to_owned(),
        between: "\", \"".to_owned(),
        close: "\"]\"".to_owned(),
        opening_token,
        arguments: ArgumentFormat::Json,
    };
    if markers.id(Marker::Separator).is_none() {
        return list;
    }
    CallFormat {
        open: String::new(),
        before_name: open,
        around_name: ("", ""),
        before_arguments: lark_token(markers, Marker::Separator),
        after: String::new(),
        between: String::new(),
        close: String::new(),
        ..list
    }
}
