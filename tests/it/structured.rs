//! Structured output: whatever the schema, the temperature and the weights, the answer is valid.

use futures::StreamExt;
use futures::stream;
use serde_json::{Map, Value, json};

use crate::server::{Server, chat};

/// A small deterministic source of choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A schema that bounds its answers, so that each ends by itself whatever the weights.
fn schema(choices: &mut Choices, depth: u32) -> Value {
    let kinds = if depth == 0 { 9 } else { 13 };
    match choices.below(kinds) {
        0 => json!({"type": "string", "maxLength": choices.below(12)}),
        1 => json!({"type": "string", "minLength": 2, "maxLength": 5}),
        2 => {
            let pattern = ["^[a-f]{2,6}$", "^\\d{3}-[A-Z]{2}$", "^(ja|nein|ßü)$"][choices.below(3) as usize];
            json!({"type": "string", "pattern": pattern})
        }
        3 => json!({"type": "integer", "minimum": -(choices.below(50) as i64), "maximum": choices.below(1000)}),
        4 => json!({"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}),
        5 => json!({"type": "boolean"}),
        6 => json!({"type": ["null", "boolean"]}),
        7 => json!({"enum": ["red", "grün", "蓝色", 5, null, {"a": [1]}]}),
        8 => json!({"const": {"version": 1, "text": "a \"quoted\" 🦊"}}),
        9 => {
            let low = choices.below(3);
            json!({"type": "array", "items": schema(choices, depth - 1), "minItems": low, "maxItems": low + choices.below(3)})
        }
        10 => json!({"anyOf": [schema(choices, depth - 1), schema(choices, depth - 1)]}),
        11 => {
            json!({"type": "array", "prefixItems": [schema(choices, depth - 1), {"type": "boolean"}], "items": false, "minItems": 2})
        }
        _ => object(choices, depth - 1),
    }
}

fn object(choices: &mut Choices, depth: u32) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for name in ["name", "größe", "item list", "x", "is_ok"].iter().take(1 + choices.below(5) as usize) {
        properties.insert((*name).to_owned(), schema(choices, depth));
        if choices.below(3) > 0 {
            required.push(*name);
        }
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// Every third through definitions, one of which may hold itself.
fn whole_schema(seed: u64) -> Value {
    let mut choices = Choices(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1);
    let mut root = object(&mut choices, 2);
    if seed.is_multiple_of(3) {
        root["$defs"] = json!({
            "part": schema(&mut choices, 1),
            "node": {
                "type": "object", "additionalProperties": false, "required": ["leaf"],
                "properties": {"leaf": {"$ref": "#/$defs/part"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
            },
        });
        root["properties"]["tree"] = json!({"$ref": "#/$defs/node"});
        root["required"].as_array_mut().unwrap().push(json!("tree"));
    }
    root
}

/// Asks an independent validator.
fn check(schema: &Value, value: &Value) {
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("schema.json", schema.clone()).unwrap();
    let index = compiler.compile("schema.json", &mut schemas).unwrap();
    schemas.validate(value, index).unwrap_or_else(|error| panic!("{schema}: {value}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_valid() {
    let server = Server::start(&[]);
    let ask = async |seed: u64| {
        let schema = whole_schema(seed);
        let mut valid = 0;
        for temperature in [0.0, 1.0, 2.0] {
            let mut body = chat("Fill in the form.");
            body["temperature"] = json!(temperature);
            body["max_tokens"] = json!(2000);
            body["seed"] = json!(seed);
            body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "form", "schema": schema}});
            let answer = server.ask("/v1/chat/completions", body).await;
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "stop", "{schema}: {choice}");
            let text = choice["message"]["content"].as_str().unwrap();
            let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{schema}: {text}: {error}"));
            check(&schema, &value);
            valid += 1;
        }
        valid
    };
    let valid: Vec<u32> = stream::iter(0..200_u64).map(ask).buffer_unordered(32).collect().await;
    println!("{} of {} answers are valid", valid.iter().sum::<u32>(), 600);
    assert_eq!(valid.iter().sum::<u32>(), 600);
    server.wait_for_metric("vllm:num_requests_running", 0.0).await;
}

/// Schemas that leave objects open: closing them where that is safe must neither refuse nor break what is valid.
#[tokio::test]
async fn open_schemas() {
    let server = Server::start(&[]);
    let object =
        |name: &str| json!({"type": "object", "properties": {name: {"type": "integer", "minimum": 0, "maximum": 9}}});
    let with = |mut schema: Value, more: Value| {
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let need = |name: &str| with(object(name), json!({"required": [name]}));
    let of_b = json!({"B": object("b")});
    for (schema, status) in [
        (json!({"type": "object", "required": ["a", "b"], "allOf": [object("a")]}), 200),
        (json!({"allOf": [need("a"), need("b")]}), 200),
        (json!({"$ref": "#/$defs/B", "required": ["extra"], "$defs": of_b}), 200),
        (json!({"required": ["c"], "anyOf": [object("a"), object("b")]}), 200),
        (json!({"anyOf": [need("a"), {"$ref": "#/$defs/B"}], "$defs": of_b}), 200),
        (with(object("a"), json!({"const": {"a": 1, "b": 2}})), 200),
        (need("a"), 200),
        // Both fit an object with neither or both: what cannot be enforced is refused.
        (json!({"oneOf": [need("a"), object("b")]}), 400),
        (json!({"type": "object", "properties": {"who": {"oneOf": [object("a"), object("b")]}}}), 400),
    ] {
        for seed in 0..4 {
            let mut body = chat("Fill in the form.");
            (body["seed"], body["max_tokens"], body["temperature"]) = (json!(seed), json!(300), json!(1));
            body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "form", "schema": schema}});
            let response = server.post("/v1/chat/completions", &body).send().await.unwrap();
            assert_eq!(response.status(), status, "{schema}");
            let choice = response.json::<Value>().await.unwrap()["choices"][0].clone();
            if choice["finish_reason"] == "stop" {
                check(&schema, &serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn other_formats() {
    let server = Server::start(&[]);
    let text = async |change: Value| {
        let mut body = chat("Say something.");
        body["temperature"] = json!(2);
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = server.ask("/v1/chat/completions", body).await;
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    for seed in 0..20 {
        let choice = text(json!({"guided_choice": ["rot", "grün", "blau und grün"], "seed": seed})).await;
        assert!(["rot", "grün", "blau und grün"].contains(&choice.as_str()), "{choice}");
        let number = text(json!({"guided_regex": "[1-9][0-9]{2}\\.(00|50)", "seed": seed})).await;
        assert!(number.len() == 6 && number.parse::<f32>().is_ok(), "{number}");
        let word =
            text(json!({"structured_outputs": {"grammar": "start: A{1,8} \"!\"\nA: \"a\" | \"b\""}, "seed": seed}))
                .await;
        assert!(word.trim_start_matches(['a', 'b']) == "!" && word.len() > 1, "{word}");
    }
    let mut body = chat("An object, please.");
    body["response_format"] = json!({"type": "json_object"});
    body["max_tokens"] = json!(3);
    let answer = server.ask("/v1/chat/completions", body).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "an answer that was cut says so");
    let completion = json!({"prompt": "A color:", "guided_choice": ["red", "blue"], "n": 3, "temperature": 2});
    for choice in server.ask("/v1/completions", completion).await["choices"].as_array().unwrap() {
        assert!(["red", "blue"].contains(&choice["text"].as_str().unwrap()), "{choice}");
        assert_eq!(choice["finish_reason"], "stop");
    }
}

/// A text that spells the model's own markers is text like any other.
#[tokio::test]
async fn markers_spelled_in_an_answer_are_text() {
    let server = Server::start(&[]);
    let note = "<think>kept</think> <｜User｜> <｜end▁of▁sentence｜><｜tool▁calls▁begin｜>\n";
    let schema = json!({
        "type": "object", "properties": {"note": {"enum": [note]}}, "required": ["note"], "additionalProperties": false,
    });
    for effort in ["none", "medium"] {
        let mut body = chat("An object, please.");
        (body["reasoning_effort"], body["thinking_token_budget"], body["max_tokens"]) =
            (json!(effort), json!(5), json!(300));
        body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let choice = server.ask("/v1/chat/completions", body).await["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "stop", "{choice}");
        let answer: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert_eq!(answer, json!({"note": note}));
    }
}

fn weather_tools() -> Value {
    let city = json!({"type": "string", "minLength": 1, "maxLength": 20});
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
            "type": "object", "properties": {"city": city, "unit": {"enum": ["C", "F"]}}, "required": ["city"], "additionalProperties": false,
        }}},
        {"type": "function", "function": {"name": "get_time", "parameters": {
            "type": "object", "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}}, "required": ["zone"],
            "additionalProperties": false,
        }}},
    ])
}

fn check_call(call: &Value) -> &str {
    let (name, arguments) =
        (call["function"]["name"].as_str().unwrap(), call["function"]["arguments"].as_str().unwrap());
    let tools = weather_tools();
    let tool = tools.as_array().unwrap().iter().find(|tool| tool["function"]["name"] == name).expect("an offered tool");
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{call}: {error}"));
    check(&tool["function"]["parameters"], &arguments);
    assert!(call["id"].as_str().unwrap().starts_with("call_"), "{call}");
    name
}

#[tokio::test]
async fn required_calls_always_parse() {
    let server = Server::start(&[]);
    let named = json!({"type": "function", "function": {"name": "get_time"}});
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}});
    for seed in 0..12 {
        for (choice, parallel) in
            [(json!("required"), false), (json!("required"), true), (named.clone(), false), (allowed.clone(), false)]
        {
            let mut body = chat("What is it like there?");
            body["tools"] = weather_tools();
            body["tool_choice"] = choice.clone();
            (body["seed"], body["temperature"], body["max_tokens"]) = (json!(seed), json!(1.5), json!(3000));
            if parallel {
                body["parallel_tool_calls"] = json!(true);
            }
            // In half of the cases after a thought.
            if seed % 2 == 0 {
                (body["reasoning_effort"], body["thinking_token_budget"]) = (json!("low"), json!(5));
            }
            let answer = server.ask("/v1/chat/completions", body.clone()).await;
            let (message, reason) = (&answer["choices"][0]["message"], &answer["choices"][0]["finish_reason"]);
            let calls = message["tool_calls"].as_array().unwrap_or_else(|| panic!("{answer}"));
            assert!(reason == "tool_calls" && message["content"].is_null(), "{answer}");
            let names: Vec<&str> = calls.iter().map(check_call).collect();
            assert!(parallel || names.len() == 1, "{names:?}");
            assert!(choice == "required" || names == ["get_time"], "{names:?}");
            let thought = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
            assert!(thought <= if seed % 2 == 0 { 6 } else { 0 }, "{answer}");
            let events = server.stream("/v1/chat/completions", body).await;
            assert_eq!(streamed_calls(&events), without_ids(calls));
        }
    }
}

