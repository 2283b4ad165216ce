//! Constrained decoding, as the engine sees it: a set of allowed tokens per step.

/// One bit per token id; a set bit allows the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// Forbids everything.
    pub fn none(vocab_size: usize) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(32)] }
    }

    /// From one bit per token id, in words of 32.
    pub fn from_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// Allows a token.
    pub fn allow(&mut self, token_id: u32) {
        self.words[token_id as usize / 32] |= 1 << (token_id % 32);
    }

    /// One bit per token id, in words of 32.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Whether a token is allowed; ids beyond the mask are not.
    pub fn allows(&self, token_id: u32) -> bool {
        self.words.get(token_id as usize / 32).is_some_and(|word| word >> (token_id % 32) & 1 == 1)
    }
}

/// What a sequence may say. Lives with the sequence in the engine, so a preemption does not
/// touch it: it follows accepted tokens, not computed ones.
pub trait TokenConstraint: Send {
    /// Starts on the next mask, where that happens elsewhere: those of a step are all asked for before one is waited for.
    fn ask(&mut self) {}
    /// Tokens allowed next; `None` when all are.
    fn mask(&mut self) -> Option<TokenMask>;
    /// Moves on by one accepted token.
    fn accept(&mut self, token_id: u32);
    /// Takes back the last `count` accepted tokens.
    fn rollback(&mut self, count: usize);
    /// A copy in the same state, for another choice of the same request.
    fn fork(&self) -> Box<dyn TokenConstraint>;
}
