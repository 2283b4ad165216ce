//! Real tokenizers and chat templates against what their reference implementations make of them.
//!
//! The files are third-party and not part of the repository; they are read from `../shared`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use moesaic_chat::{ChatTemplate, ChoiceDecoder, DecodeOptions, OutputEvent, TemplateError, Tokenizer};
use serde_json::{Value, json};
use std::sync::Arc;
use time::{Date, Month, OffsetDateTime};

use crate::support::{ids, read_json};

/// The folder, or `None` with a printed reason; under CI it must be there.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    if folder.join("data").is_dir() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
    println!("skipped: {} is missing", folder.display());
    None
}

fn tokenizer(folder: &Path) -> Option<Tokenizer> {
    let bytes = std::fs::read(folder.join("tokenizer.json")).ok()?;
    Some(Tokenizer::from_files(&bytes, Some(&read_json(&folder.join("tokenizer_config.json"))), 1 << 20).unwrap())
}

#[test]
fn tokenizers() {
    let Some(shared) = shared() else { return };
    let cases = read_json(&shared.join("golden/tokenizer_cases.json"));
    let mut num_checked = 0;
    for (name, cases) in cases.as_object().unwrap() {
        let Some(tokenizer) = tokenizer(&shared.join("data/tokenizers").join(name)).map(Arc::new) else { continue };
        for case in cases.as_array().unwrap() {
            let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: {text:?}");
            for (skip, key) in [(false, "decoded"), (true, "decoded_skip")] {
                assert_eq!(tokenizer.decode(&expected, skip), case[key].as_str().unwrap(), "{name}: {text:?} {key}");
                assert_eq!(
                    streamed(&tokenizer, &expected, skip),
                    case[key].as_str().unwrap(),
                    "{name}: {text:?} {key}"
                );
            }
            num_checked += 1;
        }
    }
    assert!(num_checked >= 160, "only {num_checked} cases were found");
}

/// The text as a stream would bring it, token by token.
fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special_tokens: bool) -> String {
    let options = DecodeOptions { stops: vec![], include_stop: false, skip_special_tokens, min_tokens: 0 };
    let (mut decoder, mut events) = (ChoiceDecoder::new(Some(Arc::clone(tokenizer)), options, None), Vec::new());
    for id in ids {
        assert_eq!(decoder.push(*id, false, &mut events), None);
    }
    decoder.finish(&mut events);
    let text = |event| match event {
        OutputEvent::Content(text) => text,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(text).collect()
}

fn recorded_time() -> OffsetDateTime {
    Date::from_calendar_date(2026, Month::November, 23).unwrap().midnight().assume_utc()
}

/// `file` or `file#key`, where the key of a JSON file holds the template.
fn template_source(data: &Path, path: &str) -> Option<String> {
    match path.split_once('#') {
        None => std::fs::read_to_string(data.join(path)).ok(),
        Some((file, key)) => {
            data.join(file).exists().then(|| read_json(&data.join(file))[key].as_str().unwrap().to_owned())
        }
    }
}

fn context(fixture: &Value, case: &Value) -> Value {
    let mut context = json!({
        "messages": fixture["conversations"][case["conversation"].as_str().unwrap()],
        "add_generation_prompt": case["add_generation_prompt"],
        "bos_token": case["bos_token"],
        "eos_token": case["eos_token"],
    });
    for (key, value) in case["vars"].as_object().unwrap() {
        context[key] = value.clone();
    }
    context
}

#[test]
fn chat_templates() {
    let Some(shared) = shared() else { return };
    let fixture = read_json(&shared.join("golden/chat_template_cases.json"));
    let mut templates: HashMap<&str, Option<ChatTemplate>> = HashMap::new();
    let (mut num_rendered, mut num_refused) = (0, 0);
    for case in fixture["cases"].as_array().unwrap() {
        let path = case["template"].as_str().unwrap();
        let template = templates.entry(path).or_insert_with(|| {
            let source = template_source(&shared.join("data"), path)?;
            Some(ChatTemplate::compile_with_clock(&source, recorded_time).unwrap())
        });
        let Some(template) = template else { continue };
        let what = format!("{path}, {}, {}", case["conversation"], case["vars"]);
        let result = template.render(context(&fixture, case));
        if let Some(expected) = case["rendered"].as_str() {
            assert_eq!(result.as_deref(), Ok(expected), "{what}");
            num_rendered += 1;
        } else if let Some(message) = case["error"].as_str().unwrap().strip_prefix("TemplateError: ") {
            let Err(TemplateError::Raised(raised)) = result else { panic!("{what}: {result:?}") };
            assert!(raised.starts_with(message), "{what}: {raised:?} instead of {message:?}");
            num_refused += 1;
        }
    }
    assert!(num_rendered >= 500 && num_refused >= 20, "{num_rendered} rendered, {num_refused} refused");
}
