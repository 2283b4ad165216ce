//! Real chat templates and conversations of every kind, against what `transformers` renders.
//!
//! The templates are third-party and not part of the repository; they are read from `../shared`. Of the reference's
//! renderings only hashes are recorded, by `record_templates.py`, which also tells how to read them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moesaic_chat::{PromptOptions, PromptRenderer, Tokenizer};
use moesaic_protocol::ChatMessage;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{Date, Month, OffsetDateTime};

/// The folder, or `None` with a printed reason; under CI it must be there.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/templates");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
    println!("skipped: {} is missing", folder.display());
    None
}

fn tokenizer() -> Tokenizer {
    tokenizer_with(json!({"bos_token": "<s>", "eos_token": "</s>"}))
}

/// A tokenizer of three tokens: only `<s>` and `</s>` matter here.
fn tokenizer_with(config: Value) -> Tokenizer {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let file = json!({
        "version": "1.0", "added_tokens": [special(1, "<s>"), special(2, "</s>")], "normalizer": null,
        "post_processor": null, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    });
    Tokenizer::from_files(file.to_string().as_bytes(), Some(&config), 512).unwrap()
}

fn recorded_time() -> OffsetDateTime {
    Date::from_calendar_date(2026, Month::November, 23).unwrap().midnight().assume_utc()
}

fn renderer(source: &str) -> PromptRenderer {
    PromptRenderer::with_clock(source, &tokenizer(), recorded_time).unwrap()
}

fn messages(messages: &Value) -> Vec<ChatMessage> {
    serde_json::from_value(messages.clone()).unwrap()
}

/// Renders a recorded conversation.
fn render(renderer: &PromptRenderer, conversation: &Value) -> Result<String, String> {
    let mut variables = conversation["options"].as_object().unwrap().clone();
    let tools = variables.remove("tools").map_or(Vec::new(), |tools| tools.as_array().unwrap().clone());
    let add_generation_prompt = variables.remove("add_generation_prompt").is_none_or(|flag| flag == true);
    let options = PromptOptions { add_generation_prompt, variables, ..PromptOptions::default() };
    renderer.render(&messages(&conversation["messages"]), &tools, &options).map_err(|error| error.to_string())
}

fn short_hash(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let first = hash.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
    format!("{first:012x}")
}

