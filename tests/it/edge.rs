//! How requests may be written, and what people are told whose requests miss by little.

use serde_json::{Value, json};

use crate::server::{Server, chat};

/// What people see of bodies that are no JSON, and of paths that miss a route by little.
#[tokio::test]
async fn slips_are_explained() {
    let server = Server::start(&[]);
    let message = async |request: reqwest::RequestBuilder, status: u16| {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        response.json::<Value>().await.unwrap()["error"]["message"].as_str().unwrap().to_owned()
    };
    let raw = |body: &str| {
        let request = reqwest::Client::new().post(format!("{}/v1/chat/completions", server.url));
        request.header("content-type", "application/json").body(body.to_owned())
    };
    for (body, expected) in [
        ("", "The request body is not valid JSON: it ends where a value should stand (line 1, column 0)."),
        ("nope", "The request body is not valid JSON: no value can begin like this (line 1, column 2)."),
        ("{\"a\": 1,\n}", "The request body is not valid JSON: a comma stands before the end"),
        ("{\"a\": 1} x", "The request body is not valid JSON: more follows after its end (line 1, column 10)."),
        ("{'a': 1}", "The request body is not valid JSON: the names in an object must be strings in double quotes"),
        ("[]", "The request body must be an object, not a list"),
        ("5", "The request body must be an object, not 5"),
        ("{}", "messages: is required"),
        ("{\"messages\": [], \"n\": 1e999}", "n: is a number that is too large"),
        (
            "{\"messages\": [], \"n\": 4294967296}",
            "n: must be a whole number from 0 to 4294967295: 4294967296 is too large",
        ),
        ("{\"messages\": [], \"n\": 10.5}", "n: must be a whole number from 0 to 4294967295, not 10.5"),
        ("{\"messages\": [], \"n\": 1, \"n\": 1}", "n: is given twice"),
        (
            "{\"messages\": [{\"role\": \"robot\"}]}",
            "messages[0].role: must be \"system\", \"developer\", \"user\", \"assistant\", \"tool\" or \"function\", not \"robot\"",
        ),
    ] {
        let found = message(raw(body), 400).await;
        assert!(found.starts_with(expected), "{body}: {found}");
    }
    for (path, meant) in [
        ("//v1/chat/completions", "POST /v1/chat/completions"),
        ("/v1/chat/completions/", "POST /v1/chat/completions"),
        ("/chat/completions", "POST /v1/chat/completions"),
        ("/v1/v1/messages/count_tokens", "POST /v1/messages/count_tokens"),
        ("/v1/tokenize", "POST /tokenize"),
        ("/models/owner/name", "GET /v1/models/owner/name"),
        ("/v1/openapi.json", "GET /openapi.json"),
    ] {
        let found = message(server.post(path, &json!({})), 404).await;
        assert!(found.ends_with(&format!(" Did you mean {meant}?")), "{path}: {found}");
    }
    assert!(!message(server.get("/v1/nothing"), 404).await.contains("mean"));
}

