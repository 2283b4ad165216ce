//! What a client receives: order of chunks, agreement of streamed and whole answers, stops,
//! log-probabilities, seeds and counts.

use serde_json::{Value, json};

use crate::fixtures::shared;
use crate::server::{Server, chat, read_some, read_until, synth};
use crate::support::golden_dir;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Text of each choice of a chat stream.
fn texts(chunks: &[Value], n: usize) -> Vec<String> {
    let mut texts = vec![String::new(); n];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
        texts[choice["index"].as_u64().unwrap() as usize].push_str(text);
    }
    texts
}

fn with(mut body: Value, change: Value) -> Value {
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test]
async fn the_order_of_chunks() {
    let server = Server::start(&[]);
    let body = with(chat("hello"), json!({"n": 2, "max_tokens": 5}));
    let chunks = server.stream(CHAT, with(body.clone(), json!({"stream_options": {"include_usage": true}}))).await;
    let whole = server.ask(CHAT, body).await;
    for key in ["id", "created", "model", "object", "system_fingerprint"] {
        assert!(chunks.iter().all(|chunk| chunk[key] == chunks[0][key]), "{key} differs between chunks");
    }
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    for index in 0..2 {
        let of_choice: Vec<&Value> = chunks
            .iter()
            .flat_map(|chunk| chunk["choices"].as_array().unwrap())
            .filter(|choice| choice["index"] == index)
            .collect();
        assert_eq!(of_choice[0]["delta"], json!({"role": "assistant", "content": ""}));
        let (last, middle) = of_choice[1..].split_last().unwrap();
        assert!(
            middle.iter().all(|choice| choice["finish_reason"].is_null() && choice["delta"]["content"].is_string())
        );
        assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("length")));
        assert_eq!(whole["choices"][index]["message"]["content"], texts(&chunks, 2)[index]);
    }
    let usage = chunks.last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 10);
    assert_eq!(usage["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk.get("usage").is_none()));
}

/// The embedded model's greedy answer is printable and ends by itself.
#[tokio::test]
async fn the_default_model_talks() {
    let server = Server::start(&[]);
    for body in [
        chat("hello"),
        json!({"messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "the weather?"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Bonn\"}"}}
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ], "temperature": 0}),
    ] {
        let answer = server.ask(CHAT, with(body, json!({"max_tokens": 64, "logprobs": true}))).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], tokens.len());
        let (end, tokens) = tokens.split_last().unwrap();
        assert!(end["token"] == "<｜end▁of▁sentence｜>" && tokens.len() > 3, "{answer}");
        for token in tokens {
            let text = token["token"].as_str().unwrap();
            assert!(!text.is_empty() && text.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{text:?}");
        }
    }
    let rendered = server.ask("/tokenize", json!({"messages": [{"role": "developer", "content": "Be kind."}]})).await;
    let text = server.ask("/detokenize", json!({"tokens": rendered["tokens"]})).await;
    assert!(text["prompt"].as_str().unwrap().contains("Be kind."), "{text}");
}

#[tokio::test]
async fn stop_strings_end_the_text() {
    let server = Server::start(&[]);
    let question = "Tell me a story about a fox.";
    let full = server.ask(CHAT, with(chat(question), json!({"max_tokens": 30}))).await;
    let full = full["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    // From the middle of one token to the middle of another, wherever the tokens are.
    for (from, to) in [(10, 14), (20, 21), (31, 40)] {
        let stop = &full[from..to];
        let first = full.find(stop).unwrap();
        let body = with(chat(question), json!({"max_tokens": 30, "stop": [stop, "never there"]}));
        let whole = server.ask(CHAT, body.clone()).await;
        let choice = &whole["choices"][0];
        assert_eq!(choice["message"]["content"], full[..first], "stop {stop:?}");
        assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(stop)));
        assert!(whole["usage"]["completion_tokens"].as_u64().unwrap() < 30);
        let chunks = server.stream(CHAT, with(body.clone(), json!({"stream_options": {"include_usage": true}}))).await;
        assert_eq!(texts(&chunks, 1)[0], full[..first], "stop {stop:?}");
        assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
        let kept = server.ask(CHAT, with(body, json!({"include_stop_str_in_output": true}))).await;
        assert_eq!(kept["choices"][0]["message"]["content"], full[..first + stop.len()]);
    }
    server.wait_for_metric("vllm:num_requests_running", 0.0).await;
}

