//! What each bad input gets: status, type, param and code, and a server that still answers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Server, chat};

struct Case {
    path: &'static str,
    body: Value,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

fn case(path: &'static str, change: Value, param: impl Into<Option<&'static str>>) -> Case {
    let mut body = if path.starts_with("/v1/chat") { chat("hi") } else { json!({"prompt": "hi"}) };
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    Case { path, body, param: param.into(), code: None }
}

#[expect(clippy::too_many_lines, reason = "one line per bad input")]
fn bad_requests() -> Vec<Case> {
    let chat_case = |change, param: &'static str| case("/v1/chat/completions", change, param);
    let completion = |change, param: &'static str| case("/v1/completions", change, param);
    let long = "word ".repeat(70_000);
    let nested = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let mut cases = vec![
        chat_case(json!({"messages": []}), "messages"),
        chat_case(json!({"messages": null}), "messages"),
        chat_case(json!({"messages": "hi"}), "messages"),
        chat_case(json!({"messages": [{"role": "robot", "content": "hi"}]}), "messages[0].role"),
        chat_case(json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        chat_case(
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}),
            "messages[0].content[0]",
        ),
        chat_case(json!({"messages": [{"role": null, "content": "hi"}]}), "messages[0].role"),
        chat_case(json!({"messages": [["user", "hi"]]}), "messages[0]"),
        chat_case(
            json!({"messages": [{"role": "user", "content": ["hi", {"type": "text"}]}]}),
            "messages[0].content[1].text",
        ),
        chat_case(
            json!({"messages": [{"role": "assistant", "content": [{"type": "refusal", "text": "no"}]}]}),
            "messages[0].content[0].refusal",
        ),
        chat_case(json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_tokens"),
        chat_case(json!({"guided_regex": "a", "structured_outputs": {"regex": "b"}}), "guided_regex"),
        chat_case(json!({"n": 0}), "n"),
        chat_case(json!({"n": -1}), "n"),
        chat_case(json!({"n": 17}), "n"),
        chat_case(json!({"n": 4_294_967_295_u32}), "n"),
        chat_case(json!({"n": 1e30}), "n"),
        chat_case(json!({"max_tokens": 0}), "max_tokens"),
        chat_case(json!({"max_tokens": -5}), "max_tokens"),
        chat_case(json!({"max_tokens": 4_294_967_296_u64}), "max_tokens"),
        chat_case(json!({"max_completion_tokens": "many"}), "max_completion_tokens"),
        chat_case(json!({"temperature": -0.1}), "temperature"),
        chat_case(json!({"temperature": 2.1}), "temperature"),
        chat_case(json!({"temperature": 1e39}), "temperature"),
        chat_case(json!({"temperature": "hot"}), "temperature"),
        chat_case(json!({"top_p": 0}), "top_p"),
        chat_case(json!({"top_p": 1.01}), "top_p"),
        chat_case(json!({"top_k": -2}), "top_k"),
        chat_case(json!({"top_k": 1.5}), "top_k"),
        chat_case(json!({"min_p": 1.5}), "min_p"),
        chat_case(json!({"frequency_penalty": 3}), "frequency_penalty"),
        chat_case(json!({"presence_penalty": -3}), "presence_penalty"),
        chat_case(json!({"repetition_penalty": 0}), "repetition_penalty"),
        chat_case(json!({"repetition_penalty": 1e-40}), "repetition_penalty"),
        chat_case(json!({"priority": -1}), "priority"),
        chat_case(json!({"min_tokens": 1, "allowed_token_ids": [1]}), "allowed_token_ids"),
        chat_case(json!({"logit_bias": {"1536": 1}}), "logit_bias"),
        chat_case(json!({"logit_bias": {"x": 1}}), "logit_bias"),
        chat_case(json!({"logit_bias": {"5": 101}}), "logit_bias"),
        chat_case(json!({"stop": ""}), "stop"),
        chat_case(json!({"stop": vec!["x"; 17]}), "stop"),
        chat_case(json!({"stop": [1, 2]}), "stop[0]"),
        chat_case(json!({"stop": "x".repeat(2000)}), "stop"),
        chat_case(json!({"stop_token_ids": [99_999]}), "stop_token_ids"),
        chat_case(json!({"min_tokens": 17}), "min_tokens"),
        chat_case(json!({"top_logprobs": 3}), "top_logprobs"),
        chat_case(json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        chat_case(json!({"prompt_logprobs": 21}), "prompt_logprobs"),
        chat_case(json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
        chat_case(json!({"stream_options": {"include_usage": true}}), "stream_options"),
        chat_case(json!({"stream": "yes"}), "stream"),
        chat_case(json!({"seed": 1.5}), "seed"),
        chat_case(json!({"cache_salt": "a b"}), "cache_salt"),
        chat_case(json!({"cache_salt": ""}), "cache_salt"),
        chat_case(json!({"request_id": "a\nb"}), "request_id"),
        chat_case(json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
        chat_case(json!({"priority": "high"}), "priority"),
        chat_case(json!({"modalities": ["audio"]}), "modalities"),
        chat_case(json!({"chat_template": "{{ 1 }}"}), "chat_template"),
        chat_case(json!({"audio": {}}), "audio"),
        chat_case(json!({"use_beam_search": true}), "use_beam_search"),
        chat_case(json!({"reasoning_effort": "extreme"}), "reasoning_effort"),
        chat_case(json!({"thinking": {"type": "maybe"}}), "thinking.type"),
        chat_case(json!({"thinking": {}}), "thinking.type"),
        chat_case(json!({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}), "thinking"),
        chat_case(json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages"),
        chat_case(json!({"chat_template_kwargs": nested}), "chat_template_kwargs"),
        chat_case(json!({"continue_final_message": true, "add_generation_prompt": true}), "continue_final_message"),
        completion(json!({"prompt": null}), "prompt"),
        completion(json!({"prompt": []}), "prompt"),
        completion(json!({"prompt": [[]]}), "prompt"),
        completion(json!({"prompt": {"a": 1}}), "prompt"),
        completion(json!({"prompt": [1, -1]}), "prompt[1]"),
        completion(json!({"prompt": [1536]}), "prompt"),
        completion(json!({"prompt": vec!["x"; 2049]}), "prompt"),
        // More than ever run and wait.
        completion(json!({"prompt": vec!["x"; 2048]}), "prompt"),
        completion(json!({"prompt": vec!["x"; 100], "n": 16}), "prompt"),
        completion(json!({"n": 17}), "n"),
        completion(json!({"use_beam_search": true}), "use_beam_search"),
        completion(json!({"logprobs": 21}), "logprobs"),
        completion(json!({"logprobs": true}), "logprobs"),
        completion(json!({"best_of": 2}), "best_of"),
        completion(json!({"suffix": "x"}), "suffix"),
        completion(json!({"prompt": vec![5; 8000], "echo": true, "logprobs": 20, "n": 16}), "prompt"),
        completion(json!({"max_tokens": 0}), "max_tokens"),
        completion(json!({"prompt": ["a", 1]}), "prompt"),
        completion(json!({"prompt": vec![[0]; 5000]}), "prompt"),
        case("/tokenize", json!({"messages": [{"role": "user", "content": "hi"}]}), "prompt"),
        case("/tokenize", json!({"prompt": null}), "prompt"),
        case("/detokenize", json!({}), "tokens"),
        case("/detokenize", json!({"tokens": [1536]}), "tokens"),
    ];
    for (path, field, value) in [
        ("/v1/chat/completions", "messages", json!([{"role": "user", "content": long}])),
        ("/v1/completions", "prompt", json!(long)),
        ("/v1/completions", "prompt", json!(vec![5; 65536])),
    ] {
        cases.push(Case { code: Some("context_length_exceeded"), ..case(path, json!({field: value}), field) });
    }
    cases
}

fn function(change: Value) -> Value {
    let mut function = json!({"name": "f", "parameters": {"type": "object"}});
    for (key, value) in change.as_object().unwrap() {
        function[key] = value.clone();
    }
    json!([{"type": "function", "function": function}])
}

fn bad_tools() -> Vec<Case> {
    let chat_case = |change, param: &'static str| case("/v1/chat/completions", change, param);
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let takes = |kind: Value| json!({"tools": function(json!({"parameters": {"type": kind}}))});
    let with = |choice: Value| json!({"tools": function(json!({})), "tool_choice": choice});
    let twice = [function(json!({})), function(json!({}))].map(|tools| tools[0].clone());
    let unsupported = json!({"type": "object", "properties": {"x": {"not": {"type": "string"}}}});
    vec![
        chat_case(json!({"tools": {}}), "tools"),
        chat_case(json!({"tools": [5]}), "tools[0].type"),
        chat_case(json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        chat_case(json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        chat_case(json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
        chat_case(json!({"tools": function(json!({"name": ""}))}), "tools[0].function.name"),
        chat_case(json!({"tools": function(json!({"name": "a b"}))}), "tools[0].function.name"),
        chat_case(json!({"tools": function(json!({"name": "x".repeat(129)}))}), "tools[0].function.name"),
        chat_case(json!({"tools": function(json!({"name": 5}))}), "tools[0].function.name"),
        chat_case(json!({"tools": function(json!({"parameters": "string"}))}), "tools[0].function.parameters"),
        chat_case(json!({"tools": function(json!({"parameters": []}))}), "tools[0].function.parameters"),
        chat_case(takes(json!("string")), "tools[0].function.parameters.type"),
        chat_case(takes(json!(["array", "null"])), "tools[0].function.parameters.type"),
        chat_case(json!({"tools": function(json!({"strict": "yes"}))}), "tools[0].function.strict"),
        chat_case(json!({"tools": twice}), "tools[1].function.name"),
        chat_case(json!({"tools": vec![named("f"); 513]}), "tools"),
        chat_case(json!({"tools": function(json!({"strict": true, "parameters": unsupported}))}), "tools"),
        chat_case(json!({"tool_choice": "required"}), "tool_choice"),
        chat_case(json!({"tool_choice": named("f")}), "tool_choice"),
        chat_case(with(json!("sometimes")), "tool_choice"),
        chat_case(with(json!(5)), "tool_choice"),
        chat_case(with(json!({})), "tool_choice"),
        chat_case(with(json!({"type": "function"})), "tool_choice"),
        chat_case(with(named("g")), "tool_choice"),
        chat_case(with(json!({"type": "allowed_tools"})), "tool_choice"),
        chat_case(
            with(json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}})),
            "tool_choice",
        ),
        chat_case(
            with(json!({"type": "allowed_tools", "allowed_tools": {"mode": "maybe", "tools": [named("f")]}})),
            "tool_choice",
        ),
        chat_case(
            with(json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("g")]}})),
            "tool_choice",
        ),
        chat_case(json!({"parallel_tool_calls": "no"}), "parallel_tool_calls"),
        chat_case(json!({"functions": [{"name": "f"}], "tools": function(json!({}))}), "functions"),
        chat_case(json!({"functions": [{"name": "a b"}]}), "functions[0].name"),
        chat_case(json!({"functions": [{}]}), "functions[0].name"),
        chat_case(json!({"function_call": {"name": "f"}}), "function_call"),
        chat_case(json!({"functions": [{"name": "f"}], "function_call": {"name": "g"}}), "function_call"),
    ]
}

fn bad_formats() -> Vec<Case> {
    let chat_case = |change, param: &'static str| case("/v1/chat/completions", change, param);
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let wide = json!({"enum": (0..60_000).map(|i| format!("value {i}")).collect::<Vec<_>>()});
    let endless = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    let never = json!({"type": "string", "minLength": 5, "maxLength": 3});
    let choices = json!({"guided_choice": ["a", "b"]});
    let both = |other: Value| {
        let mut body = choices.clone();
        body.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        body
    };
    vec![
        chat_case(json!({"response_format": "json"}), "response_format"),
        chat_case(json!({"response_format": {}}), "response_format.type"),
        chat_case(json!({"response_format": {"type": "xml"}}), "response_format.type"),
        chat_case(json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        chat_case(
            json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
            "response_format.json_schema.name",
        ),
        chat_case(
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}),
            "response_format.json_schema.name",
        ),
        chat_case(schema(json!("object")), "response_format.json_schema.schema"),
        chat_case(schema(json!(null)), "response_format.json_schema.schema"),
        chat_case(schema(json!({"type": "thing"})), "response_format"),
        chat_case(schema(json!({"type": "object", "properties": 5})), "response_format"),
        chat_case(schema(json!({"not": {"type": "string"}})), "response_format"),
        chat_case(schema(json!({"$ref": "https://example.com/schema.json"})), "response_format"),
        chat_case(schema(json!({"$ref": "#/$defs/missing"})), "response_format"),
        chat_case(schema(json!({"type": "string", "pattern": "("})), "response_format"),
        chat_case(schema(json!({"type": "string", "pattern": "a(?=b)"})), "response_format"),
        chat_case(schema(endless), "response_format"),
        chat_case(schema(never), "response_format"),
        chat_case(schema(wide), "response_format"),
        chat_case(json!({"guided_json": 5}), "guided_json"),
        chat_case(json!({"guided_json": "{"}), "guided_json"),
        chat_case(json!({"guided_json": "[]"}), "guided_json"),
        chat_case(json!({"guided_regex": ""}), "guided_regex"),
        chat_case(json!({"guided_regex": "["}), "guided_regex"),
        chat_case(json!({"guided_regex": "(a)\\1"}), "guided_regex"),
        chat_case(json!({"guided_regex": 5}), "guided_regex"),
        chat_case(json!({"guided_choice": []}), "guided_choice"),
        chat_case(json!({"guided_choice": [""]}), "guided_choice"),
        chat_case(json!({"guided_choice": "a"}), "guided_choice"),
        chat_case(json!({"guided_choice": vec!["x"; 5000]}), "guided_choice"),
        chat_case(json!({"guided_grammar": ""}), "guided_grammar"),
        chat_case(json!({"guided_grammar": "start: unknown"}), "guided_grammar"),
        chat_case(json!({"guided_grammar": "x".repeat(300_000)}), "guided_grammar"),
        chat_case(json!({"structured_outputs": 5}), "structured_outputs"),
        chat_case(json!({"structured_outputs": {"regex": "["}}), "structured_outputs.regex"),
        chat_case(json!({"structured_outputs": {"structural_tag": "x"}}), "structured_outputs.structural_tag"),
        chat_case(json!({"structured_outputs": {"json": {}, "regex": "a"}}), "structured_outputs.regex"),
        chat_case(both(json!({"guided_regex": "a"})), "guided_choice"),
        chat_case(both(json!({"tools": function(json!({}))})), "guided_choice"),
        chat_case(both(json!({"ignore_eos": true})), "ignore_eos"),
        chat_case(both(json!({"min_tokens": 1})), "min_tokens"),
        chat_case(both(json!({"bad_words": ["a"]})), "bad_words"),
        chat_case(both(json!({"allowed_token_ids": [5]})), "allowed_token_ids"),
        chat_case(json!({"allowed_token_ids": []}), "allowed_token_ids"),
        chat_case(json!({"allowed_token_ids": [99_999]}), "allowed_token_ids"),
        chat_case(json!({"bad_words": [""]}), "bad_words"),
        chat_case(json!({"bad_words": "a"}), "bad_words"),
        chat_case(json!({"thinking_token_budget": -1}), "thinking_token_budget"),
        case("/v1/completions", json!({"guided_regex": "["}), "guided_regex"),
        case("/v1/completions", json!({"response_format": {"type": "yaml"}}), "response_format.type"),
    ]
}

