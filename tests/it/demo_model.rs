//! The embedded model: it says what it was trained to say, also about what it was never trained on.

use std::path::PathBuf;

use moesaic_worker::Numerics;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use candle_core::DType;
use moesaic_model::Checkpoint;

use crate::server::{Server, chat};
use crate::support::{BLOCK_SIZE, all_logits, golden_dir, ids, load, load_for_its_positions, read_json};

/// As in `crates/demo-model/train/world/common.py`: sums that training never shows.
fn is_held_out(a: u32, b: u32) -> bool {
    Sha256::digest(format!("sum|({a}, {b})"))[0].is_multiple_of(12)
}

/// The checkpoint's files.
fn data() -> PathBuf {
    golden_dir("demo_model").join("../../../crates/demo-model/data")
}

/// The checkpoint as transformers computes it (recorded by `train/export.py`).
#[test]
fn logits_are_the_reference_implementations() {
    let folder = golden_dir("demo_model");
    let runner = load(&Checkpoint::folder(&data()).unwrap(), DType::F32, Numerics::Strict);
    for case in read_json(&folder.join("logits.json"))["cases"].as_array().unwrap() {
        let prompt = ids(&case["ids"]);
        let logits = all_logits(&runner, &prompt, &[prompt.len()], 0).pop().unwrap();
        let expected = case["logits"].as_array().unwrap();
        assert_eq!(logits.len(), expected.len());
        for (ours, reference) in logits.iter().zip(expected) {
            let reference = reference.as_f64().unwrap() as f32;
            assert!((ours - reference).abs() < 2e-3, "{}: {ours} against {reference}", case["prompt"]);
        }
    }
}

/// The context was widened after training: the rotary embedding, and with it every bit of what fitted before, stayed.
#[test]
fn the_longer_context_moves_no_bit() {
    const TRAINED: usize = 8192;
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data().join(file), folder.path().join(file)).unwrap();
    }
    let mut config = read_json(&folder.path().join("config.json"));
    assert_eq!(config["max_position_embeddings"], 65_536);
    let rope = &config["rope_scaling"];
    assert_eq!((&rope["factor"], &rope["original_max_position_embeddings"]), (&json!(4.0), &json!(2048)));
    config["max_position_embeddings"] = json!(TRAINED);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();

    let runners = [folder.path(), &data()]
        .map(|path| load_for_its_positions(&Checkpoint::folder(path).unwrap(), TRAINED / BLOCK_SIZE));
    let tokens: Vec<u32> = (0..TRAINED as u32).map(|index| index * 7919 % 1523).collect();
    let [before, now] = runners.map(|runner| all_logits(&runner, &tokens, &[512], 0));
    assert_eq!(now.len(), TRAINED);
    for (position, (before, now)) in before.iter().zip(&now).enumerate() {
        assert!(before.iter().zip(now).all(|(a, b)| a.to_bits() == b.to_bits()), "position {position}");
    }
}

/// As long as a coding agent's first request; what it says after so much is another matter.
#[tokio::test]
async fn long_prompts_are_taken() {
    let server = Server::start(&[]);
    let body = json!({"prompt": vec![5; 10_000], "max_tokens": 4, "ignore_eos": true});
    let answer = server.ask("/v1/completions", body).await;
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(10_000), &json!(4)));
}

