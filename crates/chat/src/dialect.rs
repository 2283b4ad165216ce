//! Prompt formats: which tokens mark thoughts and tool calls, and how calls are written.

use std::fmt::Debug;
use std::str::FromStr;

use crate::Tokenizer;
use crate::dialects::token_calls::Header;
use crate::dialects::{deepseek, dsml, kimi, llama, mistral, plain, qwen, token_calls};

/// How a family of models writes thoughts and tool calls. Resolved once, at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// DeepSeek-V3 and R1: calls in a fenced JSON block.
    DeepSeekV3,
    /// DeepSeek-V3.1: calls as bare JSON.
    DeepSeekV31,
    /// DeepSeek-V3.2: calls in tags.
    DeepSeekV32,
    /// Kimi-K2.
    KimiK2,
    /// Qwen 2.5 and 3 (and others that write Hermes' `<tool_call>`).
    Qwen,
    /// Llama 3.1: a call is the whole answer.
    Llama3,
    /// Mistral.
    Mistral,
    /// None that is known: an answer in JSON is taken for a call where tools are offered.
    Plain,
}

/// Every dialect with the name that the configuration uses.
const NAMES: &[(&str, Dialect)] = &[
    ("deepseek-v3", Dialect::DeepSeekV3),
    ("deepseek-v3.1", Dialect::DeepSeekV31),
    ("deepseek-v3.2", Dialect::DeepSeekV32),
    ("kimi-k2", Dialect::KimiK2),
    ("qwen", Dialect::Qwen),
    ("llama3", Dialect::Llama3),
    ("mistral", Dialect::Mistral),
    ("plain", Dialect::Plain),
];

impl Dialect {
    /// Recognises the dialect by what the chat template writes.
    pub fn detect(template: Option<&str>) -> Self {
        let Some(template) = template else { return Self::Plain };
        let writes = |text: &str| template.contains(text);
        if writes("｜DSML｜") {
            Self::DeepSeekV32
        } else if writes("<｜tool▁sep｜>") {
            if writes("```json") { Self::DeepSeekV3 } else { Self::DeepSeekV31 }
        } else if writes("<|tool_calls_section_begin|>") {
            Self::KimiK2
        } else if writes("[TOOL_CALLS]") {
            Self::Mistral
        } else if writes("<tool_call>") {
            Self::Qwen
        } else if writes("<|python_tag|>") || (writes("<|start_header_id|>") && writes("\"parameters\"")) {
            Self::Llama3
        } else if writes("<｜User｜>") {
            Self::DeepSeekV3
        } else {
            Self::Plain
        }
    }

    /// Its name in the configuration and the log.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, dialect)| *dialect == self).expect("every dialect is named").0
    }

    /// Spelling of each marker.
    fn spelling(self) -> &'static [(&'static str, Marker)] {
        match self {
            Self::DeepSeekV3 | Self::DeepSeekV31 => deepseek::MARKERS,
            Self::KimiK2 => kimi::MARKERS,
            Self::Qwen => qwen::MARKERS,
            Self::Mistral => mistral::MARKERS,
            Self::Llama3 => llama::MARKERS,
            Self::DeepSeekV32 | Self::Plain => &[],
        }
    }

    /// A parser of what follows the thoughts. `tools`: names of the functions that may be called.
    pub(crate) fn call_parser(self, tools: &[String]) -> Box<dyn CallParser> {
        match self {
            Self::DeepSeekV3 => Box::new(token_calls::Parser::new(Header::Fenced)),
            Self::DeepSeekV31 => Box::new(token_calls::Parser::new(Header::Name)),
            Self::DeepSeekV32 => Box::new(dsml::Parser::default()),
            Self::KimiK2 => Box::new(token_calls::Parser::new(Header::Id)),
            Self::Qwen => Box::new(qwen::Parser::default()),
            Self::Mistral => Box::new(mistral::Parser::default()),
            Self::Llama3 | Self::Plain => Box::new(llama::Parser::new(tools)),
        }
    }

    /// How a call is written, for a grammar that forces one.
    pub(crate) fn call_format(self, markers: &Markers) -> CallFormat {
        match self {
            Self::DeepSeekV3 => deepseek::format(markers, true),
            Self::DeepSeekV31 => deepseek::format(markers, false),
            Self::DeepSeekV32 => dsml::format(),
            Self::KimiK2 => kimi::format(markers),
            Self::Qwen => qwen::format(markers),
            Self::Mistral => mistral::format(markers),
            Self::Llama3 | Self::Plain => plain::format(),
        }
    }

    /// Whether a call begins with a token that free text cannot hold.
    pub fn opens_calls_by_token(self, markers: &Markers) -> bool {
        self.call_format(markers).opening_token.is_some()
    }

    /// An id for a call that the model gave none. Mistral's templates take nine letters or digits only.
    pub fn call_id(self, random: u128) -> String {
        match self {
            Self::Mistral => format!("{random:032x}")[..9].to_owned(),
            _ => format!("call_{random:032x}")[..29].to_owned(),
        }
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, dialect)| *dialect).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("must be one of {}", known.join(", "))
        })
    }
}

