//! Qwen 2.5 and 3: `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`.

use super::json_call::JsonCall;
use crate::dialect::{ArgumentFormat, CallFormat, CallParser, Marker, Markers, OutputEvent, Piece, lark_token};

pub(crate) const MARKERS: &[(&str, Marker)] = &[("<tool_call>", Marker::CallOpen), ("</tool_call>", Marker::CallClose)];

/// Reads calls.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    call: Option<JsonCall>,
    /// White space at the end of the content: not part of it, if a call follows.
    held: String,
}

impl CallParser for Parser {
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        match (&mut self.call, piece) {
            (None, Piece::Marker(Marker::CallOpen, _)) => {
                self.held.clear();
                self.call = Some(JsonCall::default());
            }
            (Some(call), Piece::Marker(Marker::CallClose, _)) if !call.is_inside_string() => self.call = None,
            (Some(call), piece) => drop(call.push(piece.text(), events)),
            (None, piece) => {
                self.held.push_str(piece.text());
                let space = self.held.split_off(self.held.trim_end().len());
                let certain = std::mem::replace(&mut self.held, space);
                if !certain.is_empty() {
                    events.push(OutputEvent::Content(certain));
                }
            }
        }
    }

    fn finish(&mut self, events: &mut Vec<OutputEvent>) {
        if !self.held.is_empty() {
            events.push(OutputEvent::Content(std::mem::take(&mut self.held)));
        }
    }

    fn is_open(&self) -> bool {
        self.call.is_some()
    }
}

/// How a call is written.
pub(crate) fn format(markers: &Markers) -> CallFormat {
    CallFormat {
        open: String::new(),
        before_name: lark_token(markers, Marker::CallOpen),
        around_name: ("\n{\"name\": \"", "\", \"arguments\": "),
        before_arguments: String::new(),
        after: format!("\"}}\\n\" {}", lark_token(markers, Marker::CallClose)),
        between: "\"\\n\"".to_owned(),
        close: String::new(),
        opening_token: markers.id(Marker::CallOpen),
        arguments: ArgumentFormat::Json,
    }
}
