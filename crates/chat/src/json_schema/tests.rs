//! Schemas through all of it: what the compiled grammar takes of an answer.

use std::sync::{Arc, LazyLock};

use llguidance::Matcher;
use serde_json::{Value, json};

use crate::{AnswerFormat, CallRules, CallableTool, Dialect, GrammarCompiler, Markers, Otherwise, Tokenizer};

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let file = |name: &str| moesaic_demo_model::FILES.iter().find(|(known, _)| *known == name).unwrap().1;
    let config = serde_json::from_slice(file("tokenizer_config.json")).unwrap();
    Arc::new(Tokenizer::from_files(file("tokenizer.json"), Some(&config), 1536).unwrap())
});

fn compile(format: &AnswerFormat) -> Result<Matcher, String> {
    static COMPILER: LazyLock<GrammarCompiler> =
        LazyLock::new(|| GrammarCompiler::new(Arc::clone(&TOKENIZER), &[1]).unwrap());
    let source = format.lark(Dialect::Plain, &Markers::default()).map_err(|error| error.to_string())?;
    // Compiling recurses along rules.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(256 << 20);
        let compiled = thread.spawn_scoped(scope, || COMPILER.matcher(&source)).unwrap().join().unwrap();
        compiled.map_err(|error| error.to_string())
    })
}

fn of(schema: &Value) -> Matcher {
    compile(&AnswerFormat::JsonSchema(schema.clone())).unwrap_or_else(|error| panic!("{schema}: {error}"))
}

/// Whether a text is a whole answer.
fn takes(matcher: &Matcher, text: &str) -> bool {
    let mut matcher = matcher.deep_clone();
    let tokens = TOKENIZER.encode(text).unwrap();
    let count = matcher.validate_tokens(&tokens).unwrap();
    count == tokens.len() && matcher.consume_tokens(&tokens).is_ok() && matcher.is_accepting().unwrap()
}

fn check(schema: &Value, valid: &[&str], invalid: &[&str]) {
    let matcher = of(schema);
    for (texts, expected) in [(valid, true), (invalid, false)] {
        for text in texts {
            assert_eq!(takes(&matcher, text), expected, "{text} by {schema}");
        }
    }
}

fn refusal(schema: &Value) -> String {
    match compile(&AnswerFormat::JsonSchema(schema.clone())) {
        Ok(_) => panic!("{schema} was taken"),
        Err(error) => error,
    }
}

#[test]
fn whole_numbers_keep_every_digit() {
    let id = 1_234_567_890_123_456_789_i64;
    check(&json!({"const": id}), &["1234567890123456789"], &["1234567890123456768", "1234567890123456790"]);
    check(&json!({"enum": [u64::MAX, i64::MIN]}), &["18446744073709551615", "-9223372036854775808"], &["0"]);
    check(
        &json!({"type": "integer", "minimum": 9_007_199_254_740_993_u64, "maximum": 9_007_199_254_740_999_u64}),
        &["9007199254740993", "9007199254740999"],
        &["9007199254740992", "9007199254741000", "9007199254740993.0", "-9007199254740993"],
    );
    check(
        &json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}),
        &["-9223372036854775808", "9223372036854775807", "0", "-1"],
        &["-9223372036854775809", "9223372036854775808", "-0", "01"],
    );
    check(&json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MIN}), &["-9223372036854775808"], &["0"]);
    check(
        &json!({"type": "integer", "minimum": -1e30, "maximum": -1e25}),
        // Numbers beyond 64 bits come with their first digits only: the bounds are a little narrower.
        &["-10000000000000010000000000", "-999999999999999799999999999999"],
        &["-9999999999999999999999999", "5", "-1000000000000000000000000000001"],
    );
    check(&json!({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3}), &["2"], &["1", "3"]);
    check(&json!({"type": "integer", "minimum": 1.5, "maximum": 2.5}), &["2"], &["1", "3"]);
    check(&json!({"type": "integer", "minimum": -1e308, "maximum": 1e308}), &["5", "-5"], &["x"]);
    assert!(refusal(&json!({"type": "integer", "minimum": 1e300})).contains("minimum"));
    assert!(refusal(&json!({"const": 1e30})).contains("more digits"));
    assert!(refusal(&json!({"type": "integer", "exclusiveMinimum": 1, "maximum": 1})).contains("nothing can satisfy"));
    assert!(refusal(&json!({"type": "integer", "minimum": 1.2, "maximum": 1.8})).contains("nothing can satisfy"));
}