#[test]
fn every_template_renders_every_conversation() {
    let Some(shared) = shared() else { return };
    let recorded: Value = serde_json::from_str(include_str!("data/templates.json")).unwrap();
    let (mut num_same, mut num_adapted, mut num_refused, mut wrong) = (0, 0, 0, Vec::new());
    let mut trying = Duration::ZERO;
    for (file, hashes) in recorded["templates"].as_object().unwrap() {
        let started = Instant::now();
        let renderer = renderer(&std::fs::read_to_string(shared.join(file)).unwrap());
        trying += started.elapsed();
        println!("{file}: {}", renderer.summary());
        for (name, hashes) in hashes.as_object().unwrap() {
            let mut hashes = hashes.as_str().unwrap().split(' ');
            let first = hashes.next().unwrap();
            let (must_be_same, as_sent) = (first.starts_with('='), first.trim_start_matches('='));
            let others: Vec<&str> = hashes.collect();
            match render(&renderer, &recorded["conversations"][name]) {
                Ok(text) if short_hash(&text) == as_sent => num_same += 1,
                Ok(text) if !must_be_same && others.contains(&short_hash(&text).as_str()) => num_adapted += 1,
                // No form of the conversation is taken by the template.
                Err(_) if as_sent == "-" && others.is_empty() => num_refused += 1,
                other => wrong.push(format!("{file}, {name} ({first}): {other:?}")),
            }
        }
    }
    println!("{trying:?} to compile and try all");
    println!("{num_same} as the reference renders what was sent, {num_adapted} adapted, {num_refused} refused by both");
    assert!(num_same > 400 && num_adapted > 500 && wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// DeepSeek-V3.2's template looks through all messages at every tool result.
#[test]
fn two_thousand_messages_are_rendered() {
    let Some(shared) = shared() else { return };
    let source = std::fs::read_to_string(shared.join("llama.cpp/deepseek-ai-DeepSeek-V3.2.jinja")).unwrap();
    let renderer = renderer(&source);
    let call = |index: usize| {
        json!({"id": format!("call{index}"), "type": "function",
                                     "function": {"name": "f", "arguments": "{\"city\": \"Paris\"}"}})
    };
    let result = json!({"role": "tool", "tool_call_id": "call0", "content": "sunny"});
    let turn = [
        json!({"role": "user", "content": "Hi"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call(0)]}),
        result.clone(),
        json!({"role": "assistant", "content": "Hello!"}),
    ];
    let turns: Vec<Value> = turn.iter().cycle().take(2000).cloned().collect();
    let calls: Vec<Value> = (0..1998).map(call).collect();
    let mut results = vec![turn[0].clone(), json!({"role": "assistant", "content": null, "tool_calls": calls})];
    results.resize(2000, result);
    for conversation in [turns, results] {
        let text = renderer.render(&messages(&conversation.into()), &[], &PromptOptions::default()).unwrap();
        assert!(text.matches("sunny").count() >= 500);
    }
}

#[test]
fn requests_with_tools_have_a_template_of_their_own() {
    let all = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let with_tools = "T{{ tools | length }}{% for m in messages %}{{ m.content[0].text }}{% endfor %}";
    let renderer = renderer(all).with_tool_use(with_tools, &tokenizer()).unwrap();
    let hi = messages(&json!([{"role": "user", "content": "hi"}]));
    let render = |tools: &[Value]| renderer.render(&hi, tools, &PromptOptions::default()).unwrap();
    assert_eq!((render(&[]), render(&[json!({})])), ("hi".to_owned(), "T1hi".to_owned()));
    assert!(renderer.summary().contains("; with tools another: "), "{}", renderer.summary());
}

/// Named templates of tokenizer_config.json.
#[test]
fn a_tokenizer_names_its_templates() {
    let of = |templates: Value| {
        let tokenizer = tokenizer_with(json!({"chat_template": templates}));
        ["default", "tool_use"].map(|name| tokenizer.chat_template(name).map(str::to_owned))
    };
    let named = |name: &str| json!({"name": name, "template": format!("{name}!")});
    assert_eq!(of(json!("x")), [Some("x".to_owned()), None]);
    let list = json!([named("rag"), named("tool_use"), named("default"), 5, {}]);
    assert_eq!(of(list), [Some("default!".to_owned()), Some("tool_use!".to_owned())]);
    assert_eq!(of(Value::Null), [None, None]);
}

/// What is not in any template of the collection.
#[test]
fn odd_templates_are_tried_too() {
    let roles = "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no') }}{% endif %}\
                 {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}\
                 <{{ m.role }}>{{ m.content }}{% endfor %}";
    let parts = "{% for m in messages %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}";
    let queue = "{% set ns = namespace(l=[]) %}{% set _ = ns.l.append('a') %}{{ ns.l.pop(0) }}{{ ns.l }}\
                 {% set _ = ns.l.append(1) %}{% set _ = ns.l.append('b') %}{{ ns.l[0] }}{{ ns.l.pop() }}\
                 {% set _ = ns.l.pop() %}{% set _ = ns.l.append('x') %}{{ ns.l }}";
    let generic = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let turn = |role: &str, content: Value| json!({"role": role, "content": content});
    let late = json!([
        turn("system", "A".into()),
        turn("user", "1".into()),
        turn("assistant", "2".into()),
        turn("developer", "B".into()),
        turn("user", "3".into()),
    ]);
    let hi = json!([turn("user", "hi".into())]);
    let two = json!([turn("user", json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))]);
    let null = json!([turn("user", "hi".into()), turn("assistant", Value::Null), turn("user", "yo".into())]);
    for (source, conversation, expected) in [
        (roles, &late, "<user>A\n\nB\n\n1<assistant>2<user>3"),
        (parts, &hi, "hi;"),
        (parts, &two, "a;b;"),
        (generic, &two, "<user>a\nb"),
        (generic, &null, "<user>hi<assistant><user>yo"),
        (queue, &hi, "a[]1b['x']"),
        (generic, &late, "<system>A<user>1<assistant>2<developer>B<user>3"),
    ] {
        let text = renderer(source).render(&messages(conversation), &[], &PromptOptions::default());
        assert_eq!(text.as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn templates_that_never_end_are_tried_in_bounded_time() {
    let started = Instant::now();
    for source in [
        "{% for i in range(10000) %}{% for j in range(10000) %}{{ j }}{% endfor %}{% endfor %}",
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('xxxxxxxx') }}",
        "{{ raise_exception('never') }}",
        "{{ nothing.of.this }}",
        "{% set ns = namespace(x='x') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ] {
        assert!(!renderer(source).summary().is_empty());
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