/// As Codex and others send them. Frames and blocks by hand: what is inside is not compressed at all.
#[tokio::test]
async fn encoded_bodies_are_decoded() {
    let server = Server::start(&["--max-body-bytes", "10000"]);
    let text = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4.0}).to_string().into_bytes();
    let post = |body: Vec<u8>, coding: &str| {
        let request = reqwest::Client::new().post(format!("{}/v1/chat/completions", server.url));
        request.header("content-type", "application/json").header("content-encoding", coding).body(body).send()
    };
    let zstd = |repeats: u32| {
        // One block of a repeated byte, then the text.
        let filler = [&(repeats << 3 | 0b010).to_le_bytes()[..3], b" "].concat();
        let block = (text.len() as u32) << 3 | 1;
        [b"\x28\xb5\x2f\xfd\0\x68", filler.as_slice(), &block.to_le_bytes()[..3], text.as_slice()].concat()
    };
    let (length, inverse) = ((text.len() as u16).to_le_bytes(), (!(text.len() as u16)).to_le_bytes());
    let deflate = [b"\x01".as_slice(), &length, &inverse, &text].concat();
    for (body, coding, status) in [
        ([b"\xef\xbb\xbf", text.as_slice()].concat(), "identity", 200),
        (zstd(5), "zstd", 200),
        (zstd(60_000), "zstd", 413),
        (zstd(5)[..40].to_vec(), "zstd", 400),
        (deflate.clone(), "deflate", 200),
        (text.clone(), "gzip", 400),
        (text.clone(), "br", 415),
        (deflate, "deflate, gzip", 415),
    ] {
        let response = post(body, coding).await.unwrap();
        assert_eq!(response.status(), status, "{coding}");
        if status == 415 {
            assert_eq!(response.headers()["accept-encoding"], "gzip, deflate, zstd");
            let error = response.json::<Value>().await.unwrap()["error"].clone();
            assert!(error["message"].as_str().unwrap().contains("gzip, deflate, zstd"), "{error}");
        }
    }
}

/// Messages as other servers' clients write them.
#[tokio::test]
async fn parts_of_every_kind_that_carries_text() {
    let server = Server::start(&[]);
    let tokens = async |messages: Value| server.ask("/tokenize", json!({"messages": messages})).await["tokens"].clone();
    let thread = |content: Value| json!([{"role": "user", "content": ["hi"]}, {"role": "assistant", "content": content}, {"role": "user", "content": "x"}]);
    let plain = tokens(thread(json!("yo"))).await;
    for parts in [
        json!(["yo"]),
        json!([{"type": "output_text", "text": "yo", "annotations": []}]),
        json!([{"type": "input_text", "text": "yo"}]),
        json!([{"type": "refusal", "refusal": "yo", "text": null}]),
    ] {
        assert_eq!(tokens(thread(parts.clone())).await, plain, "{parts}");
    }
    let thought =
        json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo", "reasoning_content": "well"}]);
    let parts = json!([{"type": "thinking", "thinking": "well"}, {"type": "text", "text": "yo"}]);
    let part = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": parts}]);
    assert_eq!(tokens(part).await, tokens(thought).await);
    let mut body = chat("hi");
    (body["max_tokens"], body["max_completion_tokens"], body["n"]) = (json!(4.0), json!(4), json!(1.0));
    (body["guided_regex"], body["structured_outputs"]) = (json!("a"), json!({"regex": "a"}));
    body["messages"][0]["name"] = json!(null);
    server.ask("/v1/chat/completions", body).await;
}

/// SDKs send both headers when both variables are set, and one of them may be left over.
#[tokio::test]
async fn any_right_key_counts_on_every_route() {
    let server = Server::start(&["--api-key", "one,two"]);
    for (headers, status) in [
        (&[("x-api-key", "one")] as &[_], 200),
        (&[("x-api-key", "three")], 401),
        (&[("x-api-key", "left-over"), ("authorization", "Bearer one")], 200),
        (&[("x-api-key", "two"), ("authorization", "Bearer left-over")], 200),
        (&[("authorization", "Basic eDp5"), ("authorization", "Bearer two")], 200),
        (&[("x-api-key", "three"), ("x-api-key", "one")], 200),
        (&[("x-api-key", "three"), ("authorization", "Bearer three")], 401),
    ] {
        for path in ["/v1/models", "/v1/responses/none", "/v1/messages/count_tokens"] {
            let mut request = if path.ends_with("tokens") {
                server.post(path, &json!({"messages": [{"role": "user", "content": "hi"}]}))
            } else {
                server.get(path)
            };
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let found = request.send().await.unwrap().status();
            let expected = if path.ends_with("none") && status == 200 { 404 } else { status };
            assert_eq!(found, expected, "{path} {headers:?}");
        }
    }
}
