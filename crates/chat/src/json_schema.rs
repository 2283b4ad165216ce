//! JSON schemas as grammars: every answer that the grammar allows is valid by the schema.
//!
//! The schema is read into [`Shape`](shape::Shape)s, what a value may be type by type, so that schemas that hold
//! together can be put together and alternatives told apart; the shapes are written as rules of Lark. Numbers keep all
//! their digits, since they are never more than texts here. What a grammar cannot hold is refused by name, or, in a
//! schema that is only a hint, passed over in that part alone. JSON is written without white space (but
//! what `x-guidance` asks for), properties in the order in which they are declared; an object that declares properties
//! has no others unless it says so.

mod accepts;
mod decimal;
mod formats;
mod read;
mod read_types;
mod references;
mod shape;
mod text;
mod write;
mod write_records;
mod write_values;

use serde_json::{Map, Value};
use thiserror::Error;

use references::{Definitions, Place};
use shape::Shape;
pub(crate) use text::{ecma_to_rust, quoted_regex};
use write::Writer;
pub(crate) use write::literal;

/// Longest schema, in bytes of JSON.
const MAX_BYTES: usize = 128 << 10;
const MAX_PROPERTIES: usize = 2000;
/// Bytes of a schema that are read in about a step's time.
const BYTES_PER_STEP: u32 = 64;
/// Schemas are read recursively, each level of one takes a few kilobytes.
const STACK_BYTES: usize = 64 << 20;

/// What becomes of assertions that a grammar cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enforcement {
    /// The schema is refused.
    Strict,
    /// They are passed over.
    Hint,
}

/// What a schema's values must be, whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// Anything.
    Any,
    /// Objects, as the arguments of a call.
    Object,
}

/// What all schemas of one grammar may cost together.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Steps of reading and combining.
    steps: u32,
    /// States of patterns.
    states: u32,
    /// Bytes of rules.
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { steps: 1_000_000, states: 300_000, bytes: 4 << 20 }
    }
}

impl Budget {
    /// Takes what a regular expression costs.
    pub fn spend_states(&mut self, num_states: u32) -> Result<(), Unenforceable> {
        self.states = self.states.checked_sub(num_states).ok_or_else(Unenforceable::too_large)?;
        Ok(())
    }
}

/// What stands between items and behind keys, as literals.
#[derive(Debug, Clone, Copy)]
struct Separators {
    /// Between items, in Lark.
    comma: &'static str,
    /// Behind a key, in JSON.
    colon: &'static str,
}

impl Separators {
    /// What `x-guidance` asks for: guidance reads answers by the grammar that it sent, which has spaces by default.
    ///
    /// # Errors
    /// When it asks for others.
    fn asked_for(schema: &Value, definitions: &Definitions) -> Result<Self, Unenforceable> {
        let is_spaced = |name: &str, mark: &str| match schema.pointer(&format!("/x-guidance/{name}")) {
            Some(Value::String(asked)) if *asked == format!("{mark} ") => Ok(true),
            Some(Value::String(asked)) if asked != mark => {
                let why = format!("must be {mark:?}, with a space behind it or none");
                definitions.refuse_at("x-guidance", name, &why).map(|()| false)
            }
            _ => Ok(false),
        };
        let comma = if is_spaced("item_separator", ",")? { "\", \"" } else { "\",\"" };
        let colon = if is_spaced("key_separator", ":")? { ": " } else { ":" };
        Ok(Self { comma, colon })
    }
}

/// Why a schema was refused: the path and the keyword, in plain words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct Unenforceable(String);

impl Unenforceable {
    fn too_large() -> Self {
        Self("the schema has too many combinations: make it simpler".to_owned())
    }

    fn too_deep() -> Self {
        Self("the schema is nested too deeply".to_owned())
    }
}

/// A schema's rules.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The name of the first.
    pub start: String,
    /// The rules, in Lark.
    pub lines: Vec<String>,
}

/// Writes a schema as rules. `prefix`: of the rules' names, in small letters, digits and `_`.
///
/// # Errors
/// When it is no schema, when nothing can satisfy it, or when it asserts what a grammar cannot hold.
pub(crate) fn rules(
    schema: &Value,
    enforcement: Enforcement,
    root: Root,
    prefix: &str,
    budget: &mut Budget,
) -> Result<Rules, Unenforceable> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("schema".to_owned()).stack_size(STACK_BYTES);
        let thread = thread
            .spawn_scoped(scope, || rules_here(schema, enforcement, root, prefix, budget))
            .map_err(|error| Unenforceable(format!("there is no thread to read the schema: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Unenforceable("the schema could not be read".to_owned())))
    })
}

fn rules_here(
    schema: &Value,
    enforcement: Enforcement,
    root: Root,
    prefix: &str,
    budget: &mut Budget,
) -> Result<Rules, Unenforceable> {
    let num_bytes = schema.to_string().len();
    if num_bytes > MAX_BYTES {
        return Err(Unenforceable(format!("the schema has {num_bytes} bytes, at most {MAX_BYTES} are taken")));
    }
    // Looking for names reads all of it.
    let steps = num_bytes as u32 / BYTES_PER_STEP;
    budget.steps = budget.steps.checked_sub(steps).ok_or_else(Unenforceable::too_large)?;
    let num_properties = num_properties(schema);
    if num_properties > MAX_PROPERTIES {
        let message = format!("the schema has {num_properties} properties, at most {MAX_PROPERTIES} are taken");
        return Err(Unenforceable(message));
    }
    let mut definitions = Definitions::new(schema, enforcement, budget);
    let mut shape = definitions.read(&Place { schema, path: String::new(), base: "".into() })?;
    if root == Root::Object {
        shape = shape.and(&Shape::any_object(), &mut definitions)?;
    }
    let separators = Separators::asked_for(schema, &definitions)?;
    Writer::new(definitions, separators, prefix).write(&shape)
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

#[cfg(test)]
mod tests;
