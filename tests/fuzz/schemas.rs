//! Schemas whose numbers, nesting and keywords are extreme.

use serde_json::{Map, Value, json};

/// Makes schemas; the same number gives the same.
pub struct Schemas(u64);

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "0.1",
    "-0.0",
    "1e-300",
    "5e-324",
    "1e25",
    "-1e25",
    "1e30",
    "-1e30",
    "1e308",
    "-1e308",
    "0.5",
    "9007199254740993",
    "-9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "123456789012345678901234567890",
    "3.4028234663852886e38",
    "4294967296",
    "-4294967297",
    "99",
    "100",
    "1e1",
    "2.50",
];
const TEXTS: &[&str] = &[
    "",
    "a",
    "^a*$",
    "^(a|b){0,999}$",
    "(((((a)*)*)*)*)*",
    "^\\d{1,64}$",
    "[^\"]*",
    "\\u0041|\\p{L}",
    "^$",
    "$^",
    "a$b",
    "(?!x)",
    "(x)\\1",
    "[",
    "date",
    "uuid",
    "ipv6",
    "uri",
    "made-up",
    "#",
    "#/",
    "#/$defs/a",
    "#/$defs/b",
    "#/properties/a",
    "https://example.com/x#y",
    "string",
    "integer",
    "object",
    "𝄞",
    "\u{0}",
    "a\"b\\c",
    "^[\\x00-\\x1f]+$",
    ".{0,2000}",
];
const KEYWORDS: &[&str] = &[
    "type",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "$ref",
    "$defs",
    "definitions",
    "$id",
    "$anchor",
    "$schema",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "items",
    "prefixItems",
    "additionalItems",
    "contains",
    "minContains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "title",
    "default",
    "unevaluatedProperties",
    "$dynamicRef",
    "x-guidance",
    "discriminator",
];
const TYPES: &[&str] = &["null", "boolean", "integer", "number", "string", "array", "object", "any"];

impl Schemas {
    /// Starts somewhere.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn pick<'t>(&mut self, list: &[&'t str]) -> &'t str {
        list[self.below(list.len())]
    }

    /// The next schema.
    pub fn next(&mut self) -> Value {
        match self.below(50) {
            // One keyword inside itself, as deep as JSON is read.
            0 => {
                let key =
                    ["items", "not", "anyOf", "allOf", "oneOf", "additionalProperties", "properties"][self.below(7)];
                let mut schema = self.schema(0);
                for _ in 0..self.below(125) {
                    schema = match key {
                        "anyOf" | "allOf" | "oneOf" => json!({key: [schema, self.schema(0)]}),
                        "properties" => json!({"properties": {"a": schema}, "required": ["a"]}),
                        _ => json!({key: schema}),
                    };
                }
                schema
            }
            // Very many of something.
            1 => {
                let count = self.below(400);
                let parts: Vec<Value> = (0..count).map(|_| self.schema(0)).collect();
                let named: Map<String, Value> =
                    parts.iter().cloned().enumerate().map(|(i, part)| (format!("p{i}"), part)).collect();
                let all = [
                    json!({"anyOf": parts}),
                    json!({"enum": parts}),
                    json!({"type": "object", "properties": named, "maxProperties": 3}),
                    json!({"prefixItems": parts}),
                    json!({"allOf": [{"anyOf": parts}, {"anyOf": parts}]}),
                ];
                all[self.below(all.len())].clone()
            }
            _ => self.schema(4),
        }
    }

    fn schema(&mut self, depth: usize) -> Value {
        if self.below(20) == 0 {
            return self.anything(depth);
        }
        let mut map = Map::new();
        if self.below(3) > 0 {
            map.insert("type".to_owned(), self.pick(TYPES).into());
        }
        for _ in 0..self.below(5) {
            let key = self.pick(KEYWORDS);
            let value = self.value(key, depth.saturating_sub(1));
            map.insert(key.to_owned(), value);
        }
        map.into()
    }

    fn value(&mut self, key: &str, depth: usize) -> Value {
        // Now and then what the keyword does not take.
        if self.below(25) == 0 {
            return self.anything(depth);
        }
        let count = self.below(4);
        match key {
            "type" => self.pick(TYPES).into(),
            "enum" => (0..count).map(|_| self.anything(depth)).collect(),
            "const" | "default" => self.anything(depth),
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => (0..count).map(|_| self.schema(depth)).collect(),
            "properties" | "$defs" | "definitions" | "dependentSchemas" | "dependencies" => (0..count)
                .map(|_| (self.pick(&["a", "b", "c", ""]).to_owned(), self.schema(depth)))
                .collect::<Map<_, _>>()
                .into(),
            "patternProperties" => {
                (0..count).map(|_| (self.pick(TEXTS).to_owned(), self.schema(depth))).collect::<Map<_, _>>().into()
            }
            "required" => (0..count).map(|_| Value::from(self.pick(&["a", "b", "z"]))).collect(),
            "dependentRequired" => json!({"a": ["b"], "z": ["a", "c"]}),
            "$ref" | "$id" | "$anchor" | "$dynamicRef" | "pattern" | "format" | "title" | "$schema" => {
                self.pick(TEXTS).into()
            }
            "uniqueItems" => (self.below(2) == 0).into(),
            "x-guidance" => json!({"whitespace_pattern": self.pick(TEXTS), "coerce_one_of": true}),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" | "minItems"
            | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" | "minContains" => {
                self.number()
            }
            _ => self.schema(depth),
        }
    }

    fn number(&mut self) -> Value {
        if self.below(2) == 0 {
            return (self.below(40) as i64 - 4).into();
        }
        serde_json::from_str(self.pick(NUMBERS)).expect("numbers are JSON")
    }

    fn anything(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 | 3 => self.number(),
            4 => self.pick(TEXTS).into(),
            5 => (0..self.below(3)).map(|_| self.anything(depth - 1)).collect(),
            _ => json!({self.pick(TEXTS): self.anything(depth - 1)}),
        }
    }
}
