//! Tools of `/v1/responses`: namespaces, text, and those that are not ours; and what else agents send there.

use serde_json::{Value, json};

use crate::server::Server;

const PATH: &str = "/v1/responses";

fn function(name: &str) -> Value {
    json!({"type": "function", "name": name, "parameters": {"type": "object", "properties": {"to": {"enum": ["x"]}}, "required": ["to"]}})
}

type Check<'c> = &'c dyn Fn(&str) -> bool;

async fn refused(server: &Server, body: &Value) -> Value {
    let response = server.post(PATH, body).send().await.unwrap();
    assert_eq!(response.status(), 400, "{body}");
    response.json::<Value>().await.unwrap()["error"].clone()
}

/// A namespace's functions are called by their names in it, also in what is sent back and stored.
#[tokio::test]
async fn namespaces_are_flattened_and_given_back() {
    let server = Server::start(&[]);
    let spaces = json!([{"type": "namespace", "name": "agents", "tools": [function("close"), function("open")]}, function("close")]);
    for (choice, name, namespace) in [
        (json!({"type": "function", "name": "open"}), "open", json!("agents")),
        (json!({"type": "function", "name": "close"}), "close", Value::Null),
        (json!({"type": "function", "name": "close", "namespace": "agents"}), "close", json!("agents")),
        (
            json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "agents__close"}]}),
            "close",
            json!("agents"),
        ),
    ] {
        let body = json!({"input": "Close it.", "tools": spaces, "tool_choice": choice});
        let answer = server.ask(PATH, body.clone()).await;
        let call = &answer["output"][0];
        assert_eq!((&call["name"], &call["namespace"]), (&json!(name), &namespace), "{answer}");
        assert_eq!((&call["arguments"], &answer["tools"]), (&json!("{\"to\":\"x\"}"), &answer["tools"]));
        let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": [{"type": "input_text", "text": "done"}]});
        let stored = json!({"previous_response_id": answer["id"], "input": [result]});
        let sent = json!({"input": [{"role": "user", "content": "Close it."}, call, result]});
        let mut counts = Vec::new();
        for mut next in [stored, sent] {
            next["tools"] = spaces.clone();
            counts.push(server.ask(PATH, next).await["usage"]["input_tokens"].clone());
        }
        assert_eq!(counts[0], counts[1], "stored or sent back, a call is the same");
    }
    let mut wrong = spaces;
    wrong[0]["tools"][1]["parameters"] = json!({"type": "string"});
    let error = refused(&server, &json!({"input": "x", "tools": wrong})).await;
    assert_eq!(error["param"], "tools[0].tools[1].parameters.type");
    wrong[0]["tools"][1] = json!({"type": "namespace", "name": "inner", "tools": []});
    let error = refused(&server, &json!({"input": "x", "tools": wrong})).await;
    assert_eq!(error["param"], "tools[0].tools[1].type");
}

