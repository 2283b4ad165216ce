//! What is fuzzed. Each target says by a panic that something is wrong.

use std::sync::{Arc, LazyLock};

use candle_core::DType;
use moesaic_chat::{
    AnswerFormat, CallRules, CallableTool, ChatTemplate, Dialect, GrammarCompiler, InputDecoder, InputGrammar, Markers,
    Otherwise, OutputConstraint, OutputRules, PromptOptions, PromptRenderer, Start, Tokenizer,
};
use moesaic_model::{Architecture, Checkpoint, Device, LoadOptions, Progress, Quantization, Weights};
use moesaic_protocol::{
    ChatRequest, CompletionRequest, DetokenizeRequest, FieldError, FromJson, MessagesRequest, ResponsesRequest,
    TokenizeRequest,
};
use moesaic_server::config::RawConfig;
use serde_json::{Value, json};

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let config = serde_json::from_slice(file("tokenizer_config.json")).unwrap();
    Arc::new(Tokenizer::from_files(file("tokenizer.json"), Some(&config), 1536).unwrap())
});

fn file(name: &str) -> &'static [u8] {
    moesaic_demo_model::FILES.iter().find(|(known, _)| *known == name).unwrap().1
}

/// A body is a request, or the error says what is wrong.
pub fn requests(body: &[u8]) {
    let names_something = |error: FieldError| assert!(!error.message.is_empty());
    let _ = CompletionRequest::from_json(body).map_err(names_something);
    let _ = MessagesRequest::from_json(body).map_err(names_something);
    let _ = ResponsesRequest::from_json(body).map_err(names_something);
    let _ = TokenizeRequest::from_json(body).map_err(names_something);
    let _ = DetokenizeRequest::from_json(body).map_err(names_something);
    if let Ok(chat) = ChatRequest::from_json(body).map_err(names_something) {
        let renderer =
            PromptRenderer::new(std::str::from_utf8(file("chat_template.jinja")).unwrap(), &TOKENIZER).unwrap();
        let tools = chat.tools.unwrap_or_default();
        let options = PromptOptions { add_generation_prompt: true, ..PromptOptions::default() };
        let _ = renderer.render(&chat.messages, &tools, &options);
    }
}

/// A checkpoint's config.json describes a model, or the error says why not.
pub fn checkpoint_config(text: &[u8]) {
    let Ok(config) = serde_json::from_slice::<Value>(text) else { return };
    let _ = Architecture::natural_dtype(&config);
    if let Ok(architecture) = Architecture::from_config(&config) {
        let spec = architecture.kv_cache_spec();
        assert!(spec.bytes_per_token(DType::F32) > 0 && architecture.vocab_size() > 0);
    }
}

/// A weights file is read within its bounds.
pub fn safetensors(file: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let checkpoint = Checkpoint::folder(folder.path()).unwrap();
    let options =
        LoadOptions { device: Device::Cpu, dtype: DType::F32, quantization: Quantization::None, max_model_len: 256 };
    if let Ok(weights) = Weights::open(&checkpoint, &options, Some((128, 128)), Arc::new(Progress::default())) {
        for (name, shape) in [("a", [2, 3].as_slice()), ("b", &[4]), ("w", &[2, 2]), ("a", &[1 << 40, 1 << 40])] {
            let _ = weights.tensor(name, shape);
        }
    }
}

/// Our own configuration.
pub fn server_config(text: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    if let Err(error) = RawConfig::from_file(file.path()).and_then(RawConfig::resolve) {
        assert!(!error.0.is_empty());
    }
}

/// A checkpoint's template is compiled and rendered with bounded effort.
pub fn chat_template(source: &[u8]) {
    let Ok(source) = std::str::from_utf8(source) else { return };
    if let Ok(template) = ChatTemplate::compile(source) {
        let messages = json!([{"role": "system", "content": "x"}, {"role": "user", "content": "a\"b"}]);
        let _ = template.render(json!({"messages": messages, "add_generation_prompt": true, "bos_token": "<s>"}));
    }
}

const EOS: u32 = 1;