#[tokio::test]
async fn stop_tokens_and_least_lengths() {
    let server = Server::start(&[]);
    let body = json!({"prompt": [5, 6, 7], "seed": 1, "max_tokens": 12, "return_token_ids": true});
    let ids = server.ask(COMPLETIONS, body.clone()).await["choices"][0]["token_ids"].clone();
    let third = ids[2].clone();
    let stopped = server.ask(COMPLETIONS, with(body.clone(), json!({"stop_token_ids": [third]}))).await;
    assert_eq!(stopped["choices"][0]["token_ids"].as_array().unwrap(), &ids.as_array().unwrap()[..3]);
    assert_eq!(stopped["choices"][0]["stop_reason"], third);
    let longer = with(body, json!({"stop_token_ids": [third], "min_tokens": 8}));
    let longer = server.ask(COMPLETIONS, longer).await["choices"][0]["token_ids"].as_array().unwrap().len();
    assert!(longer >= 8, "{longer}");
}

#[tokio::test]
async fn log_probabilities() {
    let server = Server::start(&[]);
    let body =
        with(chat("hello"), json!({"logprobs": true, "top_logprobs": 4, "max_tokens": 6, "temperature": 1, "seed": 3}));
    let whole = server.ask(CHAT, body.clone()).await;
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), 6);
    for token in &content {
        let top = token["top_logprobs"].as_array().unwrap();
        let values: Vec<f64> = top.iter().map(|entry| entry["logprob"].as_f64().unwrap()).collect();
        assert_eq!(values.len(), 4);
        assert!(values.is_sorted_by(|a, b| a >= b) && values[0] <= 0.0);
        assert!(token["logprob"].as_f64().unwrap() <= values[0]);
        let bytes: Vec<u8> = token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), token["token"].as_str().unwrap());
    }
    let chunks = server.stream(CHAT, body).await;
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed, content);
}

#[tokio::test]
async fn echo_with_log_probabilities() {
    let server = Server::start(&[]);
    let prompt = "the sea was calm";
    let body = json!({"prompt": [prompt, "two ships"], "echo": true, "logprobs": 2, "max_tokens": 3, "temperature": 0, "n": 2});
    let whole = server.ask(COMPLETIONS, body.clone()).await;
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (index, choice) in choices.iter().enumerate() {
        let text = choice["text"].as_str().unwrap();
        assert!(text.starts_with(["the sea was calm", "two ships"][index / 2]), "{text:?}");
        let logprobs = &choice["logprobs"];
        let tokens = logprobs["tokens"].as_array().unwrap();
        let values = logprobs["token_logprobs"].as_array().unwrap();
        assert!(values[0].is_null() && values[1..].iter().all(|value| value.as_f64().unwrap() <= 0.0));
        assert_eq!((tokens.len(), logprobs["text_offset"].as_array().unwrap().len()), (values.len(), values.len()));
        let tokens = tokens.iter().skip(1).map(|token| token.as_str().unwrap());
        let joined: String = tokens.filter(|token| *token != "<｜end▁of▁sentence｜>").collect();
        assert!(text.ends_with(&joined), "{joined:?} {text:?}");
    }
    let chunks = server.stream(COMPLETIONS, body).await;
    assert_eq!(texts(&chunks, 4), choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect::<Vec<_>>());
    // The same prompt with its log-probabilities asked for in the other way.
    let body = json!({"prompt": prompt, "prompt_logprobs": 1, "max_tokens": 1});
    let rows = server.ask(COMPLETIONS, body).await["choices"][0]["prompt_logprobs"].clone();
    let of_first_choice = &choices[0]["logprobs"]["token_logprobs"];
    let ids = server.ask("/tokenize", json!({"prompt": prompt})).await["tokens"].clone();
    for (index, id) in ids.as_array().unwrap().iter().enumerate().skip(1) {
        assert_eq!(rows[index][id.to_string()]["logprob"], of_first_choice[index]);
    }
}