/// A custom tool's input is text, and of its grammar, whatever the text holds; streamed as whole.
#[tokio::test]
async fn custom_tools_take_text_of_their_grammar() {
    let server = Server::start(&[]);
    let lark =
        "start: \"say \\\"\" word~1..9 \"\\\"\" LF \"\\\\end\"\nword: \"é\" | \"/\" | /[\\t'u]/\n%import common.LF";
    let is_of_lark = |input: &str| {
        let words = input.strip_prefix("say \"").and_then(|rest| rest.strip_suffix("\"\n\\end"));
        words.is_some_and(|words| !words.is_empty() && words.chars().all(|word| "é/\t'u".contains(word)))
    };
    let is_of_regex = |input: &str| ["a\"\n", "b\\\u{1}"].contains(&input);
    let tool = |syntax: &str, definition: &str| json!({"type": "custom", "name": "write", "format": {"type": "grammar", "syntax": syntax, "definition": definition}});
    let cases: [(Value, Check); 3] = [
        (tool("lark", lark), &is_of_lark),
        (tool("regex", "^(a\"\\n|b\\\\\\x01)$"), &is_of_regex),
        (tool("lark", "root ::= \"a\\\"\\n\""), &is_of_regex),
    ];
    for (tool, is_right) in cases {
        for seed in 0..4 {
            let mut body = json!({
                "input": "Write.", "tools": [tool], "seed": seed, "temperature": 1.5, "max_output_tokens": 200,
                "tool_choice": if seed % 2 == 0 { json!("required") } else { json!({"type": "custom", "name": "write"}) },
            });
            let answer = server.ask(PATH, body.clone()).await;
            let call = &answer["output"][0];
            assert_eq!((&call["type"], &call["name"]), (&json!("custom_tool_call"), &json!("write")), "{answer}");
            let input = call["input"].as_str().unwrap();
            assert!(answer["status"] == "completed" && is_right(input), "{input:?} by {tool}");
            body["stream"] = true.into();
            let text = server.post(PATH, &body).send().await.unwrap().text().await.unwrap();
            assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
            let events = text
                .split("data: ")
                .skip(1)
                .filter_map(|event| serde_json::from_str::<Value>(event.lines().next()?).ok());
            let events: Vec<Value> = events.collect();
            let of = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
            let streamed: String =
                of("response.custom_tool_call_input.delta").map(|event| event["delta"].as_str().unwrap()).collect();
            assert_eq!(streamed, input);
            assert_eq!(of("response.custom_tool_call_input.done").next().unwrap()["input"], input);
            let result = json!({"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "ok"});
            let next = json!({"input": [{"role": "user", "content": "Write."}, call, result], "tools": [tool]});
            server.ask(PATH, next).await;
        }
    }
    for (change, param) in [
        (json!({"format": {"type": "grammar", "syntax": "gbnf", "definition": "x"}}), "tools[0].format.syntax"),
        (json!({"format": {"type": "grammar", "syntax": "lark"}}), "tools[0].format.definition"),
        (json!({"format": {"type": "json"}}), "tools[0].format.type"),
        (json!({"name": ""}), "tools[0].name"),
        (tool("lark", "start: nothing"), "tools"),
        (tool("lark", "start: %json {}"), "tools"),
        (tool("regex", "a(?=b)"), "tools"),
    ] {
        let mut tool = json!({"type": "custom", "name": "write"});
        tool.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = refused(&server, &json!({"input": "x", "tools": [tool], "tool_choice": "required"})).await;
        assert_eq!(error["param"], param, "{error}");
    }
}

/// Tools that others' servers have are passed over, unless one is forced or the operator wants none.
#[tokio::test]
async fn hosted_tools_are_passed_over_or_refused() {
    let server = Server::start(&[]);
    let offered = json!([{"type": "web_search", "external_web_access": false}, function("send"), {"type": "mcp", "server_label": "x"}]);
    let mut body = json!({"input": "Send it.", "tools": offered, "tool_choice": "required"});
    let answer = server.ask(PATH, body.clone()).await;
    assert_eq!(answer["output"][0]["name"], "send", "{answer}");
    assert_eq!(answer["tools"].as_array().unwrap().len(), 1, "{answer}");
    body["tool_choice"] = json!({"type": "web_search"});
    assert_eq!(refused(&server, &body).await["param"], "tool_choice");
    body["tools"] = json!([{"type": "teleport"}]);
    assert_eq!(refused(&server, &body).await["param"], "tools[0].type");
    let strict = Server::start(&["--hosted-tools", "refuse"]);
    body["tools"] = offered;
    assert_eq!(refused(&strict, &body).await["param"], "tools[0].type");
}

/// What other providers' histories carry is taken; results belong to calls that are there.
#[tokio::test]
async fn histories_of_other_providers_are_taken() {
    let server = Server::start(&[]);
    let history = json!([
        {"role": "user", "content": "List the files."},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
        {"type": "message", "role": "assistant", "phase": "commentary", "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
        {"type": "local_shell_call", "call_id": "c1", "action": {"type": "exec", "command": ["ls"], "env": {}}, "status": "completed"},
        {"type": "local_shell_call_output", "id": "c1", "output": "a.txt"},
        {"type": "shell_call", "call_id": "c2", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "c2", "output": [{"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
        {"type": "apply_patch_call", "call_id": "c3", "operation": {"type": "delete_file", "path": "a.txt"}},
        {"type": "apply_patch_call_output", "call_id": "c3", "status": "completed", "output": "deleted"},
        {"type": "compaction", "encrypted_content": "gAAAA"},
        {"role": "user", "content": "Thanks."},
    ]);
    let answer = server.ask(PATH, json!({"input": history})).await;
    let path = format!("{PATH}/{}/input_items", answer["id"].as_str().unwrap());
    let list = |query: &str| {
        let request = server.get(&format!("{path}{query}"));
        async move { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    let all = list("?order=asc").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 12, "{all}");
    assert_eq!((&all["data"][1]["id"], &all["data"][3]["content"][0]["text"]), (&json!("ws_1"), &json!("I look.")));
    let first = list("?limit=5").await;
    assert_eq!((&first["has_more"], &first["data"][0]["id"]), (&json!(true), &all["data"][11]["id"]));
    let rest = list(&format!("?limit=100&after={}", first["last_id"].as_str().unwrap())).await;
    assert_eq!((&rest["has_more"], rest["data"].as_array().unwrap().len()), (&json!(false), 7));
    for (query, param) in
        [("?limit=0", "limit"), ("?limit=101", "limit"), ("?order=up", "order"), ("?after=x", "after")]
    {
        assert_eq!(list(query).await["error"]["param"], param);
    }
    let output = json!([{"type": "function_call_output", "call_id": "missing", "output": "x"}]);
    let error = refused(&server, &json!({"previous_response_id": answer["id"], "input": output})).await;
    assert_eq!(error["param"], "input");
}

/// With truncation, the oldest turns go, and only as many as must.
#[tokio::test]
async fn the_oldest_turns_make_room() {
    let server = Server::start(&["--max-model-len", "1024"]);
    let turn = |index: usize| {
        [
            json!({"role": "user", "content": format!("Question {index}: {}", "word ".repeat(60))}),
            json!({"role": "assistant", "content": "Yes."}),
        ]
    };
    let last = json!({"role": "user", "content": "What is 2 + 3?"});
    let mut body = json!({"instructions": "Be short.", "max_output_tokens": 100, "temperature": 0});
    body["input"] = (0..20).flat_map(turn).chain([last.clone()]).collect();
    assert_eq!(refused(&server, &body).await["code"], "context_length_exceeded");
    body["truncation"] = "auto".into();
    let answer = server.ask(PATH, body.clone()).await;
    let dropped = usize::try_from(answer["dropped_turns"].as_u64().unwrap()).unwrap();
    assert!((1..20).contains(&dropped), "{answer}");
    let num_tokens = answer["usage"]["input_tokens"].as_u64().unwrap();
    for (kept_from, fits) in [(dropped, true), (dropped - 1, false)] {
        let kept = json!({"instructions": "Be short.", "input": (kept_from..20).flat_map(turn).chain([last.clone()]).collect::<Value>()});
        let count = server.ask(&format!("{PATH}/input_tokens"), kept).await["input_tokens"].as_u64().unwrap();
        assert_eq!((count <= 924, count == num_tokens), (fits, fits), "{count} tokens from turn {kept_from}");
    }
    body["input"] = json!([last]);
    assert!(server.ask(PATH, body.clone()).await.get("dropped_turns").is_none());
    body["input"] = json!([{"role": "user", "content": "word ".repeat(3000)}]);
    assert_eq!(refused(&server, &body).await["code"], "context_length_exceeded");
}

/// Two clients at once, with the same names: each gets its own, and finds only its own.
#[tokio::test]
async fn two_clients_do_not_meet() {
    let server = Server::start(&["--api-key", "one,two"]);
    let ask = async |key: &str| {
        let space = json!({"type": "namespace", "name": key, "tools": [function("close")]});
        let body = json!({"input": format!("I am {key}."), "tools": [space], "tool_choice": "required"});
        server.post(PATH, &body).bearer_auth(key).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let (one, two) = tokio::join!(ask("one"), ask("two"));
    for (answer, own, other) in [(one, "one", "two"), (two, "two", "one")] {
        assert_eq!(answer["output"][0]["namespace"], own, "{answer}");
        let path = format!("{PATH}/{}", answer["id"].as_str().unwrap());
        let list = async |key: &str| server.get(&format!("{path}/input_items")).bearer_auth(key).send().await.unwrap();
        assert_eq!(list(other).await.status(), 404);
        let items = list(own).await.json::<Value>().await.unwrap();
        assert_eq!(items["data"][0]["content"][0]["text"], format!("I am {own}."));
        let forget = reqwest::Client::new().delete(format!("{}{path}", server.url)).bearer_auth(own);
        assert_eq!(forget.send().await.unwrap().status(), 200);
        assert_eq!(list(own).await.status(), 404);
    }
}