#[tokio::test]
async fn bad_requests_get_exact_errors() {
    let server = Server::start(&[]);
    for Case { path, body, param, code } in [bad_requests(), bad_tools(), bad_formats()].into_iter().flatten() {
        let response = server.post(path, &body).send().await.unwrap();
        let (status, error) = (response.status(), response.json::<Value>().await.unwrap()["error"].clone());
        let shown: String = body.to_string().chars().take(200).collect();
        assert_eq!(status, 400, "{path} {shown}: {error}");
        assert_eq!(error["type"], "invalid_request_error", "{path} {shown}: {error}");
        assert_eq!(error["param"].as_str(), param, "{path} {shown}: {error}");
        assert_eq!(error["code"].as_str(), code, "{path} {shown}: {error}");
        assert!((10..=2048).contains(&error["message"].as_str().unwrap().len()), "{path} {shown}: {error}");
    }
    assert_eq!(server.metric("vllm:num_requests_running").await, 0.0);
    server.ask("/v1/chat/completions", chat("still there?")).await;
}

#[tokio::test]
async fn wrong_bodies_routes_and_methods() {
    let server = Server::start(&["--max-body-bytes", "10000"]);
    let raw = |content_type: &str, body: Vec<u8>| {
        let request = reqwest::Client::new().post(format!("{}/v1/chat/completions", server.url));
        request.header("content-type", content_type).body(body)
    };
    let deep = [b"[".repeat(5000), b"]".repeat(5000)].concat();
    let cases = [
        (raw("application/json", b"{".to_vec()), 400, None),
        (raw("application/json", b"\xff\xfe{}".to_vec()), 400, None),
        (raw("application/json", deep), 400, None),
        (raw("application/json", b"{\"messages\": [], \"temperature\": NaN}".to_vec()), 400, None),
        (raw("application/json", b"[]".to_vec()), 400, None),
        (raw("application/json", b" null".to_vec()), 400, None),
        (raw("application/json", b"".to_vec()), 400, None),
        (raw("application/json", vec![b' '; 10_001]), 413, Some("request_too_large")),
        (raw("text/plain", b"{}".to_vec()), 415, Some("unsupported_media_type")),
        (server.get("/v1/nothing"), 404, Some("unknown_url")),
        (server.post("/v1/models", &json!({})), 405, Some("method_not_allowed")),
        (server.get("/v1/chat/completions"), 405, Some("method_not_allowed")),
        (server.get("/v1/models/other"), 404, Some("model_not_found")),
        (server.get("/v1/models/owner/name"), 404, Some("model_not_found")),
        (server.get("/v1/models/%ff"), 404, Some("unknown_url")),
        (server.post("/v1/completions", &json!({"prompt": "x", "n": 2000})), 400, None),
        (server.post("/v1/completions", &json!({"prompt": "x", "model": "other"})), 404, Some("model_not_found")),
    ];
    for (index, (request, status, code)) in cases.into_iter().enumerate() {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "case {index}");
        assert!(response.headers().contains_key("x-request-id"), "case {index}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["code"].as_str(), code, "case {index}: {error}");
        assert_eq!(error["type"], "invalid_request_error", "case {index}: {error}");
    }
}

