//! One choice's answer, from its tokens.

use std::collections::VecDeque;
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

/// Turns tokens into events and watches for stop strings. Without a tokenizer there are no events.
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
    /// Bytes of text that went into the matcher.
    num_bytes: usize,
    /// Markers whose text the matcher has not given back yet.
    places: VecDeque<Place>,
    /// What the matcher gave back, up to a marker that is incomplete.
    pending: String,
    /// Where `pending` begins.
    pending_start: usize,
}

/// A marker's bytes in the text.
#[derive(Debug)]
struct Place {
    start: usize,
    end: usize,
    marker: Marker,
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
            num_bytes: 0,
            places: VecDeque::new(),
            pending: String::new(),
            pending_start: 0,
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
        let mut piece = String::new();
        if let Some(marker) = marker {
            // Nothing can complete a character across a marker.
            self.detokenizer.finish(&mut piece);
            let start = self.num_bytes + piece.len();
            if !hidden {
                piece.push_str(&String::from_utf8_lossy(tokenizer.token_bytes(token_id)));
            }
            self.places.push_back(Place { start, end: self.num_bytes + piece.len(), marker });
        } else if !hidden {
            self.detokenizer.push(tokenizer.token_bytes(token_id), &mut piece);
        }
        self.num_bytes += piece.len();
        let mut text = String::new();
        let found = if self.num_tokens < self.options.min_tokens {
            text = piece;
            None
        } else {
            self.matcher.push(&piece, &mut text)
        };
        self.release(&text, events);
        if found.is_some() {
            self.end(events);
        }
        found
    }

    /// Ends the answer; gives a stop string that only the very end completed.
    pub fn finish(&mut self, events: &mut Vec<OutputEvent>) -> Option<StopMatch> {
        let (mut piece, mut text) = (String::new(), String::new());
        self.detokenizer.finish(&mut piece);
        let found = self.matcher.push(&piece, &mut text);
        self.matcher.finish(&mut text);
        self.release(&text, events);
        self.end(events);
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

    /// Passes text on, cut at the markers.
    fn release(&mut self, text: &str, events: &mut Vec<OutputEvent>) {
        self.pending.push_str(text);
        while let Some(place) = self.places.front() {
            let known = self.pending_start + self.pending.len();
            if place.end > known {
                let certain = place.start.min(known) - self.pending_start;
                return self.pass(certain, events);
            }
            let (before, length, marker) = (place.start - self.pending_start, place.end - place.start, place.marker);
            self.places.pop_front();
            self.pass(before, events);
            let text: String = self.pending.drain(..length).collect();
            self.pending_start += length;
            self.parser.push(Piece::Marker(marker, &text), events);
        }
        self.pass(self.pending.len(), events);
    }

    fn pass(&mut self, num_bytes: usize, events: &mut Vec<OutputEvent>) {
        if num_bytes > 0 {
            let text: String = self.pending.drain(..num_bytes).collect();
            self.pending_start += num_bytes;
            self.parser.push(Piece::Text(&text), events);
        }
    }

    /// A marker that a stop string cut in two is text.
    fn end(&mut self, events: &mut Vec<OutputEvent>) {
        self.places.clear();
        self.pass(self.pending.len(), events);
        self.parser.finish(events);
    }
}
