//! Hugging Face chat templates: Jinja as Python's `transformers` runs it, on minijinja.
//!
//! minijinja speaks Jinja but prints a few values unlike Python, and a template written for Python
//! relies on all of it, so everything printed goes through [`python_value`](crate::python_value).

use std::fmt::{self, Write as _};
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};
use time::OffsetDateTime;
use time::format_description::parse_strftime_borrowed;

use crate::jinja_source::rewrite;
use crate::python_methods::call_method;
use crate::python_value::python_str;
use crate::{jinja_filters, jinja_functions};

/// The name errors give the template: `(in chat_template:12)`.
const NAME: &str = "chat_template";
/// The longest template accepted, in bytes; Kimi-K3's has 15 KiB. No fuel pays for compiling, and a
/// chain of operators costs time quadratic in its length: up to a minute at this bound.
const MAX_SOURCE: usize = 64 << 10;
/// The work allowed for one rendering: one unit is about an instruction, or 64 bytes produced.
/// Honest templates take 0.1 to 5 units per byte of context.
const FUEL: u64 = 8 << 20;
/// What is allowed in addition for every pair of messages, and the most in all: some templates look through all messages
/// at each one.
const FUEL_PER_PAIR: u64 = 12;
const MAX_FUEL: u64 = 64 << 20;
/// The work allowed for trying what a template takes, which happens some 40 times at load.
const PROBE_FUEL: u64 = 1 << 17;
/// The longest output, in bytes. Fuel bounds it too, but 64 times higher than its number says.
const MAX_OUTPUT: usize = 64 << 20;
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
    /// [`TemplateError::Syntax`] if the source is no template or longer than 64 KiB.
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
        let source = rewrite(source).into_owned();
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
        let num_messages = context["messages"].as_array().map_or(0, Vec::len) as u64;
        let for_pairs = FUEL_PER_PAIR.saturating_mul(num_messages.saturating_mul(num_messages));
        if for_pairs < FUEL / 8 {
            return render(&self.env, context);
        }
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL.saturating_add(for_pairs).min(MAX_FUEL)));
        render(&env, context)
    }

    /// Renders a small conversation with little fuel, to see what comes out.
    pub(crate) fn probe(&self, context: serde_json::Value) -> Option<String> {
        let mut env = self.env.clone();
        env.set_fuel(Some(PROBE_FUEL));
        render(&env, context).ok()
    }
}

fn render(env: &Environment, context: serde_json::Value) -> Result<String, TemplateError> {
    on_deep_stack(|| {
        let mut out = Bounded(Vec::new());
        let context = Value::from(Serde(context));
        env.get_template(NAME)?.render_captured_to(context, &mut out)?;
        Ok(out.0)
    })
    .map_err(TemplateError::Render)?
    .map_err(|err: Error| match raised_message(&err) {
        Some(message) => TemplateError::Raised(message.to_owned()),
        None => TemplateError::Render(describe(&err)),
    })
    .and_then(|out| String::from_utf8(out).map_err(|err| TemplateError::Render(err.to_string())))
}

/// The output, up to [`MAX_OUTPUT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("output is longer than {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `work` on a thread of its own with a very deep stack.
///
/// The parser recurses along a chain of operators, and the engine compares, prints and drops nested
/// values recursively, neither counting levels: on a server's 2 MiB stack, 40 KiB of `a+a+a...` or
/// ten thousand levels of `[[...]]` abort the process. The thread also turns a panic of the engine
/// into an error.
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
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_formatter(print_value);
    env.set_unknown_method_callback(call_method);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: &str| strftime(now(), format));
    jinja_filters::add(&mut env);
    jinja_functions::add(&mut env);
    Ok(env)
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

/// `strftime_now(format)`. Python's clock knows no zone there, and counts microseconds.
fn strftime(now: OffsetDateTime, format: &str) -> Result<String, Error> {
    let bad = |err: String| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {err}"));
    let (mut known, mut rest) = (String::new(), format);
    while let Some(at) = rest.find('%') {
        let (literal, directive) = rest.split_at(at);
        known.push_str(literal);
        let length = 1 + directive[1..].chars().next().map_or(0, char::len_utf8);
        match &directive[..length] {
            "%Z" | "%z" => {}
            "%f" => {
                let _ = write!(known, "{:06}", now.microsecond()); // a String takes everything
            }
            other => known.push_str(other),
        }
        rest = &directive[length..];
    }
    known.push_str(rest);
    let items = parse_strftime_borrowed(&known).map_err(|err| bad(err.to_string()))?;
    now.format(&items).map_err(|err| bad(err.to_string()))
}

/// What `{{ value }}` prints.
fn print_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(_) => minijinja::escape_formatter(out, state, value),
        None => Ok(out.write_str(&python_str(state, value)?)?),
    }
}
