//! JSON schemas say "anything else is welcome" by default; who writes one down hardly ever means it.
//!
//! An object that declares its properties gets no others, as with vLLM, wherever closing it cannot contradict the rest
//! of the schema. What is left is a subset of what the schema allows, so every answer is still valid.

use serde_json::{Map, Value};

/// Keywords beside which an object's properties are not all that it may have.
const OPENING: [&str; 14] = [
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "propertyNames",
    "minProperties",
    "dependentSchemas",
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "not",
    "enum",
    "const",
];
/// Keywords that assert nothing about an object beside a reference or an alternative.
const SILENT: [&str; 14] = [
    "type",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "discriminator",
];

/// Closes the objects of a schema.
pub(crate) fn close(schema: &mut Map<String, Value>) {
    // Parts that hold together must have each other's properties, and closing one of several exclusive alternatives
    // would make a value fit only one that fits two: leave such schemas as they are.
    if !combines(schema) {
        close_object(schema);
    }
}

/// Whether some object may be described in several places. Looks everywhere, as references may lead anywhere.
fn combines(schema: &Map<String, Value>) -> bool {
    let excludes = ["oneOf", "not", "if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef"];
    let refers = ["$ref", "allOf", "anyOf"];
    let asserts = |key: &String| !SILENT.contains(&key.as_str());
    let several = schema.get("allOf").and_then(Value::as_array).is_some_and(|parts| parts.len() > 1);
    let beside =
        refers.iter().any(|key| schema.contains_key(*key)) && schema.keys().filter(|key| asserts(key)).count() > 1;
    excludes.iter().any(|key| schema.contains_key(*key)) || several || beside || schema.values().any(any_combines)
}

fn any_combines(value: &Value) -> bool {
    match value {
        Value::Object(map) => combines(map),
        Value::Array(items) => items.iter().any(any_combines),
        _ => false,
    }
}

fn close_object(schema: &mut Map<String, Value>) {
    let declared = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let is_whole = declared.is_some_and(|declared| {
        let mut names = required.filter_map(Value::as_str);
        names.all(|name| declared.contains_key(name)) && !OPENING.iter().any(|key| schema.contains_key(*key))
    });
    if is_whole {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    parts_mut(schema).for_each(close_object);
}

/// Keywords whose value is a schema or a list of schemas, and those whose value maps names to schemas.
const DIRECT: [&str; 12] = [
    "items",
    "prefixItems",
    "contains",
    "additionalProperties",
    "additionalItems",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
];
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// The schemas directly inside a schema; not what merely looks like one, inside an `enum` or a `default`.
fn parts_mut(schema: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let inside = schema.iter_mut().flat_map(|(key, value)| {
        let (is_direct, is_named) = (DIRECT.contains(&key.as_str()), NAMED.contains(&key.as_str()));
        if is_direct && value.is_object() {
            return vec![value];
        }
        match value {
            Value::Object(map) if is_named => map.values_mut().collect(),
            Value::Array(list) if is_direct => list.iter_mut().collect(),
            _ => Vec::new(),
        }
    });
    inside.filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_whole_is_closed() {
        let with = |mut schema: Value| {
            close(schema.as_object_mut().unwrap());
            schema
        };
        let open = || json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let closed =
            || json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false});
        assert_eq!(with(open()), closed());
        assert_eq!(with(json!({"properties": {"x": open()}, "$defs": {"y": open()}})), {
            json!({"properties": {"x": closed()}, "$defs": {"y": closed()}, "additionalProperties": false})
        });
        assert_eq!(
            with(json!({"items": {"anyOf": [open(), open()]}})),
            json!({"items": {"anyOf": [closed(), closed()]}})
        );
        for same in [
            json!({"type": "object"}),
            json!({"enum": [open()], "default": open()}),
            json!({"properties": {"a": {}}, "required": ["b"]}),
            json!({"properties": {"a": {}}, "minProperties": 2}),
            json!({"properties": {"a": {}}, "additionalProperties": true}),
            json!({"properties": {"a": {}}, "anyOf": [open()]}),
            json!({"properties": {"a": {}}, "const": {"a": 1, "b": 2}}),
            json!({"required": ["c"], "anyOf": [open(), open()]}),
            json!({"minProperties": 2, "anyOf": [open()]}),
            json!({"required": ["a", "b"], "allOf": [open()]}),
            json!({"$ref": "#/$defs/x", "required": ["extra"], "$defs": {"x": open()}}),
            json!({"$ref": "#/x/y", "x": {"y": {"allOf": [open(), open()]}}}),
            json!({"oneOf": [open(), open()]}),
            json!({"properties": {"who": {"oneOf": [open(), open()]}}}),
            json!({"allOf": [open(), {"$ref": "#/$defs/x"}], "$defs": {"x": open()}}),
            json!({"items": {"properties": {"b": {}}, "$ref": "#/$defs/x"}, "$defs": {"x": open()}}),
        ] {
            assert_eq!(with(same.clone()), same);
        }
    }
}