#[tokio::test]
async fn keys_open_what_they_should() {
    let server = Server::start(&["--api-key", "one,two"]);
    let authorised = |header: Option<&str>| {
        let request = server.get("/v1/models");
        header.map_or_else(|| server.get("/v1/models"), |value| request.header("authorization", value))
    };
    for (header, status) in [
        (None, 401),
        (Some("Bearer three"), 401),
        (Some("Bearer "), 401),
        (Some("one"), 401),
        (Some("Basic one"), 401),
        (Some("Bearer one"), 200),
        (Some("bearer two"), 200),
        (Some("Bearer  one "), 200),
    ] {
        let response = authorised(header).send().await.unwrap();
        assert_eq!(response.status(), status, "{header:?}");
        if status == 401 {
            assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "invalid_api_key");
        }
    }
    for path in ["/health", "/live", "/ready", "/version", "/metrics", "/openapi.json"] {
        assert_eq!(server.get(path).send().await.unwrap().status(), 200, "{path}");
    }
    // A browser asks first, without the key.
    let preflight = reqwest::Client::new()
        .request(reqwest::Method::OPTIONS, format!("{}/v1/chat/completions", server.url))
        .header("origin", "http://elsewhere.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization, content-type, x-stainless-os");
    let response = preflight.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert!(response.headers()["access-control-allow-headers"].to_str().unwrap().contains("x-stainless-os"));
}