#[test]
fn numbers_between_bounds() {
    let float = json!({"type": "number", "minimum": f64::from(f32::MIN), "maximum": f64::from(f32::MAX)});
    check(
        &float,
        &["-340282346638528800000000000000000000000", "0", "1.5"],
        &["340282346638528870000000000000000000000"],
    );
    let open = json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1.25});
    check(&open, &["0.1", "0.0001", "1", "1.2499", "1.0"], &["0", "0.0", "1.25", "1.250", "-0.5", "2", "1.3"]);
    check(
        &json!({"type": "number", "minimum": -1.5, "maximum": -0.5}),
        &["-1.5", "-0.50", "-1"],
        &["-0.4", "1", "-1.51"],
    );
    check(&json!({"type": "number", "maximum": 0}), &["0", "-0.1", "-7"], &["0.1", "1"]);
    check(&json!({"type": "number"}), &["1e5", "-1.5E-7", "0"], &["01", ".5", "+1"]);
    check(&json!({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 20}), &["0", "20"], &["7", "25"]);
    check(&json!({"type": "integer", "multipleOf": 7}), &["0", "14", "-21"], &["13"]);
    check(&json!({"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 1}), &["0.25", "1"], &["0.3"]);
    check(&json!({"type": "number", "multipleOf": 0.01}), &["1.25", "3"], &["0.005"]);
    check(&json!({"allOf": [{"multipleOf": 4}, {"multipleOf": 6}], "type": "integer"}), &["12", "24"], &["4", "6"]);
    check(&json!({"minimum": 3, "exclusiveMinimum": true, "type": "integer"}), &["4"], &["3"]);
}

#[test]
fn texts_and_patterns() {
    check(&json!({"type": "string", "minLength": 1, "maxLength": 2}), &["\"é\"", "\"\\n\\\"\""], &["\"\"", "\"abc\""]);
    check(&json!({"type": "string", "pattern": "^a\\d+$", "maxLength": 3}), &["\"a12\""], &["\"a123\"", "\"a\""]);
    check(&json!({"type": "string", "pattern": "b"}), &["\"abc\"", "\"\\\"b\""], &["\"ac\""]);
    check(&json!({"type": "string", "pattern": "^[^a]$"}), &["\"\\\"\"", "\"\\\\\"", "\"\\n\"", "\"ü\""], &["\"a\""]);
    let date = json!({"type": "string", "format": "date", "pattern": "^2023-02-(29|30|31)$"});
    assert!(refusal(&date).contains("nothing can satisfy"));
    check(&json!({"type": "string", "format": "date"}), &["\"2024-02-29\""], &["\"2023-02-29\"", "\"2024-13-01\""]);
    for format in ["binary", "byte", "password", "path", "uri-reference", "jwt", "int64", "made-up"] {
        check(&json!({"type": "string", "format": format}), &["\"anything\""], &["5"]);
    }
    let decimal = json!({"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^(?!x)\\d*$"}]});
    let message = refusal(&decimal);
    assert!(message.contains("anyOf[1].pattern") && message.contains("look-around"), "{message}");
}

