//! Hugging Face chat templates: Jinja as Python's `transformers` runs it, on minijinja.
//!
//! minijinja speaks Jinja but prints a few values unlike Python, and a template written for Python
//! relies on all of it, so everything printed goes through [`python_value`](crate::python_value).

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Tuple, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;
use time::OffsetDateTime;
use time::format_description::parse_strftime_borrowed;

use crate::python_value::{python_str, to_json};

/// The name errors give the template: `(in chat_template:12)`.
const NAME: &str = "chat_template";
/// The longest template accepted, in bytes. The largest published ones are below 40 KiB; the bound
/// keeps what the parser and the code generator do, which no fuel pays for, small.
const MAX_SOURCE: usize = 256 << 10;
/// Fuel of one rendering, whatever its context: about an instruction or 64 bytes produced each, so
/// also the bound on the output (`64 * BASE_FUEL` bytes) and on the time of an endless loop.
const BASE_FUEL: u64 = 1 << 20;
/// Further fuel per byte of context, because honest templates walk long conversations repeatedly.
const FUEL_PER_BYTE: u64 = 8;
/// The engine's own ceiling (a macro call costs 4). Deeper needs its `stacker` feature.
const RECURSION_LIMIT: usize = 500;
/// Stack of the thread that runs the engine; reserved, not touched, until something recurses.
const STACK_SIZE: usize = 512 << 20;

/// Why a chat template did not compile or render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The source is not a template.
    #[error("chat template does not compile: {0}")]
    Syntax(String),
    /// The template refused its input with `raise_exception`; this is its message, unchanged.
    #[error("{0}")]
    Raised(String),
    /// Anything else: an undefined value, a wrong type, too much work.
    #[error("chat template failed: {0}")]
    Render(String),
}

/// Marks an engine error as raised by the template. It travels as the error's source, which
/// survives the engine wrapping the error; the error's own text does not (kind, line, debug info).
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// A compiled chat template. Rendering does not change it, so it can be shared between threads.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles `source`; `strftime_now` will tell the local time.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] if the source is no template or longer than 256 KiB.
    pub fn compile(source: &str) -> Result<Self, TemplateError> {
        Self::compile_with_clock(source, local_now)
    }

    /// Like [`compile`](Self::compile) with `strftime_now` reading `now`, for reproducible output.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_with_clock(source: &str, now: fn() -> OffsetDateTime) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError::Syntax(format!("it is longer than {MAX_SOURCE} bytes")));
        }
        let source = source.to_owned();
        on_deep_stack(move || {
            let mut env = environment(now)?;
            env.add_template_owned(NAME, source)?;
            Ok(Self { env })
        })
        .map_err(TemplateError::Syntax)?
        .map_err(|err: Error| TemplateError::Syntax(describe(&err)))
    }

    /// Renders the template with the keys of `context` as its variables.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] if the template calls `raise_exception`, else
    /// [`TemplateError::Render`].
    pub fn render(&self, context: serde_json::Value) -> Result<String, TemplateError> {
        let mut env = self.env.clone(); // a few reference counts
        on_deep_stack(move || {
            env.set_fuel(Some(fuel_for(&context)));
            env.get_template(NAME)?.render(Value::from(Serde(context)))
        })
        .map_err(TemplateError::Render)?
        .map_err(|err: Error| match raised_message(&err) {
            Some(message) => TemplateError::Raised(message.to_owned()),
            None => TemplateError::Render(describe(&err)),
        })
    }
}

/// Runs `work` on a thread of its own with a stack no bounded template can exhaust.
///
/// A template can build values nested as deep as its fuel lasts, and the engine compares, hashes
/// and drops values recursively: on a server's 2 MiB stack that aborts the process. The thread also
/// turns a panic of the engine into an error.
fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name(NAME.to_owned())
            .stack_size(STACK_SIZE)
            .spawn_scoped(scope, work)
            .map_err(|err| format!("no thread to run it: {err}"))?
            .join()
            .map_err(|_| "the template engine panicked".to_owned())
    })
}

/// The engine as `transformers` sets Jinja up: its whitespace rules, its helpers, no escaping.
fn environment(now: fn() -> OffsetDateTime) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_debug(false); // else every error clones the source and the variables
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_formatter(print_value);
    env.set_unknown_method_callback(call_method);
    env.remove_global("debug"); // prints the whole context; Jinja has none
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: &str| strftime(now(), format));
    env.add_filter("tojson", to_json);
    env.add_filter("from_json", from_json);
    env.add_filter("string", to_string);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", is_sequence); // the engine's is true of `none`
    Ok(env)
}

/// The work allowed for one context.
fn fuel_for(context: &serde_json::Value) -> u64 {
    let size = context.to_string().len() as u64;
    BASE_FUEL.saturating_add(size.saturating_mul(FUEL_PER_BYTE))
}

/// The message of the `raise_exception` behind `err`, if there is one.
fn raised_message(err: &Error) -> Option<&str> {
    causes(err).find_map(|cause| cause.downcast_ref::<Raised>()).map(|raised| raised.0.as_str())
}

/// The error and what caused it, outermost first.
fn causes(err: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = err;
    std::iter::successors(Some(first), |cause| cause.source())
}

/// The outermost causes as one line; a template including itself would have very many.
fn describe(err: &Error) -> String {
    causes(err).take(4).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The local time, or UTC where the system does not tell its zone.
fn local_now() -> OffsetDateTime {
    OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc())
}

/// `raise_exception(message)`: the template refuses its input.
fn raise_exception(state: &State, message: &Value) -> Result<Value, Error> {
    let message = python_str(state, message)?;
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// `strftime_now(format)`.
fn strftime(now: OffsetDateTime, format: &str) -> Result<String, Error> {
    let bad = |err: String| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {err}"));
    let items = parse_strftime_borrowed(format).map_err(|err| bad(err.to_string()))?;
    now.format(&items).map_err(|err| bad(err.to_string()))
}

/// `text | from_json`.
fn from_json(text: &str) -> Result<Value, Error> {
    serde_json::from_str::<serde_json::Value>(text)
        .map(|json| Value::from(Serde(json)))
        .map_err(|err| Error::new(ErrorKind::InvalidOperation, format!("from_json: {err}")))
}

/// `value | string`.
fn to_string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    python_str(state, value).map(Value::from)
}

/// `value | escape`, with the entities of Python's `markupsafe`.
fn escape(state: &State, value: &Value) -> Result<String, Error> {
    Ok(python_str(state, value)?
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;"))
}

/// `value is sequence`: in Python whatever has a length and items, so strings, mappings and slices.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

/// What `{{ value }}` prints.
fn print_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(_) => minijinja::escape_formatter(out, state, value),
        None => Ok(out.write_str(&python_str(state, value)?)?),
    }
}

/// Python methods the engine does not know; pycompat has the common ones.
fn call_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = text.split_once(separator).map(|(head, tail)| [head, separator, tail]);
            Ok(Value::from(Tuple::from(parts.unwrap_or([text, "", ""]).map(Value::from))))
        }
        "rsplit" => {
            let (separator, limit): (&str, Option<usize>) = from_args(args)?;
            let limit = limit.unwrap_or(usize::MAX).saturating_add(1);
            let mut parts: Vec<_> = text.rsplitn(limit, separator).map(Value::from).collect();
            parts.reverse();
            Ok(Value::from(parts))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}
