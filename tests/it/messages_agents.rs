//! `/v1/messages` as agents send it, Claude Code above all: whatever their requests hold, a session goes on.

use serde_json::{Value, json};

use crate::server::Server;

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn ask(content: &str, more: Value) -> Value {
    let messages = json!([{"role": "user", "content": content}]);
    let mut body = json!({"messages": messages, "max_tokens": 100, "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn error(server: &Server, path: &str, body: &Value) -> (u16, String) {
    let response = server.post(path, body).send().await.unwrap();
    let (status, answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
    assert_eq!(answer["type"], "error", "{answer}");
    (status, answer["error"]["message"].as_str().unwrap().to_owned())
}

/// The events of a stream as Anthropic's clients read it.
async fn stream(server: &Server, mut body: Value) -> Vec<Value> {
    body["stream"] = json!(true);
    let text = server.post(MESSAGES, &body).send().await.unwrap().text().await.unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// Instructions stand wherever they were sent, in counting too; each prompt is that of the same chat.
#[tokio::test]
async fn conversations_are_those_of_a_chat() {
    let server = Server::start(&[]);
    let text = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}});
    let note = text("x-anthropic-billing-header: cc_version=2.1.107.3d9; cc_entrypoint=cli; cch=74943;");
    let of = |role: &str, content: Value| json!({"role": role, "content": content});
    let (user, brief) = (of("user", json!("Hi")), of("system", json!("Be brief.")));
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    for (more, messages, chat) in [
        (json!({}), json!([user, brief]), json!([user, brief])),
        (json!({}), json!([brief]), json!([brief])),
        (json!({}), json!([user, of("system", json!([note, text("Be brief.")]))]), json!([user, brief])),
        (json!({"system": [note, text("Be brief.")]}), json!([user]), json!([brief, user])),
        (json!({"system": [note]}), json!([user, of("system", json!([]))]), json!([user])),
        (json!({"system": []}), json!([user]), json!([user])),
        (
            json!({"system": "Be brief."}),
            json!([user, of("assistant", json!("Hello")), brief, user]),
            json!([brief, user, of("assistant", json!("Hello")), brief, user]),
        ),
        // An empty turn is a turn, but nothing to continue.
        (json!({}), json!([user, of("assistant", json!([])), user]), json!([user, of("assistant", json!("")), user])),
        (json!({}), json!([of("user", json!([])), user]), json!([of("user", json!("")), user])),
        (json!({}), json!([user, of("assistant", json!([]))]), json!([user])),
        (json!({}), json!([user, of("assistant", json!(""))]), json!([user])),
        (
            json!({}),
            json!([
                user,
                of(
                    "assistant",
                    json!([
                        {"type": "thinking", "thinking": "", "signature": "from elsewhere"},
                        {"type": "redacted_thinking", "data": "x"},
                        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
                        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [
                            {"type": "web_search_result", "title": "Page", "url": "http://page", "encrypted_content": "x"}
                        ]},
                        {"type": "tool_use", "id": "1", "name": "f", "input": {}, "caller": {"type": "direct"}},
                    ])
                ),
                of(
                    "user",
                    json!([
                        {"type": "tool_result", "tool_use_id": "1", "content": [
                            {"type": "tool_reference", "tool_name": "grep"},
                            {"type": "search_result", "source": "http://a", "title": "A", "content": [text("found")]},
                        ]},
                        {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "Data"}},
                    ])
                ),
            ]),
            json!([
                user,
                {"role": "assistant", "content": "Page\nhttp://page", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "1", "content": "grep\nA\nhttp://a\nfound"},
                of("user", json!("Notes\nData")),
            ]),
        ),
    ] {
        let mut body = json!({"messages": messages});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let counted = server.ask(COUNT, body.clone()).await["input_tokens"].clone();
        let expected = server.ask("/tokenize", json!({"messages": chat})).await["count"].clone();
        assert_eq!(counted, expected, "{body}");
        body["max_tokens"] = json!(1);
        let usage = server.ask(MESSAGES, body.clone()).await["usage"].clone();
        let read = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
        assert_eq!(json!(read), expected, "{body}");
    }
    let (status, message) =
        error(&server, MESSAGES, &json!({"max_tokens": 1, "messages": [of("user", json!([]))]})).await;
    assert_eq!((status, message.as_str()), (400, "messages[0].content: must hold at least one block"));
}