static COMPILER: LazyLock<GrammarCompiler> =
    LazyLock::new(|| GrammarCompiler::new(Arc::clone(&TOKENIZER), &[EOS]).unwrap());

/// A request's schema becomes a grammar or an error.
pub fn json_schema(text: &[u8]) {
    let Ok(schema) = serde_json::from_slice::<Value>(text) else { return };
    let _ = follow(&AnswerFormat::JsonSchema(schema), 0);
}

/// A custom tool's grammar is written in JSON's spelling, or refused; its text is found in any arguments.
pub fn tool_input(source: &[u8]) {
    let source = String::from_utf8_lossy(source).into_owned();
    let mut decoder = InputDecoder::default();
    let text = decoder.push(&source) + &decoder.finish();
    assert!(text.len() <= 3 * source.len(), "{text}");
    for input in [InputGrammar::Lark(source.clone()), InputGrammar::Regex(source)] {
        let parameters = json!({});
        let tool = CallableTool { name: "f".to_owned(), parameters, strict: true, input: Some(input) };
        let rules = CallRules { tools: vec![tool], otherwise: Otherwise::Nothing, parallel: false };
        let written = AnswerFormat::Calls(rules).lark(Dialect::DeepSeekV31, &Markers::default());
        assert!(written.map_or(1, |rules| rules.len()) > 0);
    }
}

/// How a schema fared.
#[derive(Debug, PartialEq)]
pub enum Fate {
    /// Refused.
    Refused,
    /// Taken; answers do not end soon.
    Taken,
    /// Taken, with a whole answer.
    Answered(String),
}

/// A format becomes a grammar, in this process, and an answer is drawn from it.
pub fn follow(format: &AnswerFormat, seed: usize) -> Fate {
    let markers = Markers::new(Dialect::DeepSeekV31, &TOKENIZER);
    let Ok(grammar) = COMPILER.compile(format, Dialect::DeepSeekV31, &markers) else { return Fate::Refused };
    let rules = OutputRules { grammar: Some(grammar), ..OutputRules::default() };
    let mut answer = OutputConstraint::new(rules, Start::Content, 1536, &[EOS], Arc::new(markers));
    let mut bytes = Vec::new();
    // Most answers only begin.
    for step in 0..if seed.is_multiple_of(8) { 80 } else { 6 } {
        let mask = answer.mask().expect("a grammar forbids something");
        let allowed: Vec<u32> = (0..1536).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        if allowed.is_empty() {
            return Fate::Taken;
        }
        // What closes something is likely, so that answers end.
        let closes =
            |id: &u32| *id == EOS || TOKENIZER.token_bytes(*id).last().is_some_and(|byte| b"\"]}".contains(byte));
        let closing = allowed.iter().copied().find(closes).filter(|_| !(step + seed).is_multiple_of(3));
        let token = closing.unwrap_or(allowed[(seed + step * 7) % allowed.len()]);
        if token == EOS {
            return Fate::Answered(String::from_utf8(bytes).unwrap());
        }
        bytes.extend_from_slice(TOKENIZER.token_bytes(token));
        answer.accept(token);
    }
    Fate::Taken
}

/// Whether an answer is valid by its schema; `None` where the validator does not read the schema.
pub fn is_valid(schema: &Value, answer: &str) -> Option<bool> {
    // What it reads as another resource or dialect is none of a request's; it follows references for ever.
    let text = schema.to_string();
    if ["$ref", "$id", "$schema", "$anchor", "$dynamicRef", "\"dependencies\"", "additionalItems"]
        .iter()
        .any(|key| text.contains(key))
    {
        return None;
    }
    // It divides in f64, which large numbers do not survive.
    let has_long_number = answer.split(|character: char| !character.is_ascii_digit()).any(|digits| digits.len() > 15);
    if text.contains("multipleOf") && has_long_number {
        return None;
    }
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("urn:s", schema.clone()).ok()?;
    let index = compiler.compile("urn:s", &mut schemas).ok()?;
    let value: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{answer}: {error}"));
    Some(schemas.validate(&value, index).is_ok())
}
