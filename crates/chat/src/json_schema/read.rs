//! From a schema to the values that it allows.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::Unenforceable;
use super::references::{Definitions, Place, own_base};
use super::shape::{Kind, Shape, Typed};

/// Keywords that assert something which no grammar of ours can hold.
const UNENFORCEABLE: [&str; 8] = [
    "not",
    "if",
    "contains",
    "minContains",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
];
/// Keywords that say something about the values of one type.
const OF_KINDS: [(Kind, &[&str]); 4] = [
    (Kind::Numbers, &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    (Kind::Texts, &["minLength", "maxLength", "pattern", "format"]),
    (Kind::Lists, &["items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"]),
    (
        Kind::Records,
        &[
            "properties",
            "required",
            "additionalProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
        ],
    ),
];
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
/// Most properties whose presence asks for others.
const MAX_DEPENDENCIES: usize = 6;

impl<'a> Definitions<'a> {
    /// The values that the schema at a place allows.
    ///
    /// # Errors
    /// When it asserts what cannot be enforced.
    pub fn read(&mut self, place: &Place<'a>) -> Result<Shape, Unenforceable> {
        self.spend()?;
        let map = match place.schema {
            Value::Bool(true) => return Ok(Shape::Any),
            Value::Bool(false) => return Ok(Shape::Nothing),
            Value::Object(map) => map,
            _ => {
                self.refuse(place, "", "must be a schema, that is an object")?;
                return Ok(Shape::Any);
            }
        };
        let base: Rc<str> = own_base(place.schema, &place.base, self.refs_stand_alone).into();
        let place = &Place { base, ..place.clone() };
        let target = match map.get("$ref") {
            None => Shape::Any,
            Some(reference) => self.target(place, reference)?,
        };
        if self.refs_stand_alone && map.contains_key("$ref") {
            return Ok(target);
        }
        self.nested(|definitions| {
            let own = definitions.typed(place, map)?;
            let shape = own.and(&target, definitions)?;
            definitions.combined(place, map, shape)
        })
    }

    /// Reads a schema inside a schema.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn inner(&mut self, place: &Place<'a>, path: &str, schema: &'a Value) -> Result<Shape, Unenforceable> {
        self.read(&place.inside(path, schema))
    }

    fn target(&mut self, place: &Place<'a>, reference: &Value) -> Result<Shape, Unenforceable> {
        let found = reference.as_str().and_then(|reference| self.reference(place, reference));
        if let Some(shape) = found {
            return Ok(shape);
        }
        self.refuse(place, "$ref", &format!("{reference} leads to nothing in this schema"))?;
        Ok(Shape::Any)
    }

    /// What `type` and the keywords of each type say.
    fn typed(&mut self, place: &Place<'a>, map: &'a Map<String, Value>) -> Result<Shape, Unenforceable> {
        let names = self.type_names(place, map)?;
        let spoken_of: Vec<Kind> = OF_KINDS
            .iter()
            .filter(|(_, keywords)| keywords.iter().any(|keyword| map.contains_key(*keyword)))
            .map(|(kind, _)| *kind)
            .collect();
        if names.is_none() && spoken_of.is_empty() {
            return Ok(Shape::Any);
        }
        let has = |name: &str| names.as_ref().is_none_or(|names| names.contains(&name));
        let meant = if names.is_none() { spoken_of.first().copied().filter(|_| spoken_of.len() == 1) } else { None };
        let typed = Typed {
            null: has("null"),
            booleans: has("boolean"),
            numbers: if has("number") || has("integer") { self.numbers(place, map, !has("number"))? } else { None },
            texts: if has("string") { self.texts(place, map)? } else { None },
            lists: if has("array") { self.lists(place, map)? } else { None },
            records: if has("object") { self.records(place, map)? } else { None },
            meant,
        };
        Ok(Shape::typed(typed))
    }

    fn type_names(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
    ) -> Result<Option<Vec<&'a str>>, Unenforceable> {
        let list = match map.get("type") {
            None => return Ok(None),
            Some(Value::Array(list)) => list.as_slice(),
            Some(name) => std::slice::from_ref(name),
        };
        let names: Vec<&str> = list.iter().filter_map(Value::as_str).filter(|name| TYPES.contains(name)).collect();
        if names.len() < list.len() || names.is_empty() {
            self.refuse(place, "type", &format!("must be one of {} or a list of them", TYPES.join(", ")))?;
            return Ok(None);
        }
        Ok(Some(names))
    }

    /// What the keywords that combine schemas say.
    fn combined(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        mut shape: Shape,
    ) -> Result<Shape, Unenforceable> {
        for (index, part) in self.list(place, map, "allOf")?.iter().enumerate() {
            let part = self.inner(place, &format!("allOf[{index}]"), part)?;
            shape = shape.and(&part, self)?;
        }
        if let Some(value) = map.get("const") {
            shape = shape.and(&Shape::value(value), self)?;
        }
        if map.contains_key("enum") {
            let values = self.list(place, map, "enum")?;
            if !values.is_empty() {
                shape = Shape::union(values.iter().map(Shape::value)).and(&shape, self)?;
            }
        }
        if map.contains_key("anyOf") {
            let parts = self.alternatives(place, map, "anyOf", &shape)?;
            shape = Shape::union(parts);
        }
        if map.contains_key("oneOf") {
            let parts = self.alternatives(place, map, "oneOf", &shape)?;
            shape = self.exclusive(place, parts)?;
        }
        shape = self.dependencies(place, map, shape)?;
        for keyword in UNENFORCEABLE {
            if let Some(value) = map.get(keyword) {
                self.unenforceable(place, map, keyword, value)?;
            }
        }
        self.numbers_are_held(place, map)?;
        Ok(shape)
    }

    /// A keyword's list; empty where there is none.
    fn list(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        keyword: &str,
    ) -> Result<&'a [Value], Unenforceable> {
        match map.get(keyword) {
            None => Ok(&[]),
            Some(Value::Array(list)) if !list.is_empty() => Ok(list),
            Some(_) => {
                self.refuse(place, keyword, "must be a list that is not empty")?;
                Ok(&[])
            }
        }
    }

    fn alternatives(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        keyword: &str,
        shape: &Shape,
    ) -> Result<Vec<Shape>, Unenforceable> {
        let parts = self.list(place, map, keyword)?;
        if parts.is_empty() {
            return Ok(vec![shape.clone()]);
        }
        let read = |(index, part): (usize, &'a Value)| {
            let part = self.inner(place, &format!("{keyword}[{index}]"), part)?;
            shape.and(&part, self)
        };
        parts.iter().enumerate().map(read).collect()
    }

    /// Values of exactly one shape.
    fn exclusive(&mut self, place: &Place<'a>, parts: Vec<Shape>) -> Result<Shape, Unenforceable> {
        let mut all_apart = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let mut apart = part.closed(self)?;
            for (other, opposed) in parts.iter().enumerate().filter(|(other, _)| *other != index) {
                apart = apart.apart_from(opposed, self)?;
                if !apart.excludes(opposed, self)? {
                    let why = format!(
                        "cannot be enforced: what fits [{index}] may fit [{other}] as well; \
                         give each a required property with a const of its own, or use anyOf"
                    );
                    self.refuse(place, "oneOf", &why)?;
                    return Ok(Shape::union(parts));
                }
            }
            all_apart.push(apart);
        }
        Ok(Shape::union(all_apart))
    }

    /// A keyword that cannot be enforced, unless it asserts nothing.
    fn unenforceable(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        keyword: &str,
        value: &Value,
    ) -> Result<(), Unenforceable> {
        let says_nothing = match keyword {
            "not" => *value == Value::Bool(false),
            "if" => !map.contains_key("then") && !map.contains_key("else"),
            "contains" => {
                map.get("minContains").is_some_and(|min| min.as_f64() == Some(0.0)) && !map.contains_key("maxContains")
            }
            "minContains" => true,
            _ => *value == Value::Bool(true),
        };
        if says_nothing { Ok(()) } else { self.refuse(place, keyword, "cannot be enforced") }
    }

    /// `dependentRequired`, `dependentSchemas` and the older `dependencies`: a property is absent, or what it asks for is
    /// there.
    fn dependencies(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        mut shape: Shape,
    ) -> Result<Shape, Unenforceable> {
        let mut count = 0;
        for keyword in ["dependentRequired", "dependentSchemas", "dependencies"] {
            let Some(value) = map.get(keyword) else { continue };
            let Some(dependencies) = value.as_object() else {
                self.refuse(place, keyword, "must be an object")?;
                continue;
            };
            for (name, wanted) in dependencies {
                count += 1;
                if count > MAX_DEPENDENCIES {
                    self.refuse(place, keyword, &format!("is enforced for at most {MAX_DEPENDENCIES} properties"))?;
                    return Ok(shape);
                }
                let with = match wanted {
                    Value::Array(names) => {
                        Shape::requiring(names.iter().filter_map(Value::as_str).chain([name.as_str()]))
                    }
                    schema => {
                        let schema = self.inner(place, &format!("{keyword}.{name}"), schema)?;
                        schema.and(&Shape::requiring([name.as_str()]), self)?
                    }
                };
                let without = shape.and(&Shape::lacking(name), self)?;
                let with = shape.and(&with, self)?;
                shape = Shape::union([without, with]);
            }
        }
        Ok(shape)
    }

    /// Refuses constants that the request's numbers cannot hold with all digits.
    fn numbers_are_held(&mut self, place: &Place<'a>, map: &Map<String, Value>) -> Result<(), Unenforceable> {
        for keyword in ["const", "enum"] {
            if let Some(number) = map.get(keyword).and_then(lost_number) {
                self.refuse(place, keyword, &format!("{number} has more digits than can be held (64 bits)"))?;
            }
        }
        Ok(())
    }
}

/// A number inside a value that came with its first digits only.
fn lost_number(value: &Value) -> Option<&Value> {
    match value {
        Value::Array(items) => items.iter().find_map(lost_number),
        Value::Object(map) => map.values().find_map(lost_number),
        Value::Number(number) => {
            let is_lost = number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= 2f64.powi(63));
            is_lost.then_some(value)
        }
        _ => None,
    }
}