/// Claude Code's note on billing differs from request to request; what follows it is cached all the same.
#[tokio::test]
async fn notes_on_billing_do_not_defeat_the_cache() {
    let server = Server::start(&[]);
    let body = |cch: &str| {
        let note = format!("x-anthropic-billing-header: cc_version=2.1.107; cch={cch};");
        let rest = "You are a helpful tool. ".repeat(40);
        ask("hi", json!({"system": [{"type": "text", "text": note}, {"type": "text", "text": rest}]}))
    };
    let first = server.ask(MESSAGES, body("74943")).await;
    let second = server.ask(MESSAGES, body("1c2d3")).await;
    assert_eq!(first["usage"]["cache_read_input_tokens"], 0);
    assert!(second["usage"]["input_tokens"].as_u64().unwrap() <= 16, "{second}");
    assert!(second["usage"]["cache_read_input_tokens"].as_u64().unwrap() > 200, "{second}");
}

/// Every type of thinking, what is shown of the thoughts, and that they are signed.
#[tokio::test]
async fn thoughts_are_signed() {
    let server = Server::start(&[]);
    for (thinking, thinks, shows) in [
        (json!({"type": "enabled", "budget_tokens": 1024}), true, true),
        (json!({"type": "adaptive", "display": "summarized"}), true, true),
        (json!({"type": "adaptive", "display": "updates", "block_binding": {}}), true, true),
        (json!({"type": "enabled", "budget_tokens": 1024, "display": "omitted"}), true, false),
        (json!({"type": "disabled"}), false, false),
        (json!({"type": "between_tools"}), false, false),
    ] {
        let body = ask("What is 47 + 58?", json!({"thinking": thinking}));
        let content = server.ask(MESSAGES, body.clone()).await["content"].clone();
        let kinds: Vec<&str> =
            content.as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, if thinks { &["thinking", "text"][..] } else { &["text"] }, "{thinking}: {content}");
        let events = stream(&server, body).await;
        let deltas = |kind: &str| events.iter().filter(|event| event["delta"]["type"] == kind).collect::<Vec<_>>();
        assert_eq!(deltas("signature_delta").len(), usize::from(thinks), "{thinking}");
        assert_eq!(!deltas("thinking_delta").is_empty(), shows, "{thinking}");
        if !thinks {
            continue;
        }
        assert_eq!(content[0]["thinking"].as_str().unwrap().contains("7 + 8 = 15"), shows, "{thinking}: {content}");
        // Immediately before the block stops, with the same signature as in a whole answer.
        let place = events.iter().position(|event| event["delta"]["type"] == "signature_delta").unwrap();
        assert_eq!(events[place]["delta"]["signature"], content[0]["signature"]);
        assert_ne!(content[0]["signature"], "");
        assert_eq!((&events[place]["index"], &events[place + 1]["index"]), (&json!(0), &json!(0)));
        assert_eq!(events[place + 1]["type"], "content_block_stop");
        // What was answered may be sent back.
        let messages = json!([
            {"role": "user", "content": "What is 47 + 58?"},
            {"role": "assistant", "content": content},
            {"role": "user", "content": "Sure?"},
        ]);
        server.ask(MESSAGES, ask("", json!({"messages": messages}))).await;
    }
}

/// A format under its older name is enforced too.
#[tokio::test]
async fn output_formats() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object", "properties": {"name": {"const": "Ana"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "schema": schema});
    for more in [
        json!({"output_format": format}),
        json!({"output_config": {"format": format, "effort": "high", "task_budget": null}}),
        json!({"output_format": format, "output_config": {"format": format}}),
    ] {
        let answer = server.ask(MESSAGES, ask("Extract: Ana is 31 years old.", more)).await;
        let text = answer["content"][0]["text"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap()["name"], "Ana", "{answer}");
    }
}