fn without_ids(calls: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    calls.iter().map(|call| (text(&call["function"]["name"]), text(&call["function"]["arguments"]))).collect()
}

/// Joins the parts of calls, as SDKs do.
fn streamed_calls(events: &[Value]) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for part in events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array()).flatten() {
        let index = part["index"].as_u64().unwrap() as usize;
        if let Some(name) = part["function"]["name"].as_str() {
            assert_eq!(index, calls.len(), "{part}");
            assert!(part["id"].is_string() && part["type"] == "function", "{part}");
            calls.push((name.to_owned(), String::new()));
        }
        calls[index].1.push_str(part["function"]["arguments"].as_str().unwrap_or_default());
    }
    calls
}

#[tokio::test]
async fn legacy_functions() {
    let server = Server::start(&[]);
    let mut body = chat("What is it like there?");
    body["functions"] = weather_tools().as_array().unwrap().iter().map(|tool| tool["function"].clone()).collect();
    body["function_call"] = json!({"name": "get_time"});
    let choice = server.ask("/v1/chat/completions", body).await["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "function_call", "{choice}");
    assert_eq!(choice["message"]["function_call"]["name"], "get_time", "{choice}");
    assert!(choice["message"].get("tool_calls").is_none(), "{choice}");
    // The older form of the history.
    let mut body = chat("What time is it?");
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": null, "function_call": {"name": "get_time", "arguments": "{\"zone\":1}"}}));
    messages.push(json!({"role": "function", "name": "get_time", "content": "12:00"}));
    body["return_token_ids"] = json!(true);
    let answer = server.ask("/v1/chat/completions", body).await;
    let prompt = server.ask("/detokenize", json!({"tokens": answer["prompt_token_ids"]})).await["prompt"].clone();
    assert!(prompt.as_str().unwrap().contains("get_time<｜tool▁sep｜>{\"zone\":1}"), "{prompt}");
    assert!(prompt.as_str().unwrap().contains("<｜tool▁output▁begin｜>12:00"), "{prompt}");
}

