//! What an answer must look like: from the fields of a request to the engine's constraint.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use moesaic_chat::{
    AnswerFormat, CompiledGrammar, GrammarCompiler, GrammarError, Marker, Markers, Otherwise, OutputConstraint,
    OutputRules, Start,
};
use moesaic_engine::{TokenConstraint, TokenMask};
use moesaic_protocol::FormatFields;
use serde_json::Value;

use crate::error::ApiError;
use crate::state::{AppState, Serving};
use crate::tools::ToolSettings;
use crate::validate::sampling::ValidSampling;

/// A grammar that takes longer to compile is refused.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(2);
/// A request waits so long for its turn to compile.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// A format and the field that asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedFormat {
    /// The field.
    pub param: &'static str,
    /// What it asks for.
    pub format: AnswerFormat,
}

impl WantedFormat {
    /// Reads the format fields. `None` for plain text.
    ///
    /// # Errors
    /// When a field is wrong or more than one asks for a format.
    pub fn new(fields: &FormatFields) -> Result<Option<Self>, ApiError> {
        let mut wanted = Vec::new();
        let mut want = |param: &'static str, format: Option<AnswerFormat>| {
            wanted.extend(format.map(|format| Self { param, format }));
        };
        want("response_format", response_format(fields.response_format.as_ref())?);
        if let Some(outputs) = &fields.structured_outputs {
            if outputs.structural_tag.is_some() {
                return Err(ApiError::invalid("structured_outputs.structural_tag", "is not supported"));
            }
            let is_object = outputs.json_object == Some(true);
            want("structured_outputs.json_object", is_object.then_some(AnswerFormat::JsonObject));
            want("structured_outputs.json", schema("structured_outputs.json", outputs.json.as_ref())?);
            want("structured_outputs.regex", outputs.regex.clone().map(AnswerFormat::Regex));
            want("structured_outputs.choice", outputs.choice.clone().map(AnswerFormat::Choice));
            want("structured_outputs.grammar", outputs.grammar.clone().map(AnswerFormat::Lark));
        }
        want("guided_json", schema("guided_json", fields.guided_json.as_ref())?);
        want("guided_regex", fields.guided_regex.clone().map(AnswerFormat::Regex));
        want("guided_choice", fields.guided_choice.clone().map(AnswerFormat::Choice));
        want("guided_grammar", fields.guided_grammar.clone().map(AnswerFormat::Lark));
        if let [first, second, ..] = wanted.as_slice() {
            return Err(ApiError::conflict(second.param, first.param));
        }
        Ok(wanted.pop())
    }
}

fn response_format(value: Option<&Value>) -> Result<Option<AnswerFormat>, ApiError> {
    let invalid = |field: &str, message: &str| Err(ApiError::invalid(format!("response_format{field}"), message));
    let Some(value) = value else { return Ok(None) };
    if !value.is_object() {
        return invalid("", "must be an object with a type");
    }
    match value["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(AnswerFormat::JsonObject)),
        Some("json_schema") => {
            let inner = &value["json_schema"];
            if !inner.is_object() {
                return invalid(".json_schema", "must be an object with a name and a schema");
            }
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if !inner["name"].as_str().is_some_and(|name| (1..=64).contains(&name.len()) && name.bytes().all(is_plain))
            {
                return invalid(".json_schema.name", "must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -");
            }
            match &inner["schema"] {
                Value::Null => invalid(".json_schema.schema", "is required"),
                schema @ Value::Object(_) => Ok(Some(AnswerFormat::JsonSchema(schema.clone()))),
                _ => invalid(".json_schema.schema", "must be a JSON schema, that is an object"),
            }
        }
        _ => invalid(".type", "must be \"text\", \"json_object\" or \"json_schema\""),
    }
}

/// A schema as an object, or as the text of one.
fn schema(param: &'static str, value: Option<&Value>) -> Result<Option<AnswerFormat>, ApiError> {
    let parsed = match value {
        None => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| ApiError::invalid(param, format!("is no JSON schema: {error}")))?,
        Some(value) => value.clone(),
    };
    if parsed.is_object() || parsed == Value::Bool(true) {
        return Ok(Some(AnswerFormat::JsonSchema(parsed)));
    }
    Err(ApiError::invalid(param, "must be a JSON schema, that is an object"))
}

/// All rules of an answer that the sampler's settings do not cover.
#[derive(Debug, Clone, Default)]
pub struct AnswerRules {
    /// What the answer must look like.
    pub format: Option<WantedFormat>,
    /// Tools that may be called.
    pub tools: Option<ToolSettings>,
    /// Most tokens of thought.
    pub thinking_budget: Option<u32>,
}

