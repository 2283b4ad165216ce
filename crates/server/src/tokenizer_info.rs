//! What is told of the tokenizer, for clients that render and count by themselves.

use moesaic_protocol::TokenizerInfo;
use serde_json::{Map, Value};

/// From `tokenizer_config.json`, without the names of files and with tokens as their texts, as vLLM has it.
/// `template_file`: the chat template where it is a file of its own, which then counts.
pub fn tokenizer_info(config: Option<Value>, template_file: Option<String>) -> TokenizerInfo {
    let config = match config.map(plain) {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("PreTrainedTokenizerFast");
    let chat_template = template_file.or_else(|| config.get("chat_template").and_then(default_template));
    let is_told = |key: &String| {
        !matches!(key.as_str(), "tokenizer_class" | "chat_template" | "vocab_file" | "merges_file" | "auto_map")
    };
    TokenizerInfo {
        tokenizer_class: class.to_owned(),
        chat_template,
        config: config.into_iter().filter(|(key, _)| is_told(key)).collect(),
    }
}

/// There may be a list of named ones.
fn default_template(value: &Value) -> Option<String> {
    let default = |named: &&Value| named["name"] == "default";
    let listed = || value.as_array()?.iter().find(default)?["template"].as_str();
    value.as_str().or_else(listed).map(str::to_owned)
}

/// A token may be written as an object that holds its text.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => match fields.get("content") {
            Some(Value::String(text)) => text.clone().into(),
            _ => Value::Object(fields.into_iter().map(|(key, value)| (key, plain(value))).collect()),
        },
        Value::Array(values) => values.into_iter().map(plain).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_texts_and_files_are_not_named() {
        let token = |text: &str| json!({"__type": "AddedToken", "content": text, "lstrip": false});
        let config = json!({
            "tokenizer_class": "LlamaTokenizerFast", "bos_token": token("<s>"), "eos_token": "</s>", "pad_token": null,
            "vocab_file": "/home/ann/vocab.json", "added_tokens_decoder": {"0": token("<s>")}, "chat_template": "old",
        });
        let told = serde_json::to_value(tokenizer_info(Some(config), Some("{{ new }}".to_owned()))).unwrap();
        let wanted = json!({
            "tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": null,
            "added_tokens_decoder": {"0": "<s>"}, "chat_template": "{{ new }}",
        });
        assert_eq!(told, wanted);
        let listed = json!({"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]});
        assert_eq!(tokenizer_info(Some(listed), None).chat_template.as_deref(), Some("b"));
        let least = serde_json::to_value(tokenizer_info(None, None)).unwrap();
        assert_eq!(least, json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
    }
}