/// Grammars made to hurt are refused or end alone; the server goes on.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_grammars_hurt_nobody_else() {
    let server = Server::start(&[]);
    let chain: String = (0..9000).fold("start: r0\n".to_owned(), |text, n| text + &format!("r{n}: \"a\" r{}\n", n + 1))
        + "r9000: \"b\"";
    let terminals: String = (0..3000)
        .fold("start: T0\n".to_owned(), |text, n| text + &format!("T{n}: \"a\" T{}\n", n + 1))
        + "T3000: \"b\"";
    let wide: Map<String, Value> = (0..8000).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
    let mut links: Map<String, Value> =
        (0..3000).map(|n| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)}))).collect();
    links.insert("d3000".to_owned(), json!({"type": "boolean"}));
    for change in [
        json!({"guided_grammar": chain}),
        json!({"guided_grammar": terminals}),
        json!({"guided_json": {"type": "object", "properties": wide}}),
        json!({"guided_json": {"$ref": "#/$defs/d0", "$defs": links}}),
        json!({"guided_regex": "(((((a{1,1000}){1,1000}){1,1000})b){1,1000}c){1,1000}"}),
        json!({"guided_grammar": "start: s\ns: s s s | s s | /[a-z]/ | \"x\"", "max_tokens": 200}),
        json!({"guided_grammar": "start: a\na: a a | a a a | \"\"", "max_tokens": 200}),
    ] {
        let mut body = chat("Hi");
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let status = server.post("/v1/chat/completions", &body).send().await.unwrap().status();
        assert!(status == 200 || status == 400, "{status}: {}", &change.to_string()[..60]);
        server.ask("/v1/chat/completions", chat("still there?")).await;
    }
}