impl AnswerRules {
    /// Refuses combinations that could leave no token to choose.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self, sampling: &ValidSampling, markers: &Markers) -> Result<(), ApiError> {
        if self.thinking_budget.is_some() {
            let close = markers.id(Marker::ThinkClose);
            if close.is_some_and(|close| sampling.params.stop_token_ids.contains(&close)) {
                let message = "must not hold the token that ends a thought, together with thinking_token_budget";
                return Err(ApiError::invalid("stop_token_ids", message));
            }
        }
        if let (Some(format), Some(_)) = (&self.format, &self.tools)
            && !matches!(format.format, AnswerFormat::JsonObject | AnswerFormat::JsonSchema(_))
        {
            return Err(ApiError::conflict(format.param, "tools"));
        }
        let by = match (&self.format, &self.tools) {
            (Some(format), _) => format.param,
            (None, Some(tools)) if tools.required => "tool_choice",
            _ => return Ok(()),
        };
        match conflict(sampling) {
            Some(field) => Err(ApiError::conflict(field, by)),
            None => Ok(()),
        }
    }

    /// Compiles the rules. `None` when nothing is ruled.
    ///
    /// # Errors
    /// When a grammar is invalid, unsupported, too large or too slow.
    pub async fn constraint(
        &self,
        state: &AppState,
        serving: &Arc<Serving>,
        sampling: &ValidSampling,
        start: Start,
    ) -> Result<Option<Box<dyn TokenConstraint>>, ApiError> {
        let grammar = self.grammar(state, serving, sampling).await?;
        if grammar.is_none()
            && self.thinking_budget.is_none()
            && sampling.allowed_token_ids.is_none()
            && sampling.bad_words.is_empty()
        {
            return Ok(None);
        }
        let rules = OutputRules {
            grammar,
            thinking_budget: self.thinking_budget,
            allowed: sampling.allowed_token_ids.clone(),
            bad_words: sampling.bad_words.clone(),
        };
        let num_ids = serving.tokenizer.as_ref().map_or(serving.vocab_size, |tokenizer| tokenizer.num_ids());
        let markers = Arc::clone(&serving.markers);
        let constraint = OutputConstraint::new(rules, start, num_ids, &serving.eos_token_ids, markers);
        Ok(Some(Box::new(EngineConstraint(constraint))))
    }

    async fn grammar(
        &self,
        state: &AppState,
        serving: &Arc<Serving>,
        sampling: &ValidSampling,
    ) -> Result<Option<CompiledGrammar>, ApiError> {
        let otherwise = match self.format.as_ref().map(|wanted| &wanted.format) {
            Some(AnswerFormat::JsonSchema(schema)) => Otherwise::Json(schema.clone()),
            Some(AnswerFormat::JsonObject) => Otherwise::Json(serde_json::json!({"type": "object"})),
            _ => Otherwise::Text,
        };
        let Some(tools) = &self.tools else {
            let Some(wanted) = &self.format else { return Ok(None) };
            return compile(state, serving, wanted.param, wanted.format.clone()).await.map(Some);
        };
        let is_promised = tools.required || self.format.is_some();
        let (opens_by_token, conflicts) =
            (serving.dialect.opens_calls_by_token(&serving.markers), conflict(sampling).is_some());
        if !is_promised && (!opens_by_token || conflicts) {
            // Free text could begin like a call, or the end could be forbidden: nothing can be promised.
            return Ok(None);
        }
        let param = if tools.legacy { "functions" } else { "tools" };
        match compile(state, serving, param, tools.rules(otherwise.clone(), false)).await {
            Ok(grammar) => Ok(Some(grammar)),
            // A call that is not forced need not follow a schema that cannot be enforced.
            Err(error) if tools.required || error.status() != StatusCode::BAD_REQUEST => Err(error),
            Err(_) => compile(state, serving, param, tools.rules(otherwise, true)).await.map(Some),
        }
    }
}

/// A setting that could leave no token where a grammar allows only one.
fn conflict(sampling: &ValidSampling) -> Option<&'static str> {
    let conflicts = [
        ("ignore_eos", sampling.params.ignore_eos),
        ("min_tokens", sampling.params.min_tokens > 0),
        ("allowed_token_ids", sampling.allowed_token_ids.is_some()),
        ("bad_words", !sampling.bad_words.is_empty()),
    ];
    conflicts.into_iter().find(|(_, conflicts)| *conflicts).map(|(field, _)| field)
}

/// Compiles a grammar: a few at a time, each within its time.
async fn compile(
    state: &AppState,
    serving: &Arc<Serving>,
    param: &'static str,
    format: AnswerFormat,
) -> Result<CompiledGrammar, ApiError> {
    let invalid = |error: GrammarError| ApiError::invalid(param, format!("cannot be enforced: {error}"));
    if serving.grammars.get().is_none() {
        // What all grammars share is made once, however long it takes.
        let shared = Arc::clone(serving);
        state.heavy(move || shared.grammar_compiler().map(|_| ())).await?.map_err(invalid)?;
    }
    let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&state.compilers).acquire_owned()).await;
    let turn = turn.map_err(|_| ApiError::busy("compiling other requests' grammars"))?.expect("never closed");
    let shared = Arc::clone(serving);
    let work = tokio::task::spawn_blocking(move || {
        let compiled = shared.grammar_compiler()?.compile(&format, shared.dialect, &shared.markers);
        // The turn lasts as long as the work, even when nobody waits for it any more.
        drop(turn);
        compiled
    });
    let Ok(result) = tokio::time::timeout(COMPILE_TIMEOUT, work).await else {
        let message = format!("took longer than {} s to compile: make it simpler", COMPILE_TIMEOUT.as_secs());
        return Err(ApiError::invalid(param, message));
    };
    result.map_err(|error| ApiError::internal(&error.to_string()))?.map_err(invalid)
}

impl Serving {
    /// The compiler, made when it is first needed.
    fn grammar_compiler(&self) -> Result<&GrammarCompiler, GrammarError> {
        let make = || {
            let tokenizer = self.tokenizer.clone().ok_or_else(GrammarError::no_tokenizer)?;
            GrammarCompiler::new(tokenizer, &self.eos_token_ids)
        };
        self.grammars.get_or_init(make).as_ref().map_err(Clone::clone)
    }
}

/// The engine's view of an answer's rules.
struct EngineConstraint(OutputConstraint);

impl TokenConstraint for EngineConstraint {
    fn mask(&mut self) -> Option<TokenMask> {
        self.0.mask().map(TokenMask::from_words)
    }

    fn accept(&mut self, token_id: u32) {
        self.0.accept(token_id);
    }

    fn rollback(&mut self, count: usize) {
        self.0.rollback(count);
    }

    fn fork(&self) -> Box<dyn TokenConstraint> {
        Box::new(Self(self.0.fork()))
    }
}
