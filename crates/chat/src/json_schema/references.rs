//! The schema's definitions: where `$ref` leads, what was read of them, and how much work may still be done.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::Value;

use super::shape::Shape;
use super::text::Pattern;
use super::{Budget, Enforcement, Unenforceable};

/// Steps of reading and combining that one schema may cause.
const FUEL: u32 = 200_000;
/// Deepest nesting while combining.
const MAX_DEPTH: u32 = 100;

/// A place in the schema.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    pub schema: &'a Value,
    /// As people write it: `properties.x.items`.
    pub path: String,
    /// The resource that references are relative to.
    pub base: Rc<str>,
}

impl<'a> Place<'a> {
    /// A schema inside this one.
    pub fn inside(&self, path: &str, schema: &'a Value) -> Self {
        let dot = if self.path.is_empty() || path.starts_with('[') { "" } else { "." };
        Self { schema, path: format!("{}{dot}{path}", self.path), base: Rc::clone(&self.base) }
    }
}

struct Definition<'a> {
    place: Place<'a>,
    shape: Option<Shape>,
}

/// All that is known while a schema is read.
pub(super) struct Definitions<'a> {
    pub enforcement: Enforcement,
    /// The schema's draft lets nothing stand beside `$ref`.
    pub refs_stand_alone: bool,
    all: Vec<Definition<'a>>,
    by_address: HashMap<usize, usize>,
    resources: HashMap<String, &'a Value>,
    budget: &'a mut Budget,
    fuel: u32,
    depth: u32,
}

impl<'a> Definitions<'a> {
    /// Finds the names that a schema gives its parts.
    pub fn new(root: &'a Value, enforcement: Enforcement, budget: &'a mut Budget) -> Self {
        let draft = root["$schema"].as_str().unwrap_or_default();
        let mut definitions = Self {
            enforcement,
            refs_stand_alone: ["draft-03", "draft-04", "draft-06", "draft-07"].iter().any(|old| draft.contains(old)),
            all: Vec::new(),
            by_address: HashMap::new(),
            resources: HashMap::new(),
            budget,
            fuel: FUEL,
            depth: 0,
        };
        definitions.resources.insert(String::new(), root);
        definitions.find_names(root, "");
        definitions
    }

    fn find_names(&mut self, schema: &'a Value, base: &str) {
        match schema {
            Value::Object(map) => {
                let base = own_base(schema, base, self.refs_stand_alone);
                for key in ["$id", "id"] {
                    if let Some(id) = map.get(key).and_then(Value::as_str) {
                        self.resources.insert(join(&base, id), schema);
                    }
                }
                if let Some(anchor) = map.get("$anchor").and_then(Value::as_str) {
                    self.resources.insert(format!("{base}#{anchor}"), schema);
                }
                let schemas =
                    map.iter().filter(|(key, _)| !["enum", "const", "default", "examples"].contains(&key.as_str()));
                schemas.for_each(|(_, value)| self.find_names(value, &base));
            }
            Value::Array(items) => items.iter().for_each(|item| self.find_names(item, base)),
            _ => {}
        }
    }

    /// The definition that a reference leads to; `None` when it leads nowhere in this schema.
    pub fn reference(&mut self, from: &Place<'a>, reference: &str) -> Option<Shape> {
        let (resource, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let base = join(&from.base, resource);
        let (schema, base, path) = if fragment.is_empty() || fragment.starts_with('/') {
            let root = self.resources.get(base.trim_end_matches('#')).copied();
            let within = |root: &&'a Value| walk(root, &base, &decoded(fragment), self.refs_stand_alone);
            // Many give parts an `$id` and go on meaning the whole schema.
            let whole = self.resources.get("").filter(|_| resource.is_empty());
            let (schema, base) = root.as_ref().and_then(within).or_else(|| whole.and_then(within))?;
            let path = decoded(fragment).trim_start_matches('/').replace('/', ".");
            (schema, base, if resource.is_empty() { path } else { reference.to_owned() })
        } else {
            (*self.resources.get(&format!("{base}#{fragment}"))?, base, reference.to_owned())
        };
        let address = std::ptr::from_ref(schema) as usize;
        let next = self.all.len();
        let number = *self.by_address.entry(address).or_insert(next);
        if number == next {
            self.all.push(Definition { place: Place { schema, path, base: base.into() }, shape: None });
        }
        Some(Shape::Reference(number))
    }

    /// A definition's shape.
    ///
    /// # Errors
    /// When it cannot be enforced.
    pub fn resolve(&mut self, number: usize) -> Result<Shape, Unenforceable> {
        if let Some(shape) = &self.all[number].shape {
            return Ok(shape.clone());
        }
        let place = self.all[number].place.clone();
        let shape = self.nested(|definitions| definitions.read(&place))?;
        self.all[number].shape = Some(shape.clone());
        Ok(shape)
    }

    /// A shape that is no reference itself. One that leads only to itself allows nothing.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn look_through(&mut self, shape: &Shape) -> Result<Shape, Unenforceable> {
        let mut shape = shape.clone();
        for _ in 0..=self.all.len() {
            match shape {
                Shape::Reference(number) => shape = self.resolve(number)?,
                shape => return Ok(shape),
            }
        }
        Ok(Shape::Nothing)
    }

