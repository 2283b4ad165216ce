//! `/v1/responses` on good and bad days; what its clients see is tested with the official SDK.

use serde_json::{Value, json};

use crate::server::Server;

const PATH: &str = "/v1/responses";

fn user(content: &Value) -> Value {
    json!({"input": [{"role": "user", "content": content}]})
}

#[tokio::test]
async fn bad_requests_get_exact_errors() {
    let server = Server::start(&[]);
    let tool = |change: Value| {
        let mut tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}});
        tool.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"tools": [tool]})
    };
    let schema = |format: Value| json!({"text": {"format": format}});
    for (change, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": [5]}), "input[0]"),
        (json!({"input": [{"role": "robot", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"input": [{"type": "thought_transfer"}]}), "input[0].type"),
        (json!({"input": [{"type": "item_reference", "id": "msg_1"}]}), "input[0].id"),
        (json!({"input": [{"id": ""}]}), "input[0].id"),
        (json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}), "input[0].call_id"),
        (json!({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}), "input[0].name"),
        (json!({"input": [{"type": "function_call_output", "call_id": "c"}]}), "input[0].output"),
        (user(&json!([{"type": "input_image", "image_url": "http://x"}])), "input[0].content[0].type"),
        (user(&json!([{"type": "input_text"}])), "input[0].content[0].text"),
        (user(&json!([{"text": "x"}])), "input[0].content[0].type"),
        (json!({"input": "word ".repeat(70_000)}), "input"),
        (json!({"instructions": 5}), "instructions"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"max_output_tokens": -1}), "max_output_tokens"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"n": 2}), "n"),
        (json!({"truncation": "some"}), "truncation"),
        (json!({"max_tokens": 5}), "max_tokens"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"logits_processors": []}), "logits_processors"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (json!({"metadata": {"a": [1]}}), "metadata.a"),
        (json!({"metadata": {"a": "x".repeat(513)}}), "metadata"),
        (json!({"background": true, "store": false}), "background"),
        (json!({"background": true, "stream": true}), "background"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"reasoning": "high"}), "reasoning"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [{"type": "teleport"}]}), "tools[0].type"),
        (tool(json!({"name": "no name"})), "tools[0].name"),
        (tool(json!({"name": null})), "tools[0].name"),
        (tool(json!({"parameters": 5})), "tools[0].parameters"),
        (schema(json!({"type": "yaml"})), "text.format.type"),
        (schema(json!({"type": "json_schema", "schema": {}})), "text.format.name"),
        (schema(json!({"type": "json_schema", "name": "x", "schema": 5})), "text.format.schema"),
        (schema(json!({"type": "json_schema", "name": "x"})), "text.format.schema"),
        (schema(json!({"type": "json_schema", "name": "x", "schema": {"type": "thing"}})), "text.format"),
        (json!({"reasoning": {"effort": "extreme"}}), "reasoning.effort"),
        (json!({"use_beam_search": true}), "use_beam_search"),
        (tool(json!({"parameters": {"type": "string"}})), "tools[0].parameters.type"),
        (json!({"chat_template_kwargs": {"tools": []}}), "chat_template_kwargs.tools"),
    ] {
        let mut body = json!({"input": "hi"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let response = server.post(PATH, &body).send().await.unwrap();
        let (status, error) = (response.status(), response.json::<Value>().await.unwrap()["error"].clone());
        let shown: String = change.to_string().chars().take(200).collect();
        assert_eq!(status, 400, "{shown}: {error}");
        assert_eq!(
            (&error["type"], &error["param"]),
            (&json!("invalid_request_error"), &json!(param)),
            "{shown}: {error}"
        );
    }
    // Where a message names two fields, both have their names of here.
    let both = json!({"input": "hi", "ignore_eos": true, "text": {"format": {"type": "json_object"}}});
    let error = server.post(PATH, &both).send().await.unwrap().json::<Value>().await.unwrap()["error"].clone();
    assert_eq!(error["message"], "ignore_eos: cannot be combined with text.format");
    let response = server.post("/v1/embeddings", &json!({"input": "hi"})).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], "model");
    server.ask(PATH, json!({"input": "still there?"})).await;
}

#[tokio::test]
async fn unknown_ids_are_not_found() {
    let server = Server::start(&[]);
    for (method, path) in
        [("GET", "resp_1"), ("DELETE", "resp_1"), ("POST", "resp_1/cancel"), ("GET", "%ff"), ("DELETE", "%ff")]
    {
        let method = method.parse().unwrap();
        let request = reqwest::Client::new().request(method, format!("{}{PATH}/{path}", server.url));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["type"], "invalid_request_error", "{path}");
    }
}

