//! No format of its own: everything is content, and a forced call is a JSON object.

use crate::dialect::{ArgumentFormat, CallFormat, CallParser, OutputEvent, Piece};

/// Everything is content.
#[derive(Debug)]
pub(crate) struct Parser;

impl CallParser for Parser {
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        if !piece.text().is_empty() {
            events.push(OutputEvent::Content(piece.text().to_owned()));
        }
    }

    fn finish(&mut self, _: &mut Vec<OutputEvent>) {}

    fn is_open(&self) -> bool {
        false
    }
}

/// `{"name":"N","parameters":{…}}`, several joined by `; `. In pieces as JSON's own grammar has them, so that an
/// object that is no call can stand in its place.
pub(crate) fn format() -> CallFormat {
    CallFormat {
        open: String::new(),
        before_name: r#""{" "\"name\":""#.to_owned(),
        around_name: ("\"", "\""),
        before_arguments: r#""," "\"parameters\":""#.to_owned(),
        after: "\"}\"".to_owned(),
        between: "\"; \"".to_owned(),
        close: String::new(),
        opening_token: None,
        arguments: ArgumentFormat::Json,
    }
}
