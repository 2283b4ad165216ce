//! What an answer must look like, and its grammar's source.

use serde_json::{Value, json};
use thiserror::Error;

use crate::dialect::{ArgumentFormat, CallFormat};
use crate::json_schema::{self, Budget, Enforcement, Root, literal};
use crate::text_rules::bounded;
use crate::{Dialect, InputGrammar, Markers, ebnf, text_rules};

/// Most texts to choose from.
const MAX_CHOICES: usize = 4096;

/// Keywords of arguments that are written as tags.
const TAGGED: [&str; 6] = ["type", "properties", "required", "additionalProperties", "$defs", "definitions"];
/// Keywords that assert nothing.
const SILENT: [&str; 7] = ["title", "description", "default", "examples", "$schema", "$comment", "deprecated"];

/// Why a grammar was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct GrammarError(pub(crate) String);

impl GrammarError {
    /// Texts cannot be constrained without a tokenizer.
    pub fn no_tokenizer() -> Self {
        Self("this model has no tokenizer, so its output cannot be constrained".to_owned())
    }
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a grammar: in llguidance's dialect of Lark, or in EBNF with `root ::= …`.
    Grammar(String),
    /// Tool calls.
    Calls(CallRules),
}

/// Which calls an answer may or must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRules {
    /// Functions that may be called.
    pub tools: Vec<CallableTool>,
    /// What may stand in a call's place.
    pub otherwise: Otherwise,
    /// More than one call is allowed.
    pub parallel: bool,
}

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct CallableTool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
    /// The schema must be enforced as a whole; otherwise what cannot be enforced of it is a hint.
    pub strict: bool,
    /// The tool takes text of a grammar, in the place of what the schema says.
    pub input: Option<InputGrammar>,
}

/// What an answer may be where it holds no call.
#[derive(Debug, Clone, PartialEq)]
pub enum Otherwise {
    /// A call is a must.
    Nothing,
    /// Free text, also in front of a call.
    Text,
    /// JSON that a schema describes.
    Json(Value),
}

impl AnswerFormat {
    /// The grammar of answers that look so, in Lark.
    ///
    /// # Errors
    /// When the format is invalid, unsupported or exceeds a bound.
    pub fn lark(&self, dialect: Dialect, markers: &Markers) -> Result<String, GrammarError> {
        match self {
            Self::JsonObject => schema(&json!({"type": "object"})),
            Self::JsonSchema(value) => schema(value),
            Self::Regex(pattern) => Ok(format!("start: {}", text_rules::regex(bounded(pattern)?))),
            Self::Choice(choices) => choice(choices),
            Self::Grammar(text) if ebnf::is_ebnf(text) => ebnf::to_lark(bounded(text)?).map_err(GrammarError),
            Self::Grammar(text) => text_rules::with_schemas_written(bounded(text)?),
            Self::Calls(rules) => calls(rules, &dialect.call_format(markers)),
        }
    }
}

/// Rules that are being written, and what their schemas may still cost together.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    budget: Budget,
}

impl Lines {
    fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Adds a schema's rules and gives the name of the first.
    fn schema(
        &mut self,
        schema: &Value,
        enforcement: Enforcement,
        root: Root,
        prefix: &str,
    ) -> Result<String, GrammarError> {
        let rules = json_schema::rules(schema, enforcement, root, prefix, &mut self.budget);
        let rules = rules.map_err(|error| GrammarError(error.to_string()))?;
        self.lines.extend(rules.lines);
        Ok(rules.start)
    }
}

/// A grammar of values that a schema describes.
fn schema(schema: &Value) -> Result<String, GrammarError> {
    let mut lines = Lines::default();
    let start = lines.schema(schema, Enforcement::Strict, Root::Any, "")?;
    lines.push(format!("start: {start}"));
    Ok(lines.lines.join("\n"))
}

fn choice(choices: &[String]) -> Result<String, GrammarError> {
    if choices.is_empty() || choices.len() > MAX_CHOICES {
        return Err(GrammarError(format!("must hold 1 to {MAX_CHOICES} texts")));
    }
    if choices.iter().any(String::is_empty) {
        return Err(GrammarError("must not hold an empty text".to_owned()));
    }
    let quoted: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
    bounded(&quoted.concat())?;
    Ok(format!("start: {}", quoted.join(" | ")))
}

/// The grammar of an answer with calls.
fn calls(rules: &CallRules, format: &CallFormat) -> Result<String, GrammarError> {
    let mut lines = Lines::default();
    for (index, tool) in rules.tools.iter().enumerate() {
        let name = &tool.name;
        let quoted = literal(&format!("{}{name}{}", format.around_name.0, format.around_name.1));
        let arguments = arguments(index, tool, format.arguments, &mut lines)
            .map_err(|GrammarError(error)| GrammarError(format!("of the tool {name:?}: {error}")))?;
        let CallFormat { before_name, before_arguments, after, .. } = format;
        lines.push(format!("call_{index}: {before_name} {quoted} {before_arguments} {arguments} {after}"));
    }
    let names: Vec<String> = (0..rules.tools.len()).map(|index| format!("call_{index}")).collect();
    lines.push(format!("call: {}", names.join(" | ")));
    let more = if rules.parallel { format!("({} call)*", format.between) } else { String::new() };
    lines.push(format!("calls: {} call {more} {}", format.open, format.close));
    match &rules.otherwise {
        Otherwise::Nothing => lines.push("start: calls".to_owned()),
        // Free text holds no token of control, so the one that opens a call always opens one.
        Otherwise::Text => lines.push("start: TEXT? calls?\nTEXT: /(?s:.)+/".to_owned()),
        Otherwise::Json(schema) => {
            let answer = lines.schema(schema, Enforcement::Strict, Root::Any, "answer_")?;
            lines.push(format!("start: calls | {answer}"));
        }
    }
    Ok(lines.lines.join("\n"))
}