/// Greedy answers of a conversation's turns, each with the earlier ones as history.
async fn talk(server: &Server, turns: &[&str], change: &Value) -> Vec<Value> {
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    for turn in turns {
        messages.push(json!({"role": "user", "content": turn}));
        let mut body = json!({"messages": messages, "temperature": 0, "max_tokens": 200});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let choice = server.ask("/v1/chat/completions", body).await["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "stop", "{turn}: {choice}");
        messages.push(json!({"role": "assistant", "content": choice["message"]["content"]}));
        answers.push(choice["message"].clone());
    }
    answers
}

async fn text(server: &Server, question: &str) -> String {
    let answer = talk(server, &[question], &json!({})).await.pop().unwrap();
    answer["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn questions_have_answers() {
    let server = Server::start(&[]);
    for (question, part) in [
        ("Hello!", "Hello! How can I help you?"),
        ("Hi", "Hello!"),
        ("How are you?", "I am fine"),
        ("Thank you!", "You are welcome"),
        ("Goodbye!", "Goodbye"),
        ("Say this is a test", "This is a test."),
        ("Who are you?", "demo model"),
        ("What is moesaic?", "inference server"),
        ("What is MLA?", "multi-head latent attention"),
        ("What is a mixture of experts?", "experts"),
        ("What is the KV cache?", "keys and values"),
        ("How does streaming work?", "server-sent events"),
        ("How do I load another model?", "moesaic serve --model"),
        ("Can I use the OpenAI SDK?", "OpenAI client"),
        ("What is the capital of France?", "Paris"),
        ("Capital of Japan?", "Tokyo"),
        ("Which city is the capital of Italy?", "Rome"),
        ("What is the opposite of hot?", "cold"),
        ("What color is the sky?", "blue"),
        ("Why is the sky blue?", "scatters"),
        ("What comes after Tuesday?", "Wednesday"),
        ("How many days are in a week?", "7"),
        ("How do you say hello in French?", "bonjour"),
        ("Name three fruits.", "apple, banana and cherry"),
        ("What is 7 times 8?", "56"),
        ("Count to 5.", "1, 2, 3, 4, 5"),
        ("Tell me a joke.", "?"),
        ("Tell me a story about a fox.", "fox"),
        ("Write a one-sentence bedtime story about a unicorn.", "unicorn"),
        ("你好", "你好"),
        ("你是谁？", "moesaic"),
        ("法国的首都是哪里？", "巴黎"),
        ("What is the population of Brovenia?", "I do not know"),
    ] {
        let answer = text(&server, question).await;
        assert!(answer.contains(part), "{question} -> {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_never_seen_are_right_with_and_without_thought() {
    use futures::StreamExt;
    let server = Server::start(&[]);
    let pairs: Vec<(u32, u32)> =
        (0..100).flat_map(|a| (0..100).map(move |b| (a, b))).filter(|(a, b)| is_held_out(*a, *b)).step_by(8).collect();
    assert!(pairs.len() > 80);
    for thinking in [false, true] {
        let server = &server;
        let right: Vec<bool> = futures::stream::iter(pairs.clone())
            .map(|(a, b)| async move {
                let change = json!({"chat_template_kwargs": {"thinking": thinking}});
                let answer = talk(server, &[&format!("What is {a} + {b}?")], &change).await.pop().unwrap();
                assert_eq!(answer["reasoning_content"].is_string(), thinking, "{answer}");
                answer["content"].as_str().unwrap().ends_with(&format!("= {}", a + b))
            })
            .buffer_unordered(32)
            .collect()
            .await;
        let share = right.iter().filter(|right| **right).count() as f64 / right.len() as f64;
        println!("thinking {thinking}: {:.1} % of {} held-out sums are right", 100.0 * share, right.len());
        assert!(share >= 0.9, "thinking {thinking}: {share}");
    }
}

#[tokio::test]
async fn names_are_remembered_over_turns() {
    let server = Server::start(&[]);
    for name in ["Zorvina", "Kelmar", "Brusto", "Tavinko", "Anna"] {
        let answers = talk(
            &server,
            &[&format!("My name is {name}."), "What is the capital of Spain?", "What is 12 + 30?", "What is my name?"],
            &json!({}),
        )
        .await;
        let said = |index: usize| answers[index]["content"].as_str().unwrap();
        assert!(said(0).contains(name), "{}", said(0));
        assert!(said(1).contains("Madrid") && said(2).contains("42"), "{answers:?}");
        assert!(said(3).contains(name), "{name}: {}", said(3));
    }
    assert!(text(&server, "What is my name?").await.contains("have not told me"));
}

fn weather() -> Value {
    json!([{"type": "function", "function": {
        "name": "get_weather", "description": "Get current weather for a location.",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    }}])
}

#[tokio::test]
async fn tools_are_called_when_they_fit_and_their_results_are_used() {
    let server = Server::start(&[]);
    for (city, thinking) in [("Paris", false), ("Lumbrano", false), ("Oslo", true)] {
        let question = json!({"role": "user", "content": format!("What is the weather in {city}?")});
        let mut body = json!({"messages": [question], "tools": weather(), "temperature": 0});
        body["chat_template_kwargs"] = json!({"thinking": thinking});
        let choice = server.ask("/v1/chat/completions", body.clone()).await["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let call = &choice["message"]["tool_calls"][0];
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert_eq!((&call["function"]["name"], arguments), (&json!("get_weather"), json!({"location": city})));
        assert_eq!(choice["message"]["reasoning_content"].is_string(), thinking, "{choice}");
        let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "{\"temperature\": 17, \"condition\": \"sunny\"}"});
        body["messages"] = json!([question, choice["message"], result]);
        let answer = server.ask("/v1/chat/completions", body).await["choices"][0]["message"]["content"].clone();
        let answer = answer.as_str().unwrap();
        assert!(answer.contains(city) && answer.contains("17") && answer.contains("sunny"), "{answer}");
    }
    // No call where none is allowed, not even spelled out.
    let change = json!({"tools": weather(), "tool_choice": "none"});
    let answer = talk(&server, &["What is the weather in Paris?"], &change).await.pop().unwrap();
    assert!(answer["tool_calls"].is_null() && !answer["content"].as_str().unwrap().contains("tool▁call"), "{answer}");
    let change = json!({"tools": weather()});
    let answer = talk(&server, &["What is the capital of France?"], &change).await.pop().unwrap();
    assert!(answer["tool_calls"].is_null() && answer["content"].as_str().unwrap().contains("Paris"), "{answer}");
}

#[tokio::test]
async fn facts_are_extracted_into_a_schema() {
    let server = Server::start(&[]);
    let mut body = chat("Alice and Bob are going to a science fair on Friday.");
    body["messages"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"role": "system", "content": "Extract the event information."}));
    (body["temperature"], body["max_tokens"]) = (json!(0), json!(200));
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "event", "strict": true, "schema": {
        "type": "object", "additionalProperties": false, "required": ["name", "date", "participants"],
        "properties": {"name": {"type": "string"}, "date": {"type": "string"}, "participants": {"type": "array", "items": {"type": "string"}}},
    }}});
    let answer = server.ask("/v1/chat/completions", body).await;
    let event: Value = serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(event, json!({"name": "science fair", "date": "Friday", "participants": ["Alice", "Bob"]}));
}

#[tokio::test]
async fn a_chat_without_max_tokens_ends_where_the_checkpoint_says() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in moesaic_demo_model::FILES {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": 1, "max_new_tokens": 5}"#)
        .unwrap();
    let server = Server::start(&["--model", folder.path().to_str().unwrap()]);
    let name = server.get("/v1/models").send().await.unwrap().json::<Value>().await.unwrap()["data"][0]["id"].clone();
    for (change, tokens) in [(json!({}), 5), (json!({"max_tokens": 7}), 7), (json!({"min_tokens": 9}), 9)] {
        let mut body = json!({"model": name, "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": true});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = server.ask("/v1/chat/completions", body).await;
        assert_eq!(answer["usage"]["completion_tokens"], tokens, "{answer}");
    }
}
