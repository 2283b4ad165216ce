//! The text of one choice, from its tokens.

use std::sync::Arc;

use crate::{Detokenizer, StopMatch, StopMatcher, Tokenizer};

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

/// Turns tokens into text and watches for stop strings. Without a tokenizer the text stays empty.
#[derive(Debug)]
pub struct ChoiceDecoder {
    tokenizer: Option<Arc<Tokenizer>>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    options: DecodeOptions,
    num_tokens: u32,
}

impl ChoiceDecoder {
    /// A decoder for one choice.
    pub fn new(tokenizer: Option<Arc<Tokenizer>>, options: DecodeOptions) -> Self {
        Self {
            tokenizer,
            detokenizer: Detokenizer::default(),
            matcher: StopMatcher::new(options.stops.clone(), options.include_stop),
            options,
            num_tokens: 0,
        }
    }

    /// Takes a token and appends what is certain to `text`. `is_end`: the engine ended the
    /// sequence with this token.
    pub fn push(&mut self, token_id: u32, is_end: bool, text: &mut String) -> Option<StopMatch> {
        self.num_tokens += 1;
        let tokenizer = self.tokenizer.as_ref()?;
        let hidden = self.options.skip_special_tokens && tokenizer.is_special(token_id);
        if hidden || (is_end && !self.options.include_stop) {
            return None;
        }
        let mut piece = String::new();
        self.detokenizer.push(tokenizer.token_bytes(token_id), &mut piece);
        if self.num_tokens < self.options.min_tokens {
            text.push_str(&piece);
            return None;
        }
        self.matcher.push(&piece, text)
    }

    /// Ends the text; gives a stop string that only the very end completed.
    pub fn finish(&mut self, text: &mut String) -> Option<StopMatch> {
        let mut piece = String::new();
        self.detokenizer.finish(&mut piece);
        let found = self.matcher.push(&piece, text);
        self.matcher.finish(text);
        found
    }
}
