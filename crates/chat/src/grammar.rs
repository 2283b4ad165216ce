//! What an answer must look like, and its grammar's source.

use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::closed_schema;
use crate::dialect::{ArgumentFormat, CallFormat};
use crate::{Dialect, Markers};

/// Bounds of a grammar: what exceeds them is refused, never allowed to slow the server down.
const MAX_SOURCE_BYTES: usize = 128 << 10;
const MAX_CHOICES: usize = 4096;
const MAX_PROPERTIES: usize = 2000;

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
    /// Text of a grammar in llguidance's dialect of lark.
    Lark(String),
    /// Tool calls.
    Calls(CallRules),
}

/// Which calls an answer may or must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRules {
    /// Functions with the schemas of their arguments.
    pub tools: Vec<(String, Value)>,
    /// What may stand in a call's place.
    pub otherwise: Otherwise,
    /// More than one call is allowed.
    pub parallel: bool,
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

/// The source of a format's grammar.
///
/// # Errors
/// When it is invalid, unsupported or exceeds a bound.
pub(crate) fn source(
    format: &AnswerFormat,
    dialect: Dialect,
    markers: &Markers,
) -> Result<TopLevelGrammar, GrammarError> {
    Ok(match format {
        AnswerFormat::JsonObject => TopLevelGrammar::from_json_schema(compact(&json!({"type": "object"}))?),
        AnswerFormat::JsonSchema(schema) => TopLevelGrammar::from_json_schema(compact(schema)?),
        AnswerFormat::Regex(pattern) => TopLevelGrammar::from_regex(bounded(pattern)?),
        AnswerFormat::Choice(choices) => TopLevelGrammar::from_lark(choice(choices)?),
        AnswerFormat::Lark(source) => TopLevelGrammar::from_lark(bounded(source)?.to_owned()),
        AnswerFormat::Calls(rules) => TopLevelGrammar::from_lark(calls(rules, &dialect.call_format(markers))?),
    })
}

fn bounded(source: &str) -> Result<&str, GrammarError> {
    match source.len() {
        0 => Err(GrammarError("must not be empty".to_owned())),
        length if length > MAX_SOURCE_BYTES => {
            Err(GrammarError(format!("has {length} bytes, at most {MAX_SOURCE_BYTES} are taken")))
        }
        _ => Ok(source),
    }
}

/// The schema without room for white space or undeclared properties: every answer is as short as its content.
fn compact(schema: &Value) -> Result<Value, GrammarError> {
    bounded(&schema.to_string())?;
    let num_properties = num_properties(schema);
    if num_properties > MAX_PROPERTIES {
        return Err(GrammarError(format!("has {num_properties} properties, at most {MAX_PROPERTIES} are taken")));
    }
    let mut schema = match schema {
        Value::Object(map) => map.clone(),
        Value::Bool(true) => Map::new(),
        _ => return Err(GrammarError("must be an object".to_owned())),
    };
    closed_schema::close(&mut schema);
    schema.insert("x-guidance".to_owned(), json!({"whitespace_flexible": false}));
    Ok(schema.into())
}

fn num_properties(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => {
            let own = map.get("properties").and_then(Value::as_object).map_or(0, Map::len);
            own + map.values().map(num_properties).sum::<usize>()
        }
        Value::Array(items) => items.iter().map(num_properties).sum(),
        _ => 0,
    }
}

fn choice(choices: &[String]) -> Result<String, GrammarError> {
    if choices.is_empty() || choices.len() > MAX_CHOICES {
        return Err(GrammarError(format!("must hold 1 to {MAX_CHOICES} texts")));
    }
    if choices.iter().any(String::is_empty) {
        return Err(GrammarError("must not hold an empty text".to_owned()));
    }
    let quoted: Vec<String> = choices.iter().map(|choice| quote(choice)).collect();
    bounded(&quoted.concat())?;
    Ok(format!("start: {}", quoted.join(" | ")))
}

/// A string literal of lark, which wants what JSON leaves as it is escaped.
fn quote(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// The grammar of an answer with calls.
fn calls(rules: &CallRules, format: &CallFormat) -> Result<String, GrammarError> {
    let mut lines = Vec::new();
    for (index, (name, schema)) in rules.tools.iter().enumerate() {
        let literal = quote(&format!("{}{name}{}", format.around_name.0, format.around_name.1));
        let arguments = arguments(index, schema, format.arguments, &mut lines)?;
        let CallFormat { before_name, before_arguments, after, .. } = format;
        lines.push(format!("call_{index}: {before_name} {literal} {before_arguments} {arguments} {after}"));
    }
    let names: Vec<String> = (0..rules.tools.len()).map(|index| format!("call_{index}")).collect();
    lines.push(format!("call: {}", names.join(" | ")));
    let more = if rules.parallel { format!("({} call)*", format.between) } else { String::new() };
    lines.push(format!("calls: {} call {more} {}", format.open, format.close));
    lines.push(match &rules.otherwise {
        Otherwise::Nothing => "start: calls".to_owned(),
        // Free text holds no token of control, so the one that opens a call always opens one.
        Otherwise::Text => "start: TEXT? calls?\nTEXT: /(?s:.)+/".to_owned(),
        Otherwise::Json(schema) => format!("start: calls | answer\nanswer: %json {}", compact(schema)?),
    });
    Ok(lines.join("\n"))
}

/// Adds the rules of one function's arguments and gives the name of the first.
fn arguments(
    index: usize,
    schema: &Value,
    format: ArgumentFormat,
    lines: &mut Vec<String>,
) -> Result<String, GrammarError> {
    let rule = format!("arguments_{index}");
    let mut object = schema.as_object().cloned().unwrap_or_default();
    if !["type", "$ref", "anyOf"].iter().any(|key| object.contains_key(*key)) {
        object.insert("type".to_owned(), "object".into());
    }
    match format {
        ArgumentFormat::Json => lines.push(format!("{rule}: %json {}", compact(&object.into())?)),
        ArgumentFormat::Tags => tags(&rule, &object, lines)?,
    }
    Ok(rule)
}

/// Arguments as DeepSeek-V3.2's tags, in the order of the schema.
fn tags(rule: &str, object: &Map<String, Value>, lines: &mut Vec<String>) -> Result<(), GrammarError> {
    let required = object.get("required").and_then(Value::as_array);
    let mut parts = Vec::new();
    for (number, (name, schema)) in
        object.get("properties").and_then(Value::as_object).into_iter().flatten().enumerate()
    {
        let part = format!("{rule}_{number}");
        let mut schema = schema.as_object().cloned().unwrap_or_default();
        if let Some(definitions) = object.get("$defs") {
            schema.insert("$defs".to_owned(), definitions.clone());
        }
        let is_bound = ["enum", "const", "pattern", "format"].iter().any(|key| schema.contains_key(*key));
        let is_text = schema.get("type").is_some_and(|kind| kind == "string") && !is_bound;
        let open = quote(&format!("<｜DSML｜parameter name=\"{name}\" string=\"{is_text}\">"));
        let value = if is_text {
            // Up to the closing tag; the lexer never takes a character back.
            lines.push(format!("{}: /[^<]*/", part.to_uppercase()));
            part.to_uppercase()
        } else {
            lines.push(format!("{part}_json: %json {}", compact(&schema.into())?));
            format!("{part}_json")
        };
        lines.push(format!("{part}: {open} {value} \"</｜DSML｜parameter>\\n\""));
        let is_required = required.is_some_and(|names| names.iter().any(|required| required == name));
        parts.push(if is_required { part } else { format!("{part}?") });
    }
    lines.push(format!("{rule}: {}", if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") }));
    Ok(())
}
