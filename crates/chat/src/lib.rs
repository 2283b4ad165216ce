//! From messages to token ids, and from token ids back to text.
//!
//! **Architecture invariant:** this crate knows no HTTP, no scheduling and no tensors.

mod chat_template;
mod detokenizer;
mod output;
mod prompt;
mod python_value;
mod stop_matcher;
mod tokenizer;

pub use chat_template::{ChatTemplate, TemplateError};
pub use detokenizer::Detokenizer;
pub use output::{ChoiceDecoder, DecodeOptions};
pub use prompt::{PromptError, PromptOptions, PromptRenderer};
pub use stop_matcher::{StopMatch, StopMatcher};
pub use tokenizer::{Tokenizer, TokenizerError};
