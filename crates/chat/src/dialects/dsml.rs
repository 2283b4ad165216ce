//! DeepSeek-V3.2: calls in tags. A parameter with `string="true"` is raw text, any other is JSON.

use super::text_scan::take_certain;
use crate::dialect::{ArgumentFormat, CallFormat, CallParser, OutputEvent, Piece};

const OPEN: &str = "\n\n<｜DSML｜function_calls>";
const CLOSE: &str = "</｜DSML｜function_calls>";
const INVOKE_OPEN: &str = "<｜DSML｜invoke name=\"";
const INVOKE_CLOSE: &str = "</｜DSML｜invoke>";
const PARAMETER_OPEN: &str = "<｜DSML｜parameter name=\"";
const PARAMETER_CLOSE: &str = "</｜DSML｜parameter>";

/// Reads calls. A call is passed on when it is complete: half an invocation helps nobody.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    open: bool,
    held: String,
}

impl Parser {
    fn content(&mut self, events: &mut Vec<OutputEvent>) {
        let certain = match self.held.find(OPEN) {
            Some(start) => {
                let certain = self.held[..start].to_owned();
                self.held.drain(..start + OPEN.len());
                self.open = true;
                certain
            }
            None => take_certain(&mut self.held, OPEN),
        };
        if !certain.is_empty() {
            events.push(OutputEvent::Content(certain));
        }
    }

    /// Takes one whole invocation, or the end of the block. False when neither is there.
    fn step(&mut self, events: &mut Vec<OutputEvent>) -> bool {
        let (invoke, close) = (self.held.find(INVOKE_CLOSE), self.held.find(CLOSE));
        match (invoke, close) {
            (Some(end), close) if close.is_none_or(|close| end < close) => {
                let rest = self.held.split_off(end + INVOKE_CLOSE.len());
                if let Some((name, arguments)) = read_invoke(&self.held[..end]) {
                    events.push(OutputEvent::CallStart { name, id: None });
                    events.push(OutputEvent::CallArguments(arguments));
                }
                self.held = rest;
                true
            }
            (_, Some(end)) => {
                self.held.drain(..end + CLOSE.len());
                self.open = false;
                true
            }
            _ => false,
        }
    }
}

/// Name and arguments of an invocation without its closing tag.
fn read_invoke(text: &str) -> Option<(String, String)> {
    let (_, text) = text.split_once(INVOKE_OPEN)?;
    let (name, mut rest) = text.split_once("\">")?;
    let mut arguments = Vec::new();
    while let Some((_, parameter)) = rest.split_once(PARAMETER_OPEN) {
        let (key, tail) = parameter.split_once("\" string=\"")?;
        let (is_string, tail) = tail.split_once("\">")?;
        let (value, tail) = tail.split_once(PARAMETER_CLOSE)?;
        let value = if is_string == "true" { serde_json::Value::from(value).to_string() } else { value.to_owned() };
        arguments.push(format!("{}: {value}", serde_json::Value::from(key)));
        rest = tail;
    }
    Some((name.to_owned(), format!("{{{}}}", arguments.join(", "))))
}

impl CallParser for Parser {
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>) {
        self.held.push_str(piece.text());
        loop {
            if self.open {
                if !self.step(events) {
                    return;
                }
            } else {
                self.content(events);
                if !self.open {
                    return;
                }
            }
        }
    }

    fn finish(&mut self, events: &mut Vec<OutputEvent>) {
        if !self.open && !self.held.is_empty() {
            events.push(OutputEvent::Content(std::mem::take(&mut self.held)));
        }
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

/// How a call is written.
pub(crate) fn format() -> CallFormat {
    CallFormat {
        open: "\"\\n\\n<｜DSML｜function_calls>\\n\"".to_owned(),
        before_name: String::new(),
        around_name: (INVOKE_OPEN, "\">\n"),
        before_arguments: String::new(),
        after: "\"</｜DSML｜invoke>\"".to_owned(),
        between: "\"\\n\"".to_owned(),
        close: "\"\\n</｜DSML｜function_calls>\"".to_owned(),
        opening_token: None,
        arguments: ArgumentFormat::Tags,
    }
}