/// An echo of the prompt alone, with its log-probabilities: how scoring clients ask.
#[tokio::test]
async fn scoring_a_prompt() {
    let server = Server::start(&[]);
    let body = json!({"prompt": "the sea", "echo": true, "logprobs": 0, "max_tokens": 0});
    let whole = server.ask(COMPLETIONS, body.clone()).await;
    let choice = &whole["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("the sea"), &json!("length")));
    assert_eq!(whole["usage"]["completion_tokens"], 0);
    let num_tokens = whole["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    assert_eq!(choice["logprobs"]["token_logprobs"].as_array().unwrap().len(), num_tokens);
    // The beginning-of-sequence token has no text, so the text's first character is at 0.
    assert_eq!(choice["logprobs"]["text_offset"].as_array().unwrap()[..2], [json!(0), json!(0)]);
    assert!(choice.get("prompt_logprobs").is_none());
    assert_eq!(texts(&server.stream(COMPLETIONS, body.clone()).await, 1)[0], "the sea");
    let bare = server.ask(COMPLETIONS, with(body.clone(), json!({"add_special_tokens": false}))).await;
    assert_eq!(
        (&bare["choices"][0]["text"], &bare["usage"]["prompt_tokens"]),
        (&json!("the sea"), &json!(num_tokens - 1))
    );
    // Spelled in the text, the same token has one.
    let info: Value = server.get("/tokenizer_info").send().await.unwrap().json().await.unwrap();
    let begin = info["bos_token"].as_str().unwrap();
    let spelled = json!({"prompt": format!("{begin}the sea"), "add_special_tokens": false});
    let spelled = server.ask(COMPLETIONS, with(body, spelled)).await;
    assert_eq!(spelled["usage"]["prompt_tokens"], num_tokens);
    let offsets = spelled["choices"][0]["logprobs"]["text_offset"].as_array().unwrap();
    assert_eq!(offsets[..2], [json!(0), json!(begin.chars().count())]);
}

/// Both ways of asking for a prompt's log-probabilities, each with its own number of alternatives.
#[tokio::test]
async fn alternatives_are_as_many_as_asked_for() {
    let server = Server::start(&[]);
    let body = json!({"prompt": "the sea was calm", "echo": true, "logprobs": 5, "prompt_logprobs": 1, "max_tokens": 2, "n": 2});
    for choice in server.ask(COMPLETIONS, body).await["choices"].as_array().unwrap() {
        let rows = choice["prompt_logprobs"].as_array().unwrap();
        assert!(rows[0].is_null() && rows[1..].iter().all(|row| (1..=2).contains(&row.as_object().unwrap().len())));
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), rows.len() + 2);
        assert!(top[1..].iter().all(|row| (5..=6).contains(&row.as_object().unwrap().len())));
    }
}

/// Without a seed, equal prompts of one request get different answers, with one the same.
/// As many as the queue takes, and each has its own answer.
#[tokio::test]
async fn many_prompts_in_one_request() {
    let server = Server::start(&[]);
    let prompts: Vec<Vec<u32>> = (0..300).map(|index| vec![100 + index, 5]).collect();
    let request = json!({"prompt": prompts, "max_tokens": 1, "echo": true, "temperature": 0, "return_token_ids": true});
    let answer = server.ask("/v1/completions", request).await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), prompts.len());
    for (index, (choice, prompt)) in choices.iter().zip(&prompts).enumerate() {
        assert_eq!((&choice["index"], &choice["prompt_token_ids"]), (&json!(index), &json!(prompt)));
    }
    assert_eq!(answer["usage"]["completion_tokens"], 300);
}