#[test]
fn objects_hold_what_they_declare() {
    let schema = json!({
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "null"}, "c": {"type": "boolean"}},
        "required": ["b"],
    });
    let valid = ["{\"b\":null}", "{\"a\":1,\"b\":null}", "{\"b\":null,\"c\":true}", "{\"a\":1,\"b\":null,\"c\":false}"];
    check(&schema, &valid, &["{}", "{\"a\":1}", "{\"b\":null,\"d\":1}", "{\"b\":null,\"b\":null}", "{\"b\": null}"]);
    let optional = json!({"properties": {"a": {"const": 1}, "b": {"const": 2}}, "type": "object"});
    check(
        &optional,
        &["{}", "{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}"],
        &["{\"b\":2,\"a\":1}", "{,}", "{\"a\":1,}"],
    );
    let open = json!({"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": {"const": 2}});
    check(
        &open,
        &["{}", "{\"a\":1}", "{\"a\":1,\"x\":2}", "{\"x\":2,\"y\":2}"],
        &["{\"a\":2}", "{\"x\":1}", "{\"x\":2,\"a\":2}"],
    );
    check(&json!({"type": "object"}), &["{}", "{\"x\":[1,{\"y\":null}]}"], &["[]", "{\"x\"}"]);
    let score = json!({
        "type": "object",
        "properties": {"score": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}},
        "required": ["score"],
        "patternProperties": {"^score$": {"type": "integer"}},
        "additionalProperties": false,
    });
    check(&score, &["{\"score\":15}"], &["{\"score\":7}", "{}", "{\"score\":5,\"score\":7}"]);
    let patterns = json!({
        "type": "object",
        "patternProperties": {"^a": {"type": "integer"}, "z$": {"enum": [1, "x"]}},
        "additionalProperties": {"type": "null"},
    });
    check(
        &patterns,
        &["{\"ab\":7}", "{\"bz\":\"x\"}", "{\"az\":1}", "{\"m\":null}"],
        &["{\"az\":\"x\"}", "{\"az\":7}", "{\"m\":1}"],
    );
    let names =
        json!({"type": "object", "propertyNames": {"pattern": "^[a-c]+$"}, "additionalProperties": {"const": 1}});
    check(&names, &["{\"abc\":1}", "{}"], &["{\"d\":1}"]);
    check(&json!({"type": "object", "propertyNames": {"enum": ["x"]}}), &["{\"x\":1}"], &["{\"y\":1}"]);
    check(&json!({"type": "object", "propertyNames": {"type": "string"}}), &["{\"y\":1}"], &[]);
    check(
        &json!({"required": ["z"], "properties": {"a": {"const": 1}}}),
        &["{\"a\":1,\"z\":5}", "{\"z\":5,\"q\":1}"],
        &["{\"a\":1}"],
    );
}

#[test]
fn properties_are_counted_once() {
    let two = json!({
        "type": "object",
        "patternProperties": {"^a[01]$": {"type": "integer", "minimum": 0, "maximum": 9}},
        "additionalProperties": false,
        "minProperties": 2,
    });
    check(&two, &["{\"a0\":1,\"a1\":2}"], &["{\"a0\":1}", "{\"a0\":1,\"a0\":2}", "{}"]);
    let impossible =
        json!({"type": "object", "patternProperties": {"^a$": {}}, "additionalProperties": false, "minProperties": 2});
    assert!(refusal(&impossible).contains("nothing can satisfy"));
    let some = json!({
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": 1}, "c": {"const": 1}},
        "minProperties": 1,
        "maxProperties": 2,
    });
    check(&some, &["{\"a\":1}", "{\"b\":1,\"c\":1}"], &["{}", "{\"a\":1,\"b\":1,\"c\":1}"]);
    check(
        &json!({"type": "object", "minProperties": 1, "maxProperties": 1}),
        &["{\"x\":1}"],
        &["{}", "{\"x\":1,\"y\":1}"],
    );
    let message = refusal(&json!({"type": "object", "minProperties": 2}));
    assert!(message.contains("minProperties") && message.contains("may repeat"), "{message}");
    check(&json!({"type": "object", "maxProperties": 0}), &["{}"], &["{\"x\":1}"]);
}