    /// Takes a step.
    ///
    /// # Errors
    /// When there have been too many.
    pub fn spend(&mut self) -> Result<(), Unenforceable> {
        self.fuel = self.fuel.checked_sub(1).ok_or_else(Unenforceable::too_large)?;
        self.budget.steps = self.budget.steps.checked_sub(1).ok_or_else(Unenforceable::too_large)?;
        Ok(())
    }

    /// Takes what a pattern costs.
    ///
    /// # Errors
    /// When the patterns were too many.
    pub fn spend_for(&mut self, pattern: &Pattern) -> Result<(), Unenforceable> {
        self.budget.states = self.budget.states.checked_sub(pattern.size).ok_or_else(Unenforceable::too_large)?;
        Ok(())
    }

    /// Takes what a line of rules costs.
    ///
    /// # Errors
    /// When there were too many.
    pub fn spend_line(&mut self, line: &str) -> Result<(), Unenforceable> {
        self.budget.bytes = self.budget.bytes.checked_sub(line.len()).ok_or_else(Unenforceable::too_large)?;
        Ok(())
    }

    /// Works one level deeper.
    ///
    /// # Errors
    /// The work's, and when it is nested too deeply.
    pub fn nested<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Unenforceable>) -> Result<T, Unenforceable> {
        self.spend()?;
        if self.depth == MAX_DEPTH {
            return Err(Unenforceable::too_deep());
        }
        self.depth += 1;
        let result = work(self);
        self.depth -= 1;
        result
    }

    /// Passes over what is only a hint.
    ///
    /// # Errors
    /// When it is none.
    pub fn refuse(&self, place: &Place<'_>, keyword: &str, why: &str) -> Result<(), Unenforceable> {
        self.refuse_at(&place.path, keyword, why)
    }

    /// As [`refuse`](Self::refuse), where only the path is known.
    ///
    /// # Errors
    /// When it is no hint.
    pub fn refuse_at(&self, path: &str, keyword: &str, why: &str) -> Result<(), Unenforceable> {
        let dot = if path.is_empty() || keyword.is_empty() { "" } else { "." };
        let message = format!("{path}{dot}{keyword} {why}");
        match self.enforcement {
            Enforcement::Strict => Err(Unenforceable(message)),
            Enforcement::Hint => Ok(()),
        }
    }
}

/// The resource that a schema's references are relative to.
pub(super) fn own_base(schema: &Value, base: &str, refs_stand_alone: bool) -> String {
    if refs_stand_alone && schema.get("$ref").is_some() {
        return base.to_owned();
    }
    match schema.get("$id").or(schema.get("id")).and_then(Value::as_str) {
        Some(id) if !id.starts_with('#') => join(base, id).trim_end_matches('#').to_owned(),
        _ => base.to_owned(),
    }
}

/// Follows a JSON pointer.
fn walk<'a>(root: &'a Value, base: &str, pointer: &str, refs_stand_alone: bool) -> Option<(&'a Value, String)> {
    let (mut schema, mut base) = (root, base.to_owned());
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        schema = match schema {
            Value::Object(map) => map.get(&part)?,
            Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
        base = own_base(schema, &base, refs_stand_alone);
    }
    Some((schema, base))
}

/// A reference's text without percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| *first == b'%');
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A reference relative to a base; only as far as schemas use it.
fn join(base: &str, reference: &str) -> String {
    if reference.is_empty() || base.is_empty() || reference.contains("://") || reference.starts_with("urn:") {
        return if reference.is_empty() { base.to_owned() } else { reference.to_owned() };
    }
    if reference.starts_with('#') {
        return format!("{base}{reference}");
    }
    let folder_end = if reference.starts_with('/') {
        base.find("://")
            .and_then(|scheme| base[scheme + 3..].find('/').map(|slash| scheme + 3 + slash))
            .unwrap_or(base.len())
    } else {
        base.rfind('/').map_or(0, |slash| slash + 1)
    };
    format!("{}{reference}", &base[..folder_end])
}