#[tokio::test]
async fn tools_beside_a_format_and_bounds_that_meet() {
    let server = Server::start(&["--dialect", "plain"]);
    let mut body = chat("An object, please.");
    (body["tools"], body["max_tokens"]) = (weather_tools(), json!(400));
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"zeta": {"type": "boolean"}}, "required": ["zeta"], "additionalProperties": false,
    }}});
    let message = server.ask("/v1/chat/completions", body.clone()).await["choices"][0]["message"].clone();
    assert!(!message["tool_calls"].is_null(), "a name is likely: {message}");
    for call in message["tool_calls"].as_array().unwrap() {
        check_call(call);
    }
    // The object stays within reach: here its first letter is made likely.
    let tokens = server.ask("/tokenize", json!({"prompt": "ze", "add_special_tokens": false})).await["tokens"].clone();
    body["logit_bias"] = json!({(tokens[0].to_string()): 100});
    let message = server.ask("/v1/chat/completions", body.clone()).await["choices"][0]["message"].clone();
    let value: Value =
        serde_json::from_str(message["content"].as_str().unwrap_or_else(|| panic!("{message}"))).unwrap();
    assert!(value["zeta"].is_boolean(), "{value}");

    let server = Server::start(&["--dialect", "deepseek-v3.2"]);
    let mut body = chat("What is it like there?");
    (body["tools"], body["tool_choice"], body["max_tokens"]) = (weather_tools(), json!("required"), json!(3000));
    body["tools"][0]["function"]["parameters"]["properties"]["city"] = json!({"type": "string"});
    body["logit_bias"] = json!({});
    for seed in 0..10 {
        body["seed"] = json!(seed);
        let choice = server.ask("/v1/chat/completions", body.clone()).await["choices"][0].clone();
        if choice["finish_reason"] == "tool_calls" {
            let call = &choice["message"]["tool_calls"][0];
            let arguments = call["function"]["arguments"].as_str().unwrap();
            assert!(serde_json::from_str::<Value>(arguments).unwrap().is_object(), "{call}");
        }
    }

    let server = Server::start(&[]);
    for change in [
        json!({"tools": weather_tools(), "min_tokens": 30, "max_tokens": 60}),
        json!({"tools": weather_tools(), "bad_words": ["get_weather", "e"], "max_tokens": 60}),
        json!({"reasoning_effort": "high", "thinking_token_budget": 2, "bad_words": ["</think>"]}),
        json!({"reasoning_effort": "high", "thinking_token_budget": 2, "allowed_token_ids": [70, 71]}),
        json!({"reasoning_effort": "high", "thinking_token_budget": 2, "guided_choice": ["yes", "no\u{7f}"]}),
    ] {
        let mut body = chat("Hi");
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        server.ask("/v1/chat/completions", body).await;
    }
}

/// A constraint follows accepted tokens, so preemption and prefix hits do not disturb it.
#[tokio::test(flavor = "multi_thread")]
async fn constraints_survive_preemption() {
    let server = Server::start(&["--kv-cache-memory", "768000", "--max-model-len", "512"]);
    let schema = json!({"type": "array", "minItems": 12, "maxItems": 12, "items": {"type": "string", "minLength": 4, "maxLength": 9}});
    let ask = async |seed: u64| {
        let mut body = chat("Words.");
        (body["seed"], body["max_tokens"], body["n"]) = (json!(seed), json!(450), json!(2));
        body["guided_json"] = schema.clone();
        let answer = server.ask("/v1/chat/completions", body).await;
        for choice in answer["choices"].as_array().unwrap() {
            let value: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
            check(&schema, &value);
        }
    };
    stream::iter(0..12_u64).for_each_concurrent(12, ask).await;
    assert!(server.metric("vllm:num_preemptions_total").await > 0.0, "memory was not short");
}