#[test]
fn lists_of_items() {
    check(
        &json!({"type": "array", "items": {"const": 1}, "minItems": 1.0, "maxItems": 2}),
        &["[1]", "[1,1]"],
        &["[]", "[1,1,1]"],
    );
    let tuple =
        json!({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}, "minItems": 1});
    check(&tuple, &["[1]", "[1,2]", "[1,2,3,3]"], &["[]", "[2]", "[1,3]"]);
    check(&json!({"type": "array", "items": [{"const": 1}], "additionalItems": false}), &["[]", "[1]"], &["[1,1]"]);
    check(&json!({"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": true}), &["[]", "[3,1]"], &["[1,1]"]);
    check(&json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": false}), &["[1,1]"], &[]);
    assert!(refusal(&json!({"type": "array", "uniqueItems": true})).contains("uniqueItems"));
    assert!(refusal(&json!({"type": "array", "minItems": 2, "maxItems": 1})).contains("nothing can satisfy"));
    check(&json!({"const": [1, {"a": [true]}]}), &["[1,{\"a\":[true]}]"], &["[1]"]);
    check(&json!({"type": "array", "items": {"type": "string"}, "maxItems": 100_000}), &["[\"a\"]"], &["[1]"]);
}

#[test]
fn alternatives_are_told_apart() {
    let pet = json!({
        "$defs": {
            "Cat": {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"]},
            "Dog": {"type": "object", "properties": {"kind": {"const": "dog"}, "good": {"type": "boolean"}}, "required": ["kind", "good"]},
        },
        "type": "object",
        "properties": {"name": {"enum": ["Tom"]}, "pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}},
        "required": ["name", "pet"],
    });
    let cat = "{\"name\":\"Tom\",\"pet\":{\"kind\":\"cat\",\"lives\":9}}";
    check(
        &pet,
        &[cat],
        &[
            "{\"name\":\"Tom\",\"pet\":{\"kind\":\"cat\",\"lives\":9,\"x\":1}}",
            "{\"name\":\"Tom\",\"pet\":{\"kind\":\"cat\",\"lives\":9},\"y\":1}",
        ],
    );
    let either = json!({
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": 1}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    });
    check(&either, &["{\"a\":1}", "{\"b\":1}"], &["{}", "{\"a\":1,\"b\":1}"]);
    let one_of_three = json!({
        "properties": {"a": {"const": 1}, "b": {"const": 1}, "c": {"const": 1}, "d": {"const": 1}},
        "oneOf": [{"required": ["a", "b"]}, {"required": ["c"]}, {"required": ["d"]}],
    });
    check(
        &one_of_three,
        &["{\"a\":1,\"b\":1}", "{\"c\":1}", "{\"b\":1,\"d\":1}"],
        &["{}", "{\"c\":1,\"d\":1}", "{\"a\":1}"],
    );
    let nullable = json!({
        "type": ["object", "null"],
        "properties": {"a": {"const": 1}, "b": {"const": 1}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    });
    check(&nullable, &["null", "{\"a\":1}", "{\"b\":1}"], &["{}", "5"]);
    let message = refusal(&json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}));
    assert!(message.contains("oneOf") && message.contains("anyOf"), "{message}");
    check(&json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), &["1", "\"x\""], &["null"]);
    check(&json!({"type": ["string", "null"], "enum": ["a", null, 5]}), &["\"a\"", "null"], &["5"]);
    let both = json!({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"const": 2}}}]});
    check(&both, &["{\"a\":5}", "{\"a\":5,\"b\":2}"], &["{}", "{\"a\":5,\"c\":1}", "5"]);
    let asks = json!({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 1}}, "dependentRequired": {"a": ["b"]}});
    check(&asks, &["{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"], &["{\"a\":1}"]);
    check(
        &json!({"anyOf": [{"const": [1]}, {"type": "array", "items": {"const": 2}}]}),
        &["[1]", "[2,2]", "[]"],
        &["[1,2]"],
    );
}