/// Clients look for these words, to make the conversation shorter.
#[tokio::test]
async fn words_for_what_does_not_fit() {
    let server = Server::start(&["--max-model-len", "128"]);
    let count = async |text: &str| server.ask(COUNT, ask(text, json!({}))).await["input_tokens"].as_u64().unwrap();
    // Known by the text's length alone, and only after it was tokenised.
    let long = "What is 12 + 30? ".repeat(4000);
    for path in [MESSAGES, COUNT] {
        let (status, message) = error(&server, path, &ask(&long, json!({}))).await;
        let numbers =
            message.strip_prefix("prompt is too long: ").unwrap().strip_suffix(" tokens > 128 maximum").unwrap();
        assert!(status == 400 && numbers.parse::<u64>().unwrap() > 128, "{message}");
    }
    let mut text = "a b c d e f g h i j k l m n o p".to_owned();
    while count(&text).await < 128 {
        text.push_str(" x");
    }
    assert_eq!(count(&text).await, 128);
    let found = error(&server, MESSAGES, &ask(&text, json!({}))).await;
    let message = "input length and `max_tokens` exceed context limit: 128 + 100 > 128, decrease input length or `max_tokens` \
                   and try again";
    assert_eq!(found, (400, message.to_owned()));
    text.push_str(" x");
    let found = error(&server, MESSAGES, &ask(&text, json!({}))).await;
    assert_eq!(found, (400, "prompt is too long: 129 tokens > 128 maximum".to_owned()));
    // What fits is answered as far as there is room, and says that there was no more.
    let body = ask(&text[..text.len() - 8], json!({"max_tokens": 32_000, "stop_sequences": ["never to be seen"]}));
    let choice = server.ask(MESSAGES, body).await;
    assert_eq!(choice["stop_reason"], "model_context_window_exceeded", "{choice}");
    let choice = server.ask(MESSAGES, ask("Tell me a story.", json!({"max_tokens": 2}))).await;
    assert_eq!(choice["stop_reason"], "max_tokens");
}

/// Anthropic's own tools are offered where the client carries them out, and passed over where their servers would.
#[tokio::test]
async fn tools_of_anthropic() {
    let server = Server::start(&[]);
    let weather =
        json!({"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let hosted = [
        json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 8}),
        json!({"type": "code_execution_20250825", "name": "code_execution"}),
        json!({"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}),
        json!({"type": "mcp_toolset", "mcp_server_name": "m"}),
        json!({"type": "computer_20250124", "name": "computer", "display_width_px": 1, "display_height_px": 1}),
    ];
    let count =
        async |tools: &[Value]| server.ask(COUNT, ask("Hi", json!({"tools": tools}))).await["input_tokens"].clone();
    assert_eq!(count(&hosted).await, count(&[]).await);
    let all = [&hosted[..], std::slice::from_ref(&weather)].concat();
    assert_eq!(count(&all).await, count(std::slice::from_ref(&weather)).await);
    for choice in [json!({"type": "any"}), json!({"type": "tool", "name": "get_weather"})] {
        let answer = server
            .ask(MESSAGES, ask("What is the weather in Oslo?", json!({"tools": all, "tool_choice": choice})))
            .await;
        assert_eq!(
            (&answer["stop_reason"], &answer["content"][0]["name"]),
            (&json!("tool_use"), &json!("get_weather"))
        );
    }
    for (tools, choice) in
        [(&all[..], json!({"type": "tool", "name": "web_search"})), (&hosted, json!({"type": "any"}))]
    {
        let (status, message) =
            error(&server, MESSAGES, &ask("Hi", json!({"tools": tools, "tool_choice": choice}))).await;
        assert!(status == 400 && message.starts_with("tool_choice: asks for a call of web_search"), "{message}");
    }
    for (kind, name) in [
        ("bash_20250124", "bash"),
        ("text_editor_20250728", "str_replace_based_edit_tool"),
        ("memory_20250818", "memory"),
    ] {
        let tools = json!([{"type": kind, "name": name}]);
        let body =
            ask("Hi", json!({"tools": tools, "tool_choice": {"type": "tool", "name": name}, "max_tokens": 1000}));
        let answer = server.ask(MESSAGES, body).await;
        assert_eq!(answer["content"][0]["name"], name, "{answer}");
    }
}

/// Agents with servers of tools send hundreds, with long names.
#[tokio::test]
async fn many_tools_with_long_names() {
    let server = Server::start(&[]);
    let tools = |count: usize| (0..count).map(|index| json!({"name": format!("t{index}")})).collect::<Vec<_>>();
    let counted = server.ask(COUNT, ask("Hi", json!({"tools": tools(512)}))).await;
    assert!(counted["input_tokens"].as_u64().unwrap() > 512 * 4, "{counted}");
    let (status, message) = error(&server, COUNT, &ask("Hi", json!({"tools": tools(513)}))).await;
    assert_eq!((status, message.as_str()), (400, "tools: has 513 entries, at most 512 are taken"));
    let name = "n".repeat(128);
    let body = ask("Hi", json!({"tools": [{"name": name}], "tool_choice": {"type": "any"}, "max_tokens": 1000}));
    assert_eq!(server.ask(MESSAGES, body).await["content"][0]["name"], name);
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "tool_choice": "required", "temperature": 0,
        "tools": [{"type": "function", "function": {"name": name}}]});
    let answer = server.ask("/v1/chat/completions", chat).await;
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], name);
}

