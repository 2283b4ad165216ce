//! Constraints, tools, thoughts and messages on bad days: cancel, overload, context limit, shutdown.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Server, chat, events, read_some};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

fn with(mut body: Value, change: &Value) -> Value {
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

/// Requests that run for thousands of tokens, one for each way of answering.
fn long_requests() -> Vec<(&'static str, Value)> {
    let text = json!({"type": "string", "minLength": 4000, "maxLength": 9000});
    let schema =
        json!({"type": "object", "properties": {"text": text}, "required": ["text"], "additionalProperties": false});
    let tool = json!({"type": "function", "function": {"name": "write", "parameters": schema}});
    let message = json!({
        "messages": [{"role": "user", "content": "Write."}], "max_tokens": 8000, "tool_choice": {"type": "any"},
        "tools": [{"name": "write", "input_schema": schema}],
    });
    let grammar = json!({"type": "grammar", "syntax": "regex", "definition": "[a-z \"\\n]{4000,9000}"});
    let custom = json!({
        "input": "Write.", "max_output_tokens": 8000, "tool_choice": "required", "temperature": 1,
        "tools": [{"type": "namespace", "name": "pen", "tools": [{"type": "custom", "name": "write", "format": grammar}]}],
    });
    let chat = with(chat("Write."), &json!({"max_tokens": 8000, "temperature": 1}));
    vec![
        (CHAT, with(chat.clone(), &json!({"guided_json": schema}))),
        (CHAT, with(chat.clone(), &json!({"tools": [tool], "tool_choice": "required"}))),
        (CHAT, with(chat, &json!({"reasoning_effort": "high", "guided_json": schema, "n": 2}))),
        (MESSAGES, message),
        (RESPONSES, custom),
    ]
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    let server = Server::start(&[]);
    for (path, body) in long_requests() {
        let body = with(body, &json!({"stream": true}));
        let response = server.post(path, &body).send().await.unwrap();
        assert!(read_some(response, 1500).await >= 1500, "{body}");
        let whole = server.post(path, &with(body, &json!({"stream": false})));
        let sent = tokio::time::timeout(std::time::Duration::from_millis(100), whole.send()).await;
        assert!(sent.is_err(), "it takes longer than that");
        for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
            server.wait_for_metric(name, 0.0).await;
        }
    }
    server.ask(CHAT, chat("still there?")).await;
}

#[tokio::test]
async fn overload_is_said_at_once_in_each_shape() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queued-requests", "0"]);
    let (path, body) = long_requests().swap_remove(0);
    let running = server.post(path, &with(body, &json!({"stream": true}))).send().await.unwrap();
    for (path, body) in long_requests().into_iter().filter(|(_, body)| body["n"].is_null()) {
        let response = server.post(path, &body).send().await.unwrap();
        assert_eq!(response.status(), 429, "{body}");
        assert!(response.headers().contains_key("retry-after") && response.headers().contains_key("x-request-id"));
        let kind = if path == MESSAGES { "rate_limit_error" } else { "rate_limit_exceeded" };
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["type"], kind);
    }
    drop(running);
    server.wait_for_metric("vllm:num_requests_running", 0.0).await;
    // It may have been computed to its end before; then its place is free only when the server has noticed.
    let served = async {
        while server.post(CHAT, &chat("and now?")).send().await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), served).await.expect("the place is given back");
}

#[tokio::test]
async fn the_context_ends() {
    let server = Server::start(&["--max-model-len", "256"]);
    for (path, body) in long_requests() {
        let answer = server.ask(path, body.clone()).await;
        if path == MESSAGES {
            assert_eq!(answer["stop_reason"], "model_context_window_exceeded", "{answer}");
            assert!(answer["content"][0]["input"].is_object(), "{answer}");
        } else if path == RESPONSES {
            assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens", "{answer}");
            assert_eq!(answer["output"][0]["status"], "incomplete", "{answer}");
        } else {
            for choice in answer["choices"].as_array().unwrap() {
                assert_eq!(choice["finish_reason"], "length", "{choice}");
            }
        }
        let field = if path == RESPONSES { "input" } else { "messages" };
        let long = json!({field: [{"role": "user", "content": "word ".repeat(400)}]});
        let response = server.post(path, &with(body, &long)).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        let words = if path == MESSAGES { " tokens > 256 maximum" } else { "maximum context length is 256" };
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    server.wait_for_metric("vllm:kv_cache_usage_perc", 0.0).await;
}

/// Told to stop, the server gives streams their time and then ends them with an error of their own shape.
#[tokio::test]
async fn shutdown_ends_every_stream_properly() {
    for (path, body) in long_requests() {
        let mut server = Server::start(&["--shutdown-grace-seconds", "1", "--threads", "1"]);
        // Enough beside it that it cannot end within its time.
        let filler = with(chat("x"), &json!({"max_tokens": 8000, "ignore_eos": true, "stream": true, "n": 16}));
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(server.post(CHAT, &filler).send().await.unwrap());
        }
        let response = server.post(path, &with(body, &json!({"stream": true}))).send().await.unwrap();
        server.signal("TERM");
        if path == MESSAGES {
            let text = response.text().await.unwrap();
            let last = text.trim_end().rsplit("\n\n").next().unwrap();
            assert!(last.starts_with("event: error\ndata: ") && last.contains("overloaded_error"), "{last}");
        } else {
            let last = events(response).await.pop().unwrap();
            let last = if path == RESPONSES { last["response"].clone() } else { last };
            assert_eq!(last["error"]["code"], "server_shutting_down", "{last}");
        }
        drop(running);
        assert_eq!(server.wait().await.code(), Some(0));
    }
}
