//! One choice's answer, from its tokens.

use std::sync::Arc;

use crate::{
    Detokenizer, Dialect, Marker, Markers, OutputEvent, OutputParser, Piece, Start, StopMatch, StopMatcher, Tokenizer,
};

/// How a choice's tokens become text.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    /// Strings that end the text.
    pub stops: Vec<String>,
    /// Leave the stop string, or the text of the token that ended the sequence, in the text.
    pub include_stop: bool,
    /// Leave tokens of control out.
    pub skip_special_tokens: bool,
    /// Stop strings count only after this many tokens.
    pub min_tokens: u32,
}

/// What a chat's answer is read with; a plain completion has none of it.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    /// The prompt format.
    pub dialect: Dialect,
    /// Its tokens of control.
    pub markers: Arc<Markers>,
    /// Where the answer starts.
    pub start: Start,
    /// Functions that may be called; `None` where none are offered.
    pub tools: Option<Arc<[String]>>,
    /// At most one call is passed on.
    pub single_call: bool,
}

/// Turns tokens into events and watches for stop strings, which count in the answer's text only: not in thoughts, not
/// in calls. Without a tokenizer there are no events.
#[derive(Debug)]
pub struct ChoiceDecoder {
    tokenizer: Option<Arc<Tokenizer>>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    options: DecodeOptions,
    num_tokens: u32,
    markers: Option<Arc<Markers>>,
    parser: OutputParser,
    is_thinking: bool,
    num_reasoning_tokens: u32,
    offers_calls: bool,
}

impl ChoiceDecoder {
    /// A decoder for one choice.
    pub fn new(tokenizer: Option<Arc<Tokenizer>>, options: DecodeOptions, chat: Option<&ChatFormat>) -> Self {
        let parser = match chat {
            Some(chat) => {
                OutputParser::new(chat.dialect, chat.start, chat.tools.as_deref()).with_single_call(chat.single_call)
            }
            None => OutputParser::new(Dialect::Plain, Start::Content, None),
        };
        Self {
            tokenizer,
            detokenizer: Detokenizer::default(),
            matcher: StopMatcher::new(options.stops.clone(), options.include_stop),
            options,
            num_tokens: 0,
            markers: chat.map(|chat| Arc::clone(&chat.markers)),
            is_thinking: parser.is_thinking(),
            parser,
            num_reasoning_tokens: 0,
            offers_calls: chat.is_some_and(|chat| chat.tools.is_some()),
        }
    }

    /// Takes a token and gives what is certain. `is_end`: the engine ended the sequence with this token.
    pub fn push(&mut self, token_id: u32, is_end: bool, events: &mut Vec<OutputEvent>) -> Option<StopMatch> {
        self.num_tokens += 1;
        let tokenizer = Arc::clone(self.tokenizer.as_ref()?);
        let marker = self.markers.as_ref().and_then(|markers| markers.of(token_id));
        self.count_reasoning(marker);
        let hidden = self.options.skip_special_tokens && tokenizer.is_special(token_id);
        if is_end && !self.options.include_stop {
            return None;
        }
        let (mut piece, mut parsed) = (String::new(), Vec::new());
        if let Some(marker) = marker {
            // Nothing can complete a character across a marker.
            self.detokenizer.finish(&mut piece);
            self.read(&piece, &mut parsed);
            let bytes = if hidden { &[] } else { tokenizer.token_bytes(token_id) };
            self.parser.push(Piece::Marker(marker, &String::from_utf8_lossy(bytes)), &mut parsed);
        } else if !hidden {
            self.detokenizer.push(tokenizer.token_bytes(token_id), &mut piece);
            self.read(&piece, &mut parsed);
        }
        self.pass(parsed, events)
    }

    /// Ends the answer; gives a stop string that only the very end completed.
    pub fn finish(&mut self, events: &mut Vec<OutputEvent>) -> Option<StopMatch> {
        let (mut piece, mut parsed) = (String::new(), Vec::new());
        self.detokenizer.finish(&mut piece);
        self.read(&piece, &mut parsed);
        self.parser.finish(&mut parsed);
        let found = self.pass(parsed, events);
        if found.is_none() {
            self.release(events);
        }
        found
    }

    /// Tokens that belonged to thoughts.
    pub fn num_reasoning_tokens(&self) -> u32 {
        self.num_reasoning_tokens
    }

    fn count_reasoning(&mut self, marker: Option<Marker>) {
        self.num_reasoning_tokens += u32::from(self.is_thinking);
        match marker {
            Some(Marker::ThinkOpen) => self.is_thinking = true,
            Some(Marker::ThinkClose) => self.is_thinking = false,
            Some(Marker::CallsOpen | Marker::CallOpen) if self.offers_calls => self.is_thinking = false,
            _ => {}
        }
    }

    fn read(&mut self, text: &str, parsed: &mut Vec<OutputEvent>) {
        if !text.is_empty() {
            self.parser.push(Piece::Text(text), parsed);
        }
    }

    /// Passes events on, the answer's text up to a stop string and nothing after it.
    fn pass(&mut self, parsed: Vec<OutputEvent>, events: &mut Vec<OutputEvent>) -> Option<StopMatch> {
        for event in parsed {
            let OutputEvent::Content(piece) = event else {
                // No stop string goes on behind a thought or a call.
                self.release(events);
                events.push(event);
                continue;
            };
            let mut text = String::new();
            let found = if self.num_tokens < self.options.min_tokens {
                text = piece;
                None
            } else {
                self.matcher.push(&piece, &mut text)
            };
            push_content(text, events);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Passes on what was held back as the possible start of a stop string.
    fn release(&mut self, events: &mut Vec<OutputEvent>) {
        let mut text = String::new();
        self.matcher.finish(&mut text);
        push_content(text, events);
    }
}

fn push_content(text: String, events: &mut Vec<OutputEvent>) {
    if !text.is_empty() {
        events.push(OutputEvent::Content(text));
    }
}