/// DeepSeek's field says the same as `reasoning_effort`.
#[tokio::test]
async fn two_fields_for_thinking() {
    let server = Server::start(&[]);
    let mut prompts = Vec::new();
    for change in [
        json!({"reasoning_effort": "none"}),
        json!({"thinking": {"type": "disabled"}}),
        json!({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}),
        json!({"reasoning_effort": "xhigh"}),
        json!({"thinking": {"type": "enabled"}}),
        json!({"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
    ] {
        let body = with(chat("hi"), json!({"max_tokens": 1, "return_token_ids": true}));
        let answer = server.ask("/v1/chat/completions", with(body, change)).await;
        prompts.push(answer["prompt_token_ids"].clone());
    }
    let (off, on) = prompts.split_at(3);
    assert!(off.iter().all(|prompt| *prompt == off[0]) && on.iter().all(|prompt| *prompt == on[0]), "{prompts:?}");
    assert_ne!(off[0], on[0]);
}

/// What clients need that count tokens and render prompts by themselves.
#[tokio::test]
async fn the_tokenizer_tells_about_itself() {
    let server = Server::start(&["--api-key", "k"]);
    assert_eq!(server.get("/tokenizer_info").send().await.unwrap().status(), 401);
    let response = server.get("/tokenizer_info").bearer_auth("k").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let info: Value = response.json().await.unwrap();
    for field in ["tokenizer_class", "chat_template", "bos_token", "eos_token"] {
        assert!(info[field].is_string(), "{field}: {info}");
    }
}

#[tokio::test]
async fn equal_prompts_of_one_request() {
    let server = Server::start(&[]);
    let body = json!({"prompt": ["Once", "Once"], "temperature": 1.5, "max_tokens": 30});
    let texts = |answer: Value| [answer["choices"][0]["text"].clone(), answer["choices"][1]["text"].clone()];
    let [a, b] = texts(server.ask(COMPLETIONS, body.clone()).await);
    assert_ne!(a, b);
    let [a, b] = texts(server.ask(COMPLETIONS, with(body, json!({"seed": 5}))).await);
    assert_eq!(a, b);
}

#[tokio::test]
async fn prompts_are_cut_where_asked() {
    let server = Server::start(&["--max-model-len", "8192"]);
    let prompt_tokens = |answer: Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let long: Vec<u32> = (0..9000).map(|i| i % 1000).collect();
    let body = |change: Value| with(json!({"prompt": long, "max_tokens": 10}), change);
    assert_eq!(prompt_tokens(server.ask(COMPLETIONS, body(json!({"truncate_prompt_tokens": 20}))).await), 20);
    assert_eq!(prompt_tokens(server.ask(COMPLETIONS, body(json!({"truncate_prompt_tokens": -1}))).await), 8182);
    let whole = prompt_tokens(server.ask(CHAT, chat("hello you")).await);
    let request = json!({"messages": [{"role": "user", "content": "hello you"}], "truncate_prompt_tokens": -1, "max_tokens": null, "stop": " "});
    assert_eq!(prompt_tokens(server.ask(CHAT, request).await), whole, "what fits is not cut");
}

/// A stream that waits for its turn is not silent.
#[tokio::test]
async fn silent_streams_are_kept_alive() {
    let server = Server::start(&["--max-num-seqs", "1", "--keep-alive-seconds", "1"]);
    let long = with(chat("a story"), json!({"max_tokens": 8000, "stream": true, "ignore_eos": true}));
    let running = server.post(CHAT, &with(long.clone(), json!({"n": 8}))).send().await.unwrap();
    let waiting = server.post(CHAT, &long).send().await.unwrap();
    let seen = read_until(waiting, ": keep-alive").await;
    assert!(seen.starts_with("data: ") && seen.contains("\n: keep-alive\n"), "{seen}");
    drop(running);
}

#[tokio::test]
async fn request_ids() {
    let server = Server::start(&[]);
    for (given, kept) in [(Some("my-id.1"), true), (Some("no spaces"), false), (None, false)] {
        let request = server.post(CHAT, &chat("hi"));
        let request = given.map_or(request.try_clone().unwrap(), |id| request.header("x-request-id", id));
        let response = request.send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(given == Some(id.as_str()), kept, "{given:?} {id}");
        assert_eq!(response.json::<Value>().await.unwrap()["id"], format!("chatcmpl-{id}"));
    }
}

/// A client that goes away before its whole answer is there.
#[tokio::test]
async fn a_dropped_whole_answer() {
    let server = Server::start(&[]);
    let request = server.post(CHAT, &with(chat("a story"), json!({"max_tokens": 8000, "ignore_eos": true})));
    let sent = tokio::time::timeout(std::time::Duration::from_millis(100), request.send()).await;
    assert!(sent.is_err(), "it takes longer than that");
    server.wait_for_metric("vllm:num_requests_running", 0.0).await;
}

/// Alone, beside 31 others, short of memory and from cached blocks: the same tokens.
#[tokio::test]
async fn a_seed_gives_the_same_tokens_in_any_company() {
    let roomy = Server::start(&[]);
    // 40 blocks for 32 sequences of up to 12 blocks: they preempt each other.
    let tight = Server::start(&["--kv-cache-memory", "614400", "--max-model-len", "256"]);
    let body = |seed: usize| {
        json!({
            "prompt": (0..60 + seed).map(|i| 3 + (i * 7 + seed) % 900).collect::<Vec<_>>(),
            "seed": seed, "temperature": 1.1, "top_p": 0.95, "max_tokens": 100, "ignore_eos": true,
            "return_token_ids": true, "logprobs": 1, "presence_penalty": 0.5,
        })
    };
    let mut alone = Vec::new();
    for seed in 0..32 {
        alone.push(roomy.ask(COMPLETIONS, body(seed)).await["choices"].clone());
    }
    for server in [&roomy, &tight] {
        let all = (0..32).map(|seed| server.ask(COMPLETIONS, body(seed)));
        for (seed, answer) in futures::future::join_all(all).await.into_iter().enumerate() {
            assert_eq!(answer["choices"], alone[seed], "seed {seed}");
        }
    }
    assert_eq!(roomy.metric("vllm:num_preemptions_total").await, 0.0);
    assert!(tight.metric("vllm:num_preemptions_total").await > 0.0);
    assert!(roomy.metric("vllm:prefix_cache_hits_total").await > 0.0);
    tight.wait_for_metric("vllm:num_requests_waiting", 0.0).await;
    tight.wait_for_metric("vllm:kv_cache_usage_perc", 0.0).await;
}

/// 64 streams, half of them dropped midway: the others do not notice, and nothing stays behind.
#[tokio::test]
async fn dropped_streams_leave_nothing_behind() {
    let server = Server::start(&[]);
    let body = |index: usize| {
        with(chat(&format!("story number {index}")), json!({"max_tokens": 200, "stream": true, "ignore_eos": true}))
    };
    let mut alone = Vec::new();
    for index in (0..64).step_by(2) {
        alone.push(texts(&server.stream(CHAT, body(index)).await, 1).remove(0));
    }
    let dropped = (1..64).step_by(2).map(|index| {
        let request = server.post(CHAT, &body(index));
        async move { read_some(request.send().await.unwrap(), 2000 + index * 300).await }
    });
    let kept = (0..64).step_by(2).map(|index| server.stream(CHAT, body(index)));
    let (kept, dropped) = tokio::join!(futures::future::join_all(kept), futures::future::join_all(dropped));
    assert!(dropped.iter().all(|seen| *seen >= 2000));
    for (chunks, alone) in kept.iter().zip(&alone) {
        assert_eq!(texts(chunks, 1)[0], *alone);
    }
    for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
        server.wait_for_metric(name, 0.0).await;
    }
    let text = server.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(text.contains("finished_reason=\"abort\",model_name=\"moesaic-demo\"} 32"), "{text}");
}

/// A checkpoint without a tokenizer serves completions on token ids.
#[tokio::test]
async fn without_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden_dir("deepseek_v3_yarn");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
    }
    let server =
        Server::start(&["--model", folder.path().to_str().unwrap(), "--dtype", "f32", "--served-model-name", "golden"]);
    let golden = crate::support::read_json(&source.join("golden.json"));
    let case = &golden["cases"][2];
    let body = json!({"model": "golden", "prompt": case["prompt"], "max_tokens": 32, "temperature": 0, "ignore_eos": true, "return_token_ids": true, "logprobs": 0});
    let whole = server.ask(COMPLETIONS, body.clone()).await;
    let choice = &whole["choices"][0];
    assert_eq!((&choice["token_ids"], &choice["text"]), (&case["greedy"], &json!("")));
    assert_eq!(choice["prompt_token_ids"], case["prompt"]);
    assert_eq!(choice["logprobs"]["tokens"][0], format!("token_id:{}", case["greedy"][0]));
    let chunks = server.stream(COMPLETIONS, body).await;
    assert_eq!(chunks.len(), 32, "one chunk per token");
    for (path, body) in
        [(CHAT, chat("hi")), (COMPLETIONS, json!({"prompt": "hi"})), ("/tokenize", json!({"prompt": "hi"}))]
    {
        let response = server.post(path, &body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{path}");
        let error = response.json::<Value>().await.unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains("no tokenizer"), "{path}: {error}");
    }
}