/// What Claude Code sends besides never refuses a request.
#[tokio::test]
async fn further_fields_and_headers_are_taken() {
    let server = Server::start(&[]);
    let body = ask(
        "What is the capital of France?",
        json!({
            "model": "moesaic-demo",
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
            "container": {"id": "c", "skills": []},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "diagnostics": {"previous_message_id": null},
            "fallbacks": "default",
            "inference_geo": "eu",
            "mcp_servers": [{"type": "url", "url": "http://m", "name": "m"}],
            "metadata": {"user_id": "user_x_account__session_y"},
            "service_tier": "auto",
            "speed": "fast",
            "thread": {"type": "create"},
            "compaction": null,
            "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"},
                "defer_loading": true, "eager_input_streaming": true, "strict": true, "allowed_callers": ["direct"]}],
        }),
    );
    let betas =
        "claude-code-20250219,interleaved-thinking-2025-05-14,mid-conversation-system-2026-04-07,unheard-of-2030-01-01";
    for path in ["/v1/messages?beta=true", "/v1/messages/count_tokens?beta=true"] {
        let request =
            server.post(path, &body).header("anthropic-version", "2023-06-01").header("anthropic-beta", betas);
        let response = request.send().await.unwrap();
        let (status, answer) = (response.status(), response.json::<Value>().await.unwrap());
        assert_eq!(status, 200, "{path}: {answer}");
    }
    // Counting knows compaction and passes it over.
    server.ask(COUNT, ask("Hi", json!({"compaction": {"type": "auto"}}))).await;
}

/// Clients that name the version of Anthropic's API get models in its shape, in pages.
#[tokio::test]
async fn models_for_anthropics_clients() {
    let names = ["a", "b", "owner/c"];
    let named = names.iter().flat_map(|name| ["--served-model-name", name]).collect::<Vec<_>>();
    let server = Server::start(&[&named[..], &["--api-key", "k"]].concat());
    let get = async |path: &str| {
        let request = server.get(path).header("anthropic-version", "2023-06-01").header("x-api-key", "k");
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    for (query, ids, has_more) in [
        ("", &names[..], false),
        ("?limit=1000&beta=true", &names, false),
        ("?limit=2", &names[..2], true),
        ("?limit=2&after_id=b", &names[2..], false),
        ("?limit=1&after_id=a", &names[1..2], true),
        ("?after_id=owner%2Fc", &[], false),
        ("?limit=1&before_id=owner%2Fc", &names[1..2], true),
        ("?before_id=b", &names[..1], false),
        ("?before_id=a", &[], false),
    ] {
        let (status, page) = get(&format!("/v1/models{query}")).await;
        assert_eq!(status, 200, "{query}: {page}");
        let found: Vec<&str> =
            page["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
        assert_eq!((found.as_slice(), &page["has_more"]), (ids, &json!(has_more)), "{query}");
        assert_eq!((&page["first_id"], &page["last_id"]), (&json!(ids.first()), &json!(ids.last())), "{query}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "after_id=x", "before_id=x", "after_id=a&before_id=b"] {
        let (status, answer) = get(&format!("/v1/models?{query}")).await;
        let message = answer["error"]["message"].as_str().unwrap();
        let param = query.split('=').next().unwrap();
        assert!(status == 400 && answer["type"] == "error" && message.starts_with(param), "{query}: {answer}");
    }
    for name in ["a", "owner%2Fc", "owner/c"] {
        let (status, model) = get(&format!("/v1/models/{name}")).await;
        let id = name.replace("%2F", "/");
        assert_eq!((status, &model["id"], &model["display_name"]), (200, &json!(id), &json!(id)), "{model}");
        assert_eq!((&model["type"], &model["lifecycle"]), (&json!("model"), &json!("active")));
        let created = model["created_at"].as_str().unwrap();
        assert!(created.len() == 20 && created.starts_with("20") && created.ends_with('Z'), "{created}");
    }
    let (status, answer) = get("/v1/models/x").await;
    assert_eq!((status, &answer["error"]["type"]), (404, &json!("not_found_error")), "{answer}");
    // Refused in the same shape, and everybody else sees OpenAI's.
    let response = server.get("/v1/models").header("anthropic-version", "2023-06-01").send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["type"], "authentication_error");
    let others: Value = server.get("/v1/models").header("x-api-key", "k").send().await.unwrap().json().await.unwrap();
    assert_eq!((&others["object"], others["data"].as_array().unwrap().len()), (&json!("list"), 3));
    let other: Value =
        server.get("/v1/models/owner/c").header("x-api-key", "k").send().await.unwrap().json().await.unwrap();
    assert_eq!((&other["object"], &other["id"]), (&json!("model"), &json!("owner/c")));
}