#[test]
fn references_may_recurse() {
    let tree = json!({
        "$defs": {"node": {"type": "object", "properties": {"v": {"const": 1}, "next": {"$ref": "#/$defs/node"}}, "required": ["v"]}},
        "$ref": "#/$defs/node",
    });
    check(&tree, &["{\"v\":1}", "{\"v\":1,\"next\":{\"v\":1}}"], &["{\"next\":{\"v\":1}}"]);
    check(&json!({"items": {"$ref": "#"}, "type": "array"}), &["[]", "[[],[[]]]"], &["[1]"]);
    assert!(refusal(&json!({"$ref": "#"})).contains("nothing can satisfy"));
    let endless = json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]});
    assert!(refusal(&endless).contains("nothing can satisfy"));
    check(&json!({"$defs": {"x": {"$anchor": "here", "const": 1}}, "$ref": "#here"}), &["1"], &["2"]);
    assert!(refusal(&json!({"$ref": "http://example.com/x"})).contains("$ref"));
    check(&json!({"$ref": "#/$defs/a%25b~1c", "$defs": {"a%b/c": {"const": 5}}}), &["5"], &["6"]);
    let named = json!({"$defs": {"x": {"const": 1}}, "properties": {"a": {"$id": "/a", "items": {"$ref": "#/$defs/x"}}}, "type": "object"});
    check(&named, &["{\"a\":[1]}"], &["{\"a\":[2]}"]);
    let beside = json!({"$defs": {"p": {"properties": {"a": {"const": 1}}}}, "$ref": "#/$defs/p", "required": ["a"], "type": "object"});
    check(&beside, &["{\"a\":1}"], &["{}"]);
}

#[test]
fn what_asserts_nothing_is_taken_and_what_cannot_be_held_is_named() {
    for quiet in [
        json!({"title": "x", "$comment": "x", "examples": [1], "deprecated": true, "x-vendor": {"a": 1}, "readOnly": true}),
        json!({"not": false, "if": {"const": 1}, "unevaluatedProperties": true}),
        json!({"type": "array", "contains": {}, "minContains": 0}),
    ] {
        of(&quiet);
    }
    for (schema, path) in [
        (json!({"properties": {"a": {"not": {}}}}), "properties.a.not"),
        (json!({"items": [{"contains": {"const": 1}}]}), "items[0].contains"),
        (json!({"if": {"const": 1}, "then": {"const": 1}}), "if"),
        (json!({"properties": {"x": {"type": "text"}}}), "properties.x.type"),
        (json!({"minLength": -1}), "minLength"),
        (json!({"properties": 5}), "properties"),
        (json!({"allOf": 5}), "allOf"),
        (json!({"$dynamicRef": "#a"}), "$dynamicRef"),
    ] {
        assert!(refusal(&schema).starts_with(path), "{schema}: {}", refusal(&schema));
    }
}

#[test]
fn hints_are_relaxed_in_their_part_only() {
    let schema = json!({
        "type": "object",
        "properties": {"city": {"enum": ["Oslo"]}, "x": {"type": "string", "pattern": "^(?!a)"}, "y": {"not": {}}},
        "required": ["city", "x"],
    });
    let call = |parameters: Value, strict| {
        let tool = CallableTool { name: "f".to_owned(), parameters, strict, input: None };
        compile(&AnswerFormat::Calls(CallRules { tools: vec![tool], otherwise: Otherwise::Nothing, parallel: false }))
    };
    let answer = |arguments: &str| format!("{{\"name\":\"f\",\"parameters\":{arguments}}}");
    let hint = call(schema.clone(), false).unwrap();
    assert!(takes(&hint, &answer("{\"city\":\"Oslo\",\"x\":\"abc\",\"y\":1}")));
    assert!(
        !takes(&hint, &answer("{\"city\":\"Rome\",\"x\":\"abc\"}"))
            && !takes(&hint, &answer("{\"city\":\"Oslo\",\"x\":1}"))
    );
    let strict = call(schema, true).err().unwrap();
    assert!(strict.contains("the tool \"f\"") && strict.contains("properties.x.pattern"), "{strict}");
    // Arguments are an object whatever the schema says.
    let odd = call(json!({"type": "no type", "properties": {"a": {"const": 1}}}), false).unwrap();
    assert!(takes(&odd, &answer("{\"a\":1}")) && !takes(&odd, &answer("5")));
    let contradictory = call(json!({"type": "object", "properties": {"a": false}, "required": ["a"]}), false).unwrap();
    assert!(takes(&contradictory, &answer("{}")));
}