/// Real DeepSeek-V3 text: multi-byte characters never tear in a stream.
#[tokio::test]
async fn characters_never_tear() {
    let Some(shared) = shared() else { return };
    let tokenizer = shared.join("data/tokenizers/deepseek-v3");
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny-v3");
    synth(&["--preset", "tiny-v3", "--seed", "5"], &model);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), model.join(name)).unwrap();
    }
    let server = Server::start(&["--model", model.to_str().unwrap()]);
    // Random weights over the whole vocabulary: plenty of torn and rare characters.
    let body = json!({"messages": [{"role": "user", "content": "你好 🎉"}], "temperature": 1.5, "seed": 11, "max_tokens": 150, "ignore_eos": true});
    let whole = server.ask(CHAT, body.clone()).await;
    let chunks = server.stream(CHAT, with(body, json!({"return_token_ids": true}))).await;
    let text = &texts(&chunks, 1)[0];
    assert_eq!(whole["choices"][0]["message"]["content"], *text);
    let ids: Vec<Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().cloned().collect();
    assert_eq!(ids.len(), 150);
    assert!(!text.is_ascii());
    let echoed = json!({"messages": [{"role": "user", "content": "héllo wörld 🎉 你好"}]});
    let tokens = server.ask("/tokenize", echoed).await["tokens"].clone();
    let prompt = server.ask("/detokenize", json!({"tokens": tokens})).await;
    assert_eq!(prompt["prompt"], "<｜begin▁of▁sentence｜><｜User｜>héllo wörld 🎉 你好<｜Assistant｜>");
}