/// What a token of control stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// A thought begins.
    ThinkOpen,
    /// A thought ends.
    ThinkClose,
    /// A block of calls begins.
    CallsOpen,
    /// A block of calls ends.
    CallsClose,
    /// A call begins.
    CallOpen,
    /// Between the parts of a call.
    Separator,
    /// A call ends.
    CallClose,
}

/// Token ids of a dialect's markers. Markers are matched by id: the same letters from ordinary tokens stay text.
#[derive(Debug, Clone, Default)]
pub struct Markers {
    ids: Vec<(u32, Marker)>,
    /// Tokens that begin a turn of the assistant: what the prompt says about thinking comes after the last.
    turns: Vec<u32>,
}

impl Markers {
    /// Looks the markers up.
    pub fn new(dialect: Dialect, tokenizer: &Tokenizer) -> Self {
        let think = [("<think>", Marker::ThinkOpen), ("</think>", Marker::ThinkClose)];
        let spelling = think.iter().chain(dialect.spelling());
        let ids = spelling.filter_map(|(text, marker)| Some((tokenizer.control_id(text)?, *marker))).collect();
        let turns = ["<｜Assistant｜>", "<|im_start|>", "<|im_assistant|>", "<|start_header_id|>", "[/INST]"];
        Self { ids, turns: turns.iter().filter_map(|text| tokenizer.control_id(text)).collect() }
    }

    /// What a token stands for, if for anything.
    pub fn of(&self, id: u32) -> Option<Marker> {
        self.ids.iter().find(|(known, _)| *known == id).map(|(_, marker)| *marker)
    }

    /// The first token of a kind.
    pub fn id(&self, marker: Marker) -> Option<u32> {
        self.ids.iter().find(|(_, known)| *known == marker).map(|(id, _)| *id)
    }

    /// Whether the model can think.
    pub fn has_thoughts(&self) -> bool {
        self.id(Marker::ThinkOpen).is_some() && self.id(Marker::ThinkClose).is_some()
    }

    /// Where the answer to a prompt starts: the last think marker of the assistant's open turn decides.
    pub fn start(&self, prompt: &[u32]) -> Start {
        let turn = prompt.iter().rposition(|id| self.turns.contains(id)).map_or(0, |index| index + 1);
        let last = prompt[turn..].iter().rev().find_map(|id| match self.of(*id) {
            Some(Marker::ThinkOpen) => Some(Start::Thought),
            Some(Marker::ThinkClose) => Some(Start::Content),
            _ => None,
        });
        match last {
            Some(start) => start,
            None if self.has_thoughts() => Start::Open,
            None => Start::Content,
        }
    }
}

/// Where an answer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Inside a thought.
    Thought,
    /// In the answer proper.
    Content,
    /// The model decides: a thought, if it writes the marker.
    Open,
}

/// A token's part of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text.
    Text(&'a str),
    /// A marker, and the text that it would be if it meant nothing here.
    Marker(Marker, &'a str),
}

impl<'a> Piece<'a> {
    /// Its text.
    pub fn text(self) -> &'a str {
        match self {
            Self::Text(text) | Self::Marker(_, text) => text,
        }
    }
}

/// What an answer consists of, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputEvent {
    /// More of the thought.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A call begins.
    CallStart {
        /// The function.
        name: String,
        /// The id that the model chose, if its dialect has ids.
        id: Option<String>,
    },
    /// More of the last call's arguments, as the model wrote them.
    CallArguments(String),
}

/// Reads what follows the thoughts: content and calls.
pub(crate) trait CallParser: Send + Debug {
    /// Takes a piece.
    fn push(&mut self, piece: Piece, events: &mut Vec<OutputEvent>);
    /// Ends the answer.
    fn finish(&mut self, events: &mut Vec<OutputEvent>);
    /// Whether a block of calls is open.
    fn is_open(&self) -> bool;
}

/// How calls are written: lark fragments. A call is `before_name NAME before_arguments ARGUMENTS after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallFormat {
    /// Opens the block of calls.
    pub open: String,
    /// In front of the name.
    pub before_name: String,
    /// What stands directly before and after the name inside its string literal.
    pub around_name: (&'static str, &'static str),
    /// Between name and arguments.
    pub before_arguments: String,
    /// After the arguments.
    pub after: String,
    /// Between two calls.
    pub between: String,
    /// Closes the block.
    pub close: String,
    /// The token that opens a block, where it is one: free text cannot hold it.
    pub opening_token: Option<u32>,
    /// How arguments are written.
    pub arguments: ArgumentFormat,
}

/// How arguments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArgumentFormat {
    /// One JSON object.
    Json,
    /// DeepSeek-V3.2's tags.
    Tags,
}

/// A token id in lark.
pub(crate) fn lark_token(markers: &Markers, marker: Marker) -> String {
    markers.id(marker).map_or_else(String::new, |id| format!("<[{id}]>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_detection() {
        for (name, dialect) in NAMES {
            assert_eq!((name.parse(), dialect.name()), (Ok(*dialect), *name));
        }
        assert!("gpt".parse::<Dialect>().is_err());
        assert_eq!(Dialect::Mistral.call_id(7).len(), 9);
        assert_eq!(Dialect::detect(None), Dialect::Plain);
        assert_eq!(Dialect::detect(Some("User: {{ x }}")), Dialect::Plain);
    }
}
