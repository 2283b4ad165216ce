//! `/v1/messages` on bad days; what its clients see is tested with the official SDK.

use serde_json::{Value, json};

use crate::server::Server;

/// A request is translated, its errors are about the fields that were sent.
#[tokio::test]
async fn errors_name_the_fields_of_this_api() {
    let server = Server::start(&[]);
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let said = |block: Value| {
        let hi = json!({"role": "user", "content": "hi"});
        json!({"messages": [hi, {"role": "assistant", "content": [block]}, hi]})
    };
    let format = |format: Value| json!({"output_config": {"format": format}});
    let thing = json!({"type": "thing"});
    for (change, begin) in [
        (json!({"stop_sequences": [""]}), "stop_sequences: "),
        (json!({"stop_sequences": vec!["x"; 17]}), "stop_sequences: "),
        (json!({"stop_sequences": "x"}), "stop_sequences: "),
        (json!({"max_tokens": 0}), "max_tokens: "),
        (json!({"messages": []}), "messages: "),
        (user(json!([])), "messages[0].content: must hold at least one block"),
        (user(json!([{"type": "text"}])), "messages[0].content[0].text: is required"),
        (
            user(json!([{"type": "tool_result", "content": [{"type": "text"}]}])),
            "messages[0].content[0].content[0].text: ",
        ),
        (user(json!([{"type": "tool_use", "name": "f"}])), "messages[0].content[0]: "),
        (said(json!({"type": "thinking"})), "messages[1].content[0].thinking: is required"),
        (said(json!({"type": "tool_use", "id": "a"})), "messages[1].content[0].name: is required"),
        (json!({"system": [{"type": "text"}]}), "system[0].text: is required"),
        (json!({"tools": [{"name": "a b"}]}), "tools[0].name: "),
        (json!({"tools": [{"description": "d"}]}), "tools[0].name: is required"),
        // Tools that are left out do not move the others.
        (json!({"tools": [{"type": "web_search_20250305", "name": "w"}, {"name": "a b"}]}), "tools[1].name: "),
        (json!({"thread": {"type": "continue", "previous_message_id": "m"}}), "thread: "),
        (json!({"compaction": {}}), "compaction: "),
        (json!({"output_format": {"type": "json_schema", "schema": thing}}), "output_format: "),
        (json!({"output_format": {"type": "xml", "schema": {}}}), "output_format.type: "),
        (
            json!({"output_format": {"type": "json_schema", "schema": {}}, "output_config": {"format": {"type": "json_schema", "schema": thing}}}),
            "output_format: cannot be combined with output_config.format",
        ),
        (json!({"tools": [{"name": "f", "input_schema": 5}]}), "tools[0].input_schema: "),
        (json!({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}), "tools[0].input_schema.type: "),
        (json!({"tools": [{"name": "f"}], "tool_choice": {"type": "tool", "name": "g"}}), "tool_choice: "),
        (format(json!({"type": "json_schema", "schema": null})), "output_config.format.schema: is required"),
        (format(json!({"type": "json_schema", "schema": thing})), "output_config.format: "),
        (format(json!({"type": "xml", "schema": {}})), "output_config.format.type: "),
        (json!({"thinking": {"type": "enabled", "budget_tokens": "many"}}), "thinking.budget_tokens: "),
    ] {
        let mut body = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let response = server.post("/v1/messages", &body).send().await.unwrap();
        let (status, answer) = (response.status(), response.json::<Value>().await.unwrap());
        assert_eq!(status, 400, "{change}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(begin), "{change}: {message}");
        let others = ["response_format", "function", "input[", "max_completion_tokens", "reasoning_effort"];
        assert!(others.iter().all(|other| !message.contains(other)), "{change}: {message}");
    }
    server
        .ask("/v1/messages", json!({"max_tokens": 5, "messages": [{"role": "user", "content": "still there?"}]}))
        .await;
}

/// Anthropic's routes have Anthropic's errors, whatever part of the server they come from.
#[tokio::test]
async fn errors_of_messages() {
    let server = Server::start(&["--api-key", "k", "--max-body-bytes", "10000"]);
    let message = json!({"role": "user", "content": "hi"});
    let image = json!([{"type": "image", "source": {}}]);
    for (change, status, kind, part) in [
        (json!({"max_tokens": null}), 400, "invalid_request_error", "max_tokens"),
        (json!({"max_tokens": 0}), 400, "invalid_request_error", "max_tokens"),
        (json!({"messages": []}), 400, "invalid_request_error", "messages"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), 400, "invalid_request_error", "messages[0].role"),
        (
            json!({"messages": [{"role": "user", "content": image}]}),
            400,
            "invalid_request_error",
            "messages[0].content[0]",
        ),
        (json!({"system": 5}), 400, "invalid_request_error", "system"),
        (json!({"thinking": {"type": "maybe"}}), 400, "invalid_request_error", "thinking.type"),
        (json!({"tools": [{"type": "function", "name": "f"}]}), 400, "invalid_request_error", "tools[0].type"),
        (json!({"tool_choice": {"type": "any"}}), 400, "invalid_request_error", "tool_choice"),
        (json!({"tool_choice": {"type": "tool"}}), 400, "invalid_request_error", "tool_choice"),
        (
            json!({"output_config": {"format": {"type": "json_schema", "schema": 5}}}),
            400,
            "invalid_request_error",
            "schema",
        ),
        (json!({"temperature": 3}), 400, "invalid_request_error", "temperature"),
        (json!({"model": "other"}), 404, "not_found_error", "other"),
        (json!({"system": "x".repeat(20_000)}), 413, "request_too_large", "10000"),
    ] {
        let mut body = json!({"max_tokens": 5, "messages": [message]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let response = server.post("/v1/messages", &body).header("x-api-key", "k").send().await.unwrap();
        let (found, answer) = (response.status(), response.json::<Value>().await.unwrap());
        assert_eq!(found, status, "{change}: {answer}");
        assert_eq!((&answer["type"], &answer["error"]["type"]), (&json!("error"), &json!(kind)), "{change}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{change}: {answer}");
    }
    let response = server.post("/v1/messages", &json!({})).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["type"], "authentication_error");
}