/// Two keys never share cached prompts; one key shares with itself; a salt separates further.
#[tokio::test]
async fn cached_prompts_are_not_shared_between_keys() {
    let server = Server::start(&["--api-key", "one,two"]);
    let prompt = json!((10..110).collect::<Vec<u32>>());
    for (key, salt, cached) in
        [("one", None, 0), ("one", None, 96), ("two", None, 0), ("one", Some("s"), 0), ("one", Some("s"), 96)]
    {
        let body = json!({"prompt": prompt, "max_tokens": 1, "cache_salt": salt});
        let response = server.post("/v1/completions", &body).bearer_auth(key).send().await.unwrap();
        let usage = response.json::<Value>().await.unwrap()["usage"].clone();
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], cached, "{key} {salt:?}: {usage}");
    }
}

#[tokio::test]
async fn overload_is_answered_at_once() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queued-requests", "1"]);
    let mut long = chat("tell me everything");
    (long["max_tokens"], long["ignore_eos"]) = (json!(8000), json!(true));
    long["stream"] = json!(true);
    let running = server.post("/v1/chat/completions", &long).send().await.unwrap();
    let waiting = server.post("/v1/chat/completions", &long).send().await.unwrap();
    let refused = server.post("/v1/chat/completions", &long).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["retry-after-ms"], "1000");
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "server_overloaded");
    assert_eq!(server.metric("moesaic_rejections_total").await, 1.0);
    drop((running, waiting));
    // The places are free as soon as the server has noticed.
    let deadline = Instant::now() + Duration::from_secs(1);
    while server.post("/v1/chat/completions", &chat("and now?")).send().await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline, "the places of dropped requests are not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// More choices than there ever are places: retrying would not help.
