//! From messages to token ids, and from token ids back to text.
//!
//! **Architecture invariant:** this crate knows no HTTP, no scheduling and no tensors.

mod chat_template;
mod constraint;
mod detokenizer;
mod dialect;
mod dialects;
mod ebnf;
mod grammar;
mod grammar_compiler;
mod helper;
mod jinja_filters;
mod jinja_functions;
mod jinja_source;
mod json_schema;
mod matcher;
mod output;
mod output_parser;
mod prompt;
mod python_format;
mod python_methods;
mod python_value;
mod stop_matcher;
mod template_messages;
mod template_shape;
mod text_rules;
mod text_wrap;
mod tokenizer;
mod tool_input;

pub use chat_template::{ChatTemplate, TemplateError};
pub use constraint::{OutputConstraint, OutputRules};
pub use detokenizer::Detokenizer;
pub use dialect::{Dialect, Marker, Markers, OutputEvent, Piece, Start};
pub use grammar::{AnswerFormat, CallRules, CallableTool, GrammarError, Otherwise};
pub use grammar_compiler::{GRAMMAR_LIMITS, GrammarCompiler};
pub use helper::{CompileError, GrammarHost, GrammarSource, HelperOptions, HelperTokenizer, run_helper};
pub use matcher::CompiledGrammar;
pub use output::{ChatFormat, ChoiceDecoder, DecodeOptions};
pub use output_parser::OutputParser;
pub use prompt::{PromptError, PromptOptions, PromptRenderer};
pub use stop_matcher::{StopMatch, StopMatcher};
pub use tokenizer::{Tokenizer, TokenizerError};
pub use tool_input::{InputDecoder, InputGrammar, text_arguments, text_tool};