#[tokio::test]
async fn words_tokens_and_thoughts_are_bounded() {
    let server = Server::start(&[]);
    let ids = |answer: &Value| -> Vec<u64> {
        answer["choices"][0]["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    let mut body = chat("Hello!");
    (body["return_token_ids"], body["max_tokens"], body["temperature"]) = (json!(true), json!(40), json!(2));
    body["allowed_token_ids"] = json!([70, 71, 72]);
    let answer = server.ask("/v1/chat/completions", body.clone()).await;
    assert!(ids(&answer).iter().all(|id| [70, 71, 72, 1].contains(id)), "{answer}");

    body["allowed_token_ids"] = Value::Null;
    body["temperature"] = json!(0);
    let free = server.ask("/v1/chat/completions", body.clone()).await;
    let text = free["choices"][0]["message"]["content"].as_str().unwrap();
    let word = text.split_whitespace().find(|word| word.len() > 1).expect("a word").to_owned();
    body["bad_words"] = json!([word]);
    let answer = server.ask("/v1/chat/completions", body.clone()).await;
    assert_ne!(ids(&free), ids(&answer), "{word:?} was said before");

    body["bad_words"] = Value::Null;
    body["reasoning_effort"] = json!("high");
    for budget in [0, 1, 7] {
        body["thinking_token_budget"] = json!(budget);
        let answer = server.ask("/v1/chat/completions", body.clone()).await;
        let details = &answer["usage"]["completion_tokens_details"];
        assert!(details["reasoning_tokens"].as_u64().unwrap() <= budget + 1, "the closing token counts: {answer}");
    }
}

/// What cannot be enforced of one tool is passed over in that part of it; where it must be enforced, the error says where.
#[tokio::test]
async fn one_odd_tool_relaxes_itself_alone() {
    let server = Server::start(&[]);
    let tool = |name: &str, property: Value| {
        let parameters = json!({"type": "object", "properties": {"city": property}, "required": ["city"]});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    let mut body = chat("What is the weather in Paris?");
    body["temperature"] = json!(0);
    body["tools"] = json!([
        tool("get_weather", json!({"enum": ["Oslo"]})),
        tool("odd", json!({"type": "string", "pattern": "^(?!x)"})),
    ]);
    for choice in ["auto", "required"] {
        body["tool_choice"] = json!(choice);
        let message = server.ask("/v1/chat/completions", body.clone()).await["choices"][0]["message"].clone();
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"city\":\"Oslo\"}", "{choice}: {message}");
    }
    body["tools"][1]["function"]["strict"] = json!(true);
    let refused = async |body: &Value| {
        let response = server.post("/v1/chat/completions", body).send().await.unwrap();
        assert_eq!(response.status(), 400);
        response.json::<Value>().await.unwrap()["error"].clone()
    };
    let error = refused(&body).await;
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["param"], "tools");
    assert!(message.contains("\"odd\": properties.city.pattern uses look-around"), "{message}");
    body["tools"][1]["function"]["strict"] = json!(false);
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}});
    for choice in ["required", "auto"] {
        body["tool_choice"] = json!(choice);
        let error = refused(&body).await;
        assert_eq!(error["param"], "response_format", "{choice}: {error}");
    }
}

#[tokio::test]
async fn grammars_in_ebnf_and_schemas_beside_json_object() {
    let server = Server::start(&[]);
    let mut body = chat("yes or no?");
    body["structured_outputs"] = json!({"grammar": "root ::= answer \"!\"\nanswer ::= \"yes\" | \"no\""});
    body["guided_grammar"] = body["structured_outputs"]["grammar"].clone();
    let content = server.ask("/v1/chat/completions", body).await["choices"][0]["message"]["content"].clone();
    assert!(["yes!", "no!"].contains(&content.as_str().unwrap()), "{content}");
    let mut body = chat("An id, please.");
    body["max_tokens"] = json!(100);
    let id = 1_234_567_890_123_456_789_i64;
    body["response_format"] =
        json!({"type": "json_object", "schema": {"properties": {"id": {"const": id}}, "required": ["id"]}});
    let content = server.ask("/v1/chat/completions", body).await["choices"][0]["message"]["content"].clone();
    assert_eq!(content, "{\"id\":1234567890123456789}");
}