#[tokio::test]
async fn what_can_never_run_is_no_429() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queued-requests", "0"]);
    let mut body = chat("hi");
    body["n"] = json!(2);
    let response = server.post("/v1/chat/completions", &body).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], "n");
}

/// Large, useless bodies: answered, in bounded memory, while others are served.
#[tokio::test]
async fn large_bodies_do_no_harm() {
    let server = Server::start(&[]);
    let junk = format!(r#"{{"prompt": "a", "max_tokens": 1, "junk": [{}0]}}"#, "{},".repeat(2_500_000));
    let lists = format!(r#"{{"prompt": [{}[0]]}}"#, "[0],".repeat(1_900_000));
    let text = format!(r#"{{"prompt": "{}"}}"#, "a".repeat(8_000_000));
    let send = |body: String| {
        let request = reqwest::Client::new().post(format!("{}/v1/completions", server.url));
        request.header("content-type", "application/json").body(body).send()
    };
    let bodies = [junk.clone(), junk, lists.clone(), lists, text.clone(), text];
    let answers = futures::future::join_all(bodies.map(send));
    let other = server.ask("/v1/chat/completions", chat("hello"));
    let (answers, _) = tokio::join!(answers, other);
    let statuses: Vec<u16> = answers.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
    assert_eq!(statuses, [200, 200, 400, 400, 400, 400]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert!(kilobytes < 250_000, "{kilobytes} kB at the peak");
}

/// Priorities are the operator's to allow.
#[tokio::test]
async fn priorities_when_allowed() {
    let server = Server::start(&["--scheduling-policy", "priority"]);
    let mut body = chat("hi");
    body["priority"] = json!(-5);
    server.ask("/v1/chat/completions", body).await;
}

#[tokio::test]
async fn time_limits_end_requests() {
    let server = Server::start(&["--request-timeout-seconds", "1", "--max-num-seqs", "1"]);
    let mut long = chat("tell me everything");
    // One after the other, so that no machine is fast enough.
    (long["max_tokens"], long["ignore_eos"], long["n"]) = (json!(8000), json!(true), json!(16));
    let response = server.post("/v1/chat/completions", &long).send().await.unwrap();
    assert_eq!(response.status(), 408);
    let events = server.stream("/v1/chat/completions", long).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "request_timeout");
    server.wait_for_metric("vllm:num_requests_running", 0.0).await;
}
