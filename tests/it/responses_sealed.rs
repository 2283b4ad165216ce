//! What clients of `/v1/responses` carry for the server: encrypted thoughts, and summaries of conversations.

use serde_json::{Value, json};

use crate::server::{Server, events};

const PATH: &str = "/v1/responses";
const QUESTION: &str = "What is 17 plus 25?";

/// The embedded model with a template that shows earlier thoughts.
fn thoughtful_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in moesaic_demo_model::FILES {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let template = folder.path().join("chat_template.jinja");
    let text = std::fs::read_to_string(&template).unwrap();
    let shown = text.replace(
        "{{- '<｜Assistant｜></think>' -}}",
        "{{- '<｜Assistant｜><think>' + (message['reasoning_content'] or '') + '</think>' -}}",
    );
    assert_ne!(shown, text);
    std::fs::write(template, shown).unwrap();
    folder
}

async fn num_tokens(server: &Server, key: &str, input: Value) -> u64 {
    let request = server.post("/v1/responses/input_tokens", &json!({"input": input})).bearer_auth(key);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json::<Value>().await.unwrap()["input_tokens"].as_u64().unwrap()
}

async fn ask(server: &Server, key: &str, path: &str, body: Value) -> Value {
    let response = server.post(path, &body).bearer_auth(key).send().await.unwrap();
    let (status, answer) = (response.status(), response.json::<Value>().await.unwrap());
    assert_eq!(status, 200, "{body}: {answer}");
    answer
}

#[tokio::test]
async fn encrypted_thoughts_come_back() {
    let folder = thoughtful_model();
    let model = folder.path().to_str().unwrap();
    let named = ["--model", model, "--served-model-name", "m", "--api-key", "one,two"];
    let start = |more: &[&str]| Server::start(&[&named, more].concat());
    let secret = ["--encrypted-content-key", "a secret of replicas"];
    let (server, replica, stranger) = (start(&secret), start(&secret), start(&[]));
    let mut body = json!({"input": QUESTION, "reasoning": {"effort": "high"}, "temperature": 0, "store": false});
    let plain = ask(&server, "one", PATH, body.clone()).await;
    assert_eq!(plain["output"][0].get("encrypted_content"), None);
    body["include"] = json!(["reasoning.encrypted_content"]);
    let answer = ask(&server, "one", PATH, body.clone()).await;
    let (thought, said) = (&answer["output"][0], &answer["output"][1]);
    assert_eq!((&thought["type"], &thought["content"]), (&json!("reasoning"), &plain["output"][0]["content"]));
    body["stream"] = json!(true);
    let response = server.post(PATH, &body).bearer_auth("one").send().await.unwrap();
    let done = events(response).await;
    let done = done.iter().find(|event| event["type"] == "response.output_item.done").unwrap();
    let streamed = done["item"]["encrypted_content"].as_str().unwrap();

    let question = json!({"role": "user", "content": QUESTION});
    let history = |thought: Value| json!([question, thought, said, {"role": "user", "content": "Thanks."}]);
    let sealed =
        |content: &Value| json!({"type": "reasoning", "summary": [], "content": null, "encrypted_content": content});
    let without = num_tokens(&server, "one", history(sealed(&Value::Null))).await;
    let with = num_tokens(&server, "one", history(json!({"type": "reasoning", "content": thought["content"]}))).await;
    assert!(with > without);
    let content = &thought["encrypted_content"];
    for opened in
        [num_tokens(&server, "one", history(sealed(content))), num_tokens(&replica, "one", history(sealed(content)))]
    {
        assert_eq!(opened.await, with);
    }
    assert_eq!(num_tokens(&server, "one", history(sealed(&json!(streamed)))).await, with);
    assert_eq!(server.metric("moesaic_unopened_items_total").await, 0.0);
    // Another client, another server, other bytes: left out, and counted.
    for (server, key, content) in
        [(&server, "two", content), (&stranger, "one", content), (&server, "one", &json!("gAAAA"))]
    {
        let before = server.metric("moesaic_unopened_items_total").await;
        assert_eq!(num_tokens(server, key, history(sealed(content))).await, without);
        assert_eq!(server.metric("moesaic_unopened_items_total").await, before + 1.0);
    }
}

#[tokio::test]
async fn a_summary_costs_less_than_what_it_replaces() {
    let server = Server::start(&["--api-key", "one,two", "--max-model-len", "1024"]);
    let turn = |index: usize| {
        let sums = format!("What is {index} plus 3?");
        [
            json!({"role": "user", "content": sums}),
            json!({"role": "assistant", "content": format!("{index} + 3 = {}", index + 3)}),
        ]
    };
    let talk = |turns: usize| Value::from((0..turns).flat_map(turn).collect::<Vec<_>>());
    let compact = async |body: Value| ask(&server, "one", "/v1/responses/compact", body).await;
    // Also of a conversation that is one word, and of one longer than the context.
    for input in [talk(12), talk(1), json!("Hi"), talk(200)] {
        let body =
            json!({"model": "moesaic-demo", "input": input, "prompt_cache_key": "x", "instructions": "Be brief."});
        let compacted = compact(body).await;
        let item = &compacted["output"][0];
        assert_eq!((&compacted["object"], &item["type"]), (&json!("response.compaction"), &json!("compaction")));
        assert!(compacted["usage"]["output_tokens"].as_u64().unwrap() <= 2048, "{compacted}");
        let next = json!({"role": "user", "content": "What is 1 plus 2?"});
        let nothing = num_tokens(&server, "one", json!([next])).await;
        let with = num_tokens(&server, "one", json!([item, next])).await;
        if input.as_array().is_none_or(|items| items.len() < 400) {
            let whole = num_tokens(&server, "one", input).await;
            assert!(with - nothing < whole, "{with} - {nothing} of {whole}");
        }
        // For another client it is nothing.
        assert_eq!(num_tokens(&server, "two", json!([item, next])).await, nothing);
        let answer = ask(&server, "one", PATH, json!({"input": [item, next], "max_output_tokens": 5})).await;
        assert_eq!(answer["usage"]["input_tokens"], with);
    }
    // Of a stored conversation.
    let stored = ask(&server, "one", PATH, json!({"input": talk(12), "max_output_tokens": 9})).await;
    let compacted = compact(json!({"model": "moesaic-demo", "previous_response_id": stored["id"]})).await;
    let with = num_tokens(&server, "one", compacted["output"].clone()).await;
    assert!(with > 5 && with < stored["usage"]["input_tokens"].as_u64().unwrap());
    for (body, param) in [(json!({"input": "x"}), "model"), (json!({"model": "moesaic-demo"}), "input")] {
        let response = server.post("/v1/responses/compact", &body).bearer_auth("one").send().await.unwrap();
        assert_eq!(response.status(), 400);
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], param);
    }
}
