//! Grammars compiled to token masks by llguidance.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};

use crate::matcher::{CompiledGrammar, LocalMatcher, Place};
use crate::{AnswerFormat, Dialect, GrammarError, Markers, Tokenizer};

/// Compiling recurses as deep as a grammar's rules are chained: at most one per few bytes of its source. The pages of a
/// stack that are not used cost nothing.
const STACK_BYTES: usize = 1 << 30;
/// What compiling and following a grammar may take; beyond, it is refused or ends.
pub const GRAMMAR_LIMITS: ParserLimits = ParserLimits {
    // An object of 2,000 properties that may all be missing takes 8,000.
    max_items_in_row: 10_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 100_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// Compiles grammars for one tokenizer, in this process: what exhausts its stack ends the process. A server compiles by
/// [`GrammarHost`](crate::GrammarHost).
pub struct GrammarCompiler {
    factory: ParserFactory,
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GrammarCompiler")
    }
}

impl GrammarCompiler {
    /// Builds the tables that all grammars share: some tenths of a second for a large vocabulary.
    ///
    /// # Errors
    /// When the tokenizer cannot be used for grammars.
    pub fn new(tokenizer: Arc<Tokenizer>, eos_token_ids: &[u32]) -> Result<Self, GrammarError> {
        let Some(first_eos) = eos_token_ids.first() else {
            return Err(GrammarError(
                "the model has no end-of-sequence token, so constrained output cannot end".to_owned(),
            ));
        };
        // Tokens of control are out of reach for texts: the marker byte occurs in no UTF-8.
        let word = |id: u32| {
            let bytes = tokenizer.token_bytes(id);
            let marker = tokenizer.is_control(id).then_some(TokTrie::SPECIAL_TOKEN_MARKER);
            marker.into_iter().chain(bytes.iter().copied()).collect::<Vec<u8>>()
        };
        let words: Vec<Vec<u8>> = (0..tokenizer.num_ids() as u32).map(word).collect();
        let trie =
            TokTrie::from(&TokRxInfo::new(words.len() as u32, *first_eos), &words).with_eos_tokens(eos_token_ids);
        let environment: TokEnv = Arc::new(Environment { trie, tokenizer });
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = GRAMMAR_LIMITS;
        Ok(Self { factory })
    }

    /// Compiles a grammar, on a thread of its own with a large stack.
    ///
    /// # Errors
    /// When it is invalid, unsupported or exceeds a bound.
    pub fn compile(
        &self,
        format: &AnswerFormat,
        dialect: Dialect,
        markers: &Markers,
    ) -> Result<CompiledGrammar, GrammarError> {
        let source = format.lark(dialect, markers)?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let thread = thread
                .spawn_scoped(scope, || self.compile_here(&source))
                .map_err(|error| GrammarError(format!("could not be compiled: {error}")))?;
            let matcher = thread.join().unwrap_or_else(|_| Err(contradictory()))?;
            Ok(CompiledGrammar(Place::Here(Box::new(matcher))))
        })
    }

    /// Compiles a grammar in Lark, on this thread. Some contradictions end in a panic.
    pub(crate) fn compile_here(&self, source: &str) -> Result<LocalMatcher, GrammarError> {
        self.matcher(source).map(LocalMatcher::new)
    }

    pub(crate) fn matcher(&self, source: &str) -> Result<Matcher, GrammarError> {
        let grammar = TopLevelGrammar::from_lark(source.to_owned());
        let parser = self.factory.create_parser(grammar).map_err(|error| reason(&error.to_string()))?;
        let mut matcher = Matcher::new(Ok(parser));
        // What nothing can satisfy shows at the first token.
        match matcher.compute_mask_or_eos() {
            Err(error) => Err(reason(&error.to_string())),
            Ok(mask) if mask.is_zero() => Err(GrammarError("nothing can satisfy it".to_owned())),
            Ok(_) => Ok(matcher),
        }
    }
}

/// What a compilation that panicked says.
pub(crate) fn contradictory() -> GrammarError {
    GrammarError("is contradictory: it cannot be compiled".to_owned())
}

struct Environment {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| match self.tokenizer.encode(text) {
            Ok(ids) if !ids.iter().any(|id| self.tokenizer.is_control(*id)) => ids,
            // What spells a token of control stays text: the token itself is out of a text's reach.
            _ => self.trie.greedy_tokenize(text.as_bytes()),
        })
    }
}

/// What the library says, without its insides.
fn reason(text: &str) -> GrammarError {
    let line = text.lines().next().unwrap_or_default().trim();
    // It catches its own panics and tells where they were.
    let is_inside =
        ["panic", "assertion", "src/", "min=Some(", "NoExtensionBias"].iter().any(|word| line.contains(word));
    GrammarError(if is_inside { "it is too large or contradictory".to_owned() } else { line.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_insides_of_the_library_reach_nobody() {
        for inside in ["panic: assertion failed: a < b", "range: min=Some(5)", "at src/json/compiler.rs:5"] {
            assert_eq!(reason(inside).to_string(), "it is too large or contradictory");
        }
        assert_eq!(reason("unknown name: \"X\"\nmore").to_string(), "unknown name: \"X\"");
    }
}