/// A reference stands for its item, once.
#[tokio::test]
async fn references_stand_for_items() {
    let server = Server::start(&[]);
    let stored = server.ask(PATH, json!({"input": "Hello!"})).await;
    let reference = json!({"type": "item_reference", "id": stored["output"][0]["id"]});
    server.ask(PATH, json!({"input": [reference, {"role": "user", "content": "Hi"}]})).await;
    let response = server.post(PATH, &json!({"input": [reference, reference]})).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], "input[1].id");
}

/// What does not fit is not kept, and what is kept never takes more than it may.
#[tokio::test]
async fn the_store_is_bounded() {
    let server = Server::start(&["--response-store-memory", "16KiB"]);
    let mut ids = Vec::new();
    for index in 0..20 {
        let answer = server.ask(PATH, json!({"input": format!("Hello {index}"), "max_output_tokens": 4})).await;
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    let mut kept = Vec::new();
    for id in &ids {
        kept.push(server.get(&format!("{PATH}/{id}")).send().await.unwrap().status() == 200);
    }
    assert!(!kept[0] && kept[19] && kept.is_sorted(), "{kept:?}");
    let large = server.ask(PATH, json!({"input": "word ".repeat(5000), "max_output_tokens": 4})).await;
    let id = large["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{PATH}/{id}")).send().await.unwrap().status(), 404);

    let mut background = json!({"input": "word ".repeat(5000), "background": true});
    let response = server.post(PATH, &background).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], "background");
    // One that outgrows the store while it is generated.
    background["input"] = "word ".repeat(1000).into();
    background["max_output_tokens"] = 4000.into();
    background["ignore_eos"] = true.into();
    let begun = server.ask(PATH, background).await;
    let path = format!("{PATH}/{}", begun["id"].as_str().unwrap());
    let mut ended = json!({"status": "in_progress"});
    while ended["status"] == "in_progress" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        ended = server.get(&path).send().await.unwrap().json().await.unwrap();
    }
    server.wait_for_metric("vllm:num_requests_running", 0.0).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("failed"), &json!("response_too_large")));

    let server = Server::start(&["--response-store-memory", "0"]);
    let response = server.post(PATH, &json!({"input": "hi", "background": true})).send().await.unwrap();
    assert_eq!(response.status(), 400);
    let id = server.ask(PATH, json!({"input": "hi"})).await["id"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&format!("{PATH}/{id}")).send().await.unwrap().status(), 404);
}

/// A stream that is cut off ends with an error and with the failed response; one in the background fails too.
#[tokio::test]
async fn what_takes_too_long_fails_in_shape() {
    let server = Server::start(&["--request-timeout-seconds", "1", "--threads", "1"]);
    let mut long = json!({"input": "Tell me everything.", "max_output_tokens": 8000, "ignore_eos": true});
    long["background"] = true.into();
    let background = server.ask(PATH, long.clone()).await;
    long["background"] = false.into();
    let whole = server.post(PATH, &long).send().await.unwrap();
    assert_eq!(whole.status(), 408);
    long["stream"] = true.into();
    let text = server.post(PATH, &long).send().await.unwrap().text().await.unwrap();
    let events = text.strip_suffix("data: [DONE]\n\n").expect("every stream ends so").split("data: ").skip(1);
    let last: Vec<Value> = events.map(|event| serde_json::from_str(event.lines().next().unwrap()).unwrap()).collect();
    let [.., error, failed] = last.as_slice() else { panic!("{text}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("request_timeout")));
    assert_eq!((&failed["type"], &failed["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(failed["response"]["output"][0]["status"], "incomplete", "{failed}");
    let id = background["id"].as_str().unwrap();
    let found: Value = server.get(&format!("{PATH}/{id}")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&found["status"], &found["error"]["code"]), (&json!("failed"), &json!("request_timeout")));
    server.wait_for_metric("vllm:kv_cache_usage_perc", 0.0).await;
}

/// Told to stop, the server ends a stream with the failed response.
#[tokio::test]
async fn shutdown_ends_the_stream_properly() {
    let mut server = Server::start(&["--shutdown-grace-seconds", "0", "--threads", "1"]);
    let body = json!({"input": "Hi", "max_output_tokens": 8000, "ignore_eos": true, "stream": true});
    let response = server.post(PATH, &body).send().await.unwrap();
    server.signal("TERM");
    let text = response.text().await.unwrap();
    let last = text.trim_end().strip_suffix("\n\ndata: [DONE]").unwrap().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("event: response.failed\ndata: "), "{last}");
    assert_eq!(server.wait().await.code(), Some(0));
}
