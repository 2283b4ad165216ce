//! Schemas and instances through the compiler of grammars, for `tests/schemas/run`.
//!
//! Reads lines `{"schema": …, "instances": [TEXT, …], "samples": COUNT}` and writes, for each, `{"error": TEXT}` where the
//! schema is refused or `{"takes": [true, …], "samples": [TEXT, …]}`. Instances are JSON as answers have it; samples are
//! answers drawn at random from the grammar. `--library` compiles by llguidance alone, to compare.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for measuring")]

use std::io::BufRead;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv};
use llguidance::{Matcher, ParserFactory};
use moesaic_chat::{AnswerFormat, Dialect, Markers};
use serde_json::{Value, json};

fn main() {
    let by_library = std::env::args().any(|argument| argument == "--library");
    let environment = ApproximateTokEnv::single_byte_env();
    let mut factory = ParserFactory::new_simple(&environment).unwrap();
    factory.quiet();
    // The server's own limits.
    *factory.limits_mut() = moesaic_chat::GRAMMAR_LIMITS;
    // Deep enough that the library's recursion ends in an answer.
    let work = move || {
        for line in std::io::stdin().lock().lines() {
            let mut case: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let schema = case["schema"].take();
            let result = compile(&factory, &schema, by_library);
            let found = |matcher: Matcher| {
                let count = case["samples"].as_u64().unwrap_or_default();
                let samples: Vec<String> = (0..count).filter_map(|seed| sample(&environment, &matcher, seed)).collect();
                json!({"takes": takes(&environment, &matcher, &case["instances"]), "samples": samples})
            };
            println!("{}", result.map_or_else(|error| json!({"error": error}), found));
        }
    };
    std::thread::Builder::new().stack_size(1 << 30).spawn(work).unwrap().join().unwrap();
}

fn compile(factory: &ParserFactory, schema: &Value, by_library: bool) -> Result<Matcher, String> {
    let grammar = if by_library {
        let mut schema = schema.clone();
        if let Some(map) = schema.as_object_mut() {
            map.insert("x-guidance".to_owned(), json!({"whitespace_flexible": false}));
        }
        TopLevelGrammar::from_json_schema(schema)
    } else {
        let source = AnswerFormat::JsonSchema(schema.clone()).lark(Dialect::Plain, &Markers::default());
        TopLevelGrammar::from_lark(source.map_err(|error| error.to_string())?)
    };
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let parser = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| factory.create_parser(grammar)));
    let parser = parser.map_err(|_| "panic".to_owned())?.map_err(|error| first_line(error.to_string()))?;
    let mut matcher = Matcher::new(Ok(parser));
    match matcher.compute_mask_or_eos() {
        Err(error) => Err(first_line(error.to_string())),
        Ok(mask) if mask.is_zero() => Err("nothing can satisfy it".to_owned()),
        Ok(_) => Ok(matcher),
    }
}

fn takes(environment: &TokEnv, matcher: &Matcher, instances: &Value) -> Vec<bool> {
    let whole = |text: &str| {
        let tokens = environment.tokenize(text);
        let mut matcher = matcher.deep_clone();
        matcher.validate_tokens(&tokens).is_ok_and(|count| count == tokens.len())
            && matcher.consume_tokens(&tokens).is_ok()
            && matcher.is_accepting().unwrap_or(false)
    };
    instances.as_array().unwrap().iter().map(|text| whole(text.as_str().unwrap())).collect()
}

/// An answer drawn at random, byte by byte; `None` for one that grows too long. `{` by itself ends what cannot go on.
fn sample(environment: &TokEnv, matcher: &Matcher, seed: u64) -> Option<String> {
    let mut matcher = matcher.deep_clone();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % bound
    };
    let mut bytes = Vec::new();
    while bytes.len() < 4000 {
        let mask = matcher.compute_mask_or_eos().ok()?;
        let allowed: Vec<u32> = mask.iter().collect();
        if allowed.is_empty() {
            return Some("{".to_owned());
        }
        // What closes something is likely, so that most answers end.
        let closing: Vec<u32> =
            allowed.iter().copied().filter(|id| *id >= 256 || b"\"]}".contains(&(*id as u8))).collect();
        let choices = if !closing.is_empty() && random(3) == 0 { &closing } else { &allowed };
        let token = choices[random(choices.len())];
        if token == environment.tok_trie().eos_token() {
            return String::from_utf8(bytes).ok();
        }
        bytes.extend(environment.tok_trie().token(token));
        matcher.consume_token(token).ok()?;
    }
    None
}