/// Adds the rules of one function's arguments and gives the name of the first.
fn arguments(
    index: usize,
    tool: &CallableTool,
    format: ArgumentFormat,
    lines: &mut Lines,
) -> Result<String, GrammarError> {
    let enforcement = if tool.strict { Enforcement::Strict } else { Enforcement::Hint };
    if let Some(input) = &tool.input {
        return text_input(index, input, format, lines);
    }
    if format == ArgumentFormat::Tags {
        return tags(index, &tool.parameters, enforcement, lines);
    }
    let prefix = format!("arguments_{index}_");
    let written = lines.schema(&tool.parameters, enforcement, Root::Object, &prefix);
    if tool.strict {
        return written;
    }
    // A hint that is too large to follow is none.
    written.or_else(|_| {
        let mut free = Lines::default();
        let start = free.schema(&json!({"type": "object"}), enforcement, Root::Object, &prefix)?;
        lines.lines.append(&mut free.lines);
        Ok(start)
    })
}

/// Adds the rules of a text that is a function's only argument.
fn text_input(
    index: usize,
    input: &InputGrammar,
    format: ArgumentFormat,
    lines: &mut Lines,
) -> Result<String, GrammarError> {
    let rule = format!("arguments_{index}");
    if format == ArgumentFormat::Tags {
        let open = literal("<｜DSML｜parameter name=\"input\" string=\"true\">");
        lines.push(format!("{rule}: {open} {rule}_text \"</｜DSML｜parameter>\\n\""));
        lines.lines.extend(input.plain(&format!("{rule}_text"))?);
    } else {
        let rules = input.in_json(&rule, &mut lines.budget)?;
        lines.lines.extend(rules);
    }
    Ok(rule)
}

/// Arguments as DeepSeek-V3.2's tags, in the order of the schema.
fn tags(index: usize, schema: &Value, enforcement: Enforcement, lines: &mut Lines) -> Result<String, GrammarError> {
    let rule = format!("arguments_{index}");
    let keys = schema.as_object().into_iter().flatten();
    let beyond = keys.map(|(key, _)| key.as_str()).find(|key| !TAGGED.contains(key) && !SILENT.contains(key));
    if let Some(key) = beyond.filter(|_| enforcement == Enforcement::Strict) {
        return Err(GrammarError(format!("{key} cannot be enforced in arguments that this model writes as tags")));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    if properties.is_none() && schema.get("additionalProperties") != Some(&Value::Bool(false)) {
        // Any names and texts.
        let (open, close) = ("\"<｜DSML｜parameter name=\\\"\"", "\"\\\" string=\\\"true\\\">\"");
        lines.push(format!("{rule}: ({open} /[^\"<]+/ {close} /[^<]*/ \"</｜DSML｜parameter>\\n\")*"));
        return Ok(rule);
    }
    let required = schema.get("required").and_then(Value::as_array);
    let mut parts = Vec::new();
    for (number, (name, property)) in properties.into_iter().flatten().enumerate() {
        let part = format!("{rule}_{number}");
        let is_required = required.is_some_and(|names| names.iter().any(|required| required == name));
        if *property == Value::Bool(false) && !is_required {
            continue;
        }
        let mut property = property.as_object().cloned().unwrap_or_default();
        let is_bound = property.keys().any(|key| key != "type" && !SILENT.contains(&key.as_str()));
        let is_text = property.get("type").is_some_and(|kind| kind == "string") && !is_bound;
        let open = literal(&format!("<｜DSML｜parameter name=\"{name}\" string=\"{is_text}\">"));
        let value = if is_text {
            // Up to the closing tag; the lexer never takes a character back.
            lines.push(format!("{}: /[^<]*/", part.to_uppercase()));
            part.to_uppercase()
        } else {
            // References are read from the property now.
            for key in ["$defs", "definitions"] {
                if let Some(definitions) = schema.get(key) {
                    property.entry(key).or_insert_with(|| definitions.clone());
                }
            }
            lines
                .schema(&Value::from(property), enforcement, Root::Any, &format!("{part}_"))
                .map_err(|GrammarError(error)| GrammarError(format!("properties.{name}.{error}")))?
        };
        lines.push(format!("{part}: {open} {value} \"</｜DSML｜parameter>\\n\""));
        parts.push(if is_required { part } else { format!("{part}?") });
    }
    lines.push(format!("{rule}: {}", if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") }));
    Ok(rule)
}