#[test]
fn grammars_of_clients() {
    let grammar = |text: &str| compile(&AnswerFormat::Grammar(text.to_owned()));
    let matcher = grammar("root ::= \"yes\" | \"no\"").unwrap();
    assert!(takes(&matcher, "yes") && takes(&matcher, "no") && !takes(&matcher, "maybe"));
    let nested =
        grammar("root ::= \"(\" [a-z]* root? \")\" | \"ab\" word\nword ::= [a-c]+ | \"(\" word \")\"").unwrap();
    assert!(takes(&nested, "(x(y))") && takes(&nested, "abc") && takes(&nested, "ab(c)") && !takes(&nested, "(x"));
    let lark = grammar("start: \"x\" body\nbody: %json {\"const\": 12345678901234567890}").unwrap();
    assert!(takes(&lark, "x12345678901234567890") && !takes(&lark, "x12345678901234567168"));
    assert!(compile(&AnswerFormat::Regex("a/b+".to_owned())).is_ok_and(|matcher| takes(&matcher, "a/bb")));
    let choice = compile(&AnswerFormat::Choice(vec!["a\"b".to_owned(), "\u{7f}".to_owned()])).unwrap();
    assert!(takes(&choice, "a\"b") && takes(&choice, "\u{7f}"));
}

#[test]
fn separators_may_have_a_space() {
    let schema = json!({
        "properties": {"a": {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]}, "b": {"enum": [3]}},
        "additionalProperties": {"type": "array", "items": {"enum": [4, 5]}, "uniqueItems": true},
        "x-guidance": {"item_separator": ", ", "key_separator": ": "},
    });
    let (spaced, other) = (r#"{"a": [1, 2], "b": 3, "c": [4, 5], "d": []}"#, r#"{"c": [5, 4]}"#);
    check(&schema, &[spaced, other, "{}"], &[&spaced.replace(", ", ","), &spaced.replace(": ", ":")]);
    let counted = json!({
        "properties": {"a": {}, "b": {}}, "minProperties": 1, "x-guidance": {"item_separator": ", "},
    });
    check(&counted, &[r#"{"a":1, "b":[2, 3]}"#], &[r#"{"a":1,"b":2}"#, r#"{"a": 1}"#, "{}"]);
    let refused = refusal(&json!({"x-guidance": {"key_separator": "="}}));
    assert!(refused.contains("x-guidance.key_separator must be \":\", with a space behind it or none"), "{refused}");
}

#[test]
fn alternatives_stay_apart_whatever_they_are_put_together_with() {
    let only = |name: &str| json!({"type": "object", "properties": {name: {"const": 1}}, "required": [name]});
    let nested = json!({"allOf": [{"oneOf": [{"anyOf": [only("a"), only("c")]}, only("b")]}, {"properties": {"b": {"const": 1}}}]});
    check(&nested, &["{\"a\":1}", "{\"b\":1}"], &["{\"a\":1,\"b\":1}"]);
    let inside = json!({"oneOf": [{"properties": {"x": only("a")}, "required": ["x"]}, {"properties": {"x": only("b")}, "required": ["x"]}]});
    assert!(refusal(&inside).contains("oneOf"));
    assert!(
        refusal(&json!({"allOf": [{"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"type": "string"}]}))
            .contains("nothing")
    );
    // pydantic's discriminators have defaults, so they are not required.
    let kind = |kind: &str| json!({"type": "object", "properties": {"kind": {"const": kind, "default": kind}, "name": {"const": 1}}, "required": ["name"]});
    check(&json!({"oneOf": [kind("cat"), kind("dog")]}), &["{\"kind\":\"cat\",\"name\":1}"], &["{\"name\":1}"]);
    let expression = |op: &str| json!({"type": "object", "properties": {"left": {"$ref": "#/$defs/e"}, "op": {"const": op}}, "required": ["op"]});
    let recursive = json!({"$defs": {"e": {"oneOf": [expression("add"), expression("mul")]}}, "$ref": "#/$defs/e"});
    check(&recursive, &["{\"op\":\"add\"}", "{\"left\":{\"op\":\"mul\"},\"op\":\"add\"}"], &["{}"]);
    assert!(
        refusal(&json!({"oneOf": [{"const": 10_000_000_000_000_000_000_u64}, {"type": "integer", "multipleOf": 5}]}))
            .contains("oneOf")
    );
    assert!(
        refusal(&json!({"oneOf": [{"const": "23:59:60Z"}, {"type": "string", "format": "time"}]})).contains("oneOf")
    );
}

#[test]
fn no_answer_runs_into_a_dead_end() {
    let hopeless = json!({"type": "string", "pattern": "^[A-Z]{3}$", "minLength": 5});
    for part in [
        hopeless.clone(),
        json!({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}),
        json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false, "minProperties": 2}),
        json!({"allOf": [{"pattern": "^a+$"}, {"pattern": "^b+$"}], "type": "string"}),
    ] {
        let schema =
            json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}, "y": part}, "$defs": {"x": part}});
        check(&schema, &["{}"], &["{\"x\"", "{\"y\""]);
        let mut matcher = of(&schema);
        matcher.consume_tokens(&TOKENIZER.encode("{").unwrap()).unwrap();
        let mask = matcher.compute_mask().unwrap();
        assert!(TOKENIZER.encode("\"").unwrap().iter().all(|token| !mask.is_allowed(*token)), "{schema}");
    }
    assert!(refusal(&hopeless).contains("nothing can satisfy"));
    let wide: Vec<(String, Value)> = (0..1500).map(|n| (format!("p{n}"), json!({"const": n}))).collect();
    let wide = json!({"type": "object", "properties": wide.into_iter().collect::<serde_json::Map<_, _>>()});
    check(&wide, &["{}", "{\"p0\":0,\"p700\":700,\"p1499\":1499}"], &["{\"p1\":1,\"p0\":0}"]);
    let names =
        json!({"type": "object", "allOf": [{"propertyNames": {"maxLength": 3}}, {"propertyNames": {"minLength": 5}}]});
    check(&names, &["{}"], &["{\"abcd\":1}"]);
    let twice =
        json!({"type": "array", "uniqueItems": true, "items": {"anyOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}});
    check(&twice, &["[\"b\",\"c\"]"], &["[\"b\",\"b\"]"]);
}

/// However many schemas a grammar has, what they cost together is bounded.
#[test]
fn costly_patterns_are_refused() {
    let pattern = |n: u32| json!({"type": "string", "pattern": format!("^[^a]{{3000}}{n}$")});
    let parts: Vec<Value> = (0..1500).map(pattern).collect();
    assert!(refusal(&json!({"anyOf": parts, "const": "x"})).contains("too many combinations"));
    let tool = |n, strict| CallableTool {
        name: format!("f{n}"),
        parameters: json!({"properties": {"x": pattern(n)}}),
        strict,
        input: None,
    };
    let calls = |strict| {
        let tools = (0..100).map(|n| tool(n, strict)).collect();
        AnswerFormat::Calls(CallRules { tools, otherwise: Otherwise::Nothing, parallel: false })
    };
    let write = |strict| calls(strict).lark(Dialect::Plain, &Markers::default());
    assert!(write(true).unwrap_err().to_string().contains("too many combinations"));
    // As hints, those behind the bound are free.
    assert!(write(false).unwrap().contains("call_99: "));
    let schemas: Vec<String> = (0..60).map(|n| format!("%json {}", pattern(n))).collect();
    let grammar = AnswerFormat::Grammar(format!("start: {}", schemas.join(" ")));
    assert!(grammar.lark(Dialect::Plain, &Markers::default()).unwrap_err().to_string().contains("too many"));
}

#[test]
fn patterns_of_names_that_are_put_together() {
    let named = |start: u32| {
        let patterns = (start..start + 3).map(|n| (format!("^{n}.*x"), json!({"const": n})));
        json!({"type": "object", "patternProperties": patterns.collect::<serde_json::Map<_, _>>()})
    };
    let both = json!({"allOf": [named(0), named(3)]});
    assert!(refusal(&both).contains("patternProperties"), "{}", refusal(&both));
    let tool = CallableTool { name: "f".to_owned(), parameters: both, strict: false, input: None };
    let hint = AnswerFormat::Calls(CallRules { tools: vec![tool], otherwise: Otherwise::Nothing, parallel: false });
    assert!(takes(&compile(&hint).unwrap(), "{\"name\":\"f\",\"parameters\":{\"1x\":5}}"));
}
