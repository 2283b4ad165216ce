//! What an answer must look like: from the fields of a request to the engine's constraint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use moesaic_chat::{
    AnswerFormat, CompileError, CompiledGrammar, GrammarError, Marker, Markers, Otherwise, OutputConstraint,
    OutputRules, Start,
};
use moesaic_engine::{TokenConstraint, TokenMask};
use moesaic_protocol::{FormatFields, json_from_text};
use serde_json::Value;

use crate::error::ApiError;
use crate::state::{AppState, Serving};
use crate::tools::ToolSettings;
use crate::validate::sampling::ValidSampling;

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
            want("structured_outputs.grammar", outputs.grammar.clone().map(AnswerFormat::Grammar));
        }
        want("guided_json", schema("guided_json", fields.guided_json.as_ref())?);
        want("guided_regex", fields.guided_regex.clone().map(AnswerFormat::Regex));
        want("guided_choice", fields.guided_choice.clone().map(AnswerFormat::Choice));
        want("guided_grammar", fields.guided_grammar.clone().map(AnswerFormat::Grammar));
        // The same under an older name is no contradiction.
        let mut wanted = wanted.into_iter();
        let first = wanted.next();
        if let (Some(first), Some(other)) =
            (&first, wanted.find(|other| Some(&other.format) != first.as_ref().map(|first| &first.format)))
        {
            return Err(ApiError::conflict(other.param, first.param));
        }
        Ok(first)
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
        // Some servers take a schema here, too.
        Some("json_object") => match &value["schema"] {
            Value::Null => Ok(Some(AnswerFormat::JsonObject)),
            schema @ Value::Object(_) => Ok(Some(AnswerFormat::JsonSchema(schema.clone()))),
            _ => invalid(".schema", "must be a JSON schema, that is an object"),
        },
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
        Some(Value::String(text)) => {
            json_from_text(text).map_err(|error| ApiError::invalid(param, format!("is no JSON schema: {error}")))?
        }
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
        if tools.required {
            // The answer is a call, so the grammar does not hold the format.
            self.check_format(state, serving).await?;
        }
        match compile(state, serving, param, tools.rules(otherwise.clone(), false)).await {
            Err(error) if error.status() == StatusCode::BAD_REQUEST => {
                self.check_format(state, serving).await?;
                // Schemas that are not strict are hints: where they are too much together, none of them is followed.
                compile(state, serving, param, tools.rules(otherwise, true)).await.map(Some)
            }
            compiled => compiled.map(Some),
        }
    }

    /// Finds the format's own errors, which are not the tools'.
    async fn check_format(&self, state: &AppState, serving: &Arc<Serving>) -> Result<(), ApiError> {
        let Some(wanted) = &self.format else { return Ok(()) };
        let (format, shared) = (wanted.format.clone(), Arc::clone(serving));
        let written = state.lanes.medium(move || format.lark(shared.dialect, &shared.markers)).await?;
        written.map(drop).map_err(|error| compile_error(wanted.param, error.into()))
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

/// Compiles a grammar: a few at a time, each within its time. When nobody waits any more, the compilation ends.
async fn compile(
    state: &AppState,
    serving: &Arc<Serving>,
    param: &'static str,
    format: AnswerFormat,
) -> Result<CompiledGrammar, ApiError> {
    let failed = |error| compile_error(param, error);
    let host = serving.grammars.clone().ok_or_else(|| failed(GrammarError::no_tokenizer().into()))?;
    let shared = Arc::clone(serving);
    let look_up = move || {
        let source = host.source(&format, shared.dialect, &shared.markers)?;
        let recalled = host.recall(&source).transpose()?;
        Ok((host, source, recalled))
    };
    // A schema may take seconds to read: as other work that grows with its request, a few at a time.
    let (host, source, recalled) = state.lanes.medium(look_up).await?.map_err(failed)?;
    if let Some(grammar) = recalled {
        return Ok(grammar);
    }
    let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&state.compilers).acquire_owned()).await;
    let turn = turn.map_err(|_| ApiError::busy("compiling other requests' grammars"))?.expect("never closed");
    let waiting = Waiting::default();
    let gone = Arc::clone(&waiting.0);
    let work = move || {
        let compiled = host.compile(&source, &gone);
        // The turn lasts as long as the work, even when nobody waits for it any more.
        drop(turn);
        compiled
    };
    off_threads(work).await?.map_err(failed)
}

/// Tells, when it is dropped, that nobody waits any more.
#[derive(Default)]
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does work that may block or take long.
async fn off_threads<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error.to_string()))
}

fn compile_error(param: &'static str, error: CompileError) -> ApiError {
    match error {
        CompileError::Refused(error) => ApiError::invalid(param, format!("cannot be enforced: {error}")),
        CompileError::TooSlow => ApiError::invalid(param, error.to_string()),
        CompileError::Busy => ApiError::busy("with other requests' grammars"),
        CompileError::Unavailable(_) => ApiError::internal(&error.to_string()),
    }
}

/// The engine's view of an answer's rules.
struct EngineConstraint(OutputConstraint);

impl TokenConstraint for EngineConstraint {
    fn ask(&mut self) {
        self.0.ask();
    }

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
