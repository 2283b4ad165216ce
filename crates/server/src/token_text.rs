//! Tokens as clients see them in log-probabilities.

use std::collections::BTreeMap;
use std::fmt::Write;

use moesaic_chat::Tokenizer;
use moesaic_protocol::{ChatTokenLogprob, ChatTopLogprob, PromptLogprob, PromptLogprobs};
use moesaic_scheduler::{TokenLogprob, TokenLogprobs};

/// A token's text for chat; its bytes stand beside it, so torn UTF-8 may become U+FFFD.
pub fn lossy(tokenizer: Option<&Tokenizer>, id: u32) -> String {
    match tokenizer {
        Some(tokenizer) => String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned(),
        None => format!("token_id:{id}"),
    }
}

/// A token's text as a key: torn UTF-8 is spelled out, so that different tokens stay different.
pub fn unambiguous(tokenizer: Option<&Tokenizer>, id: u32) -> String {
    let Some(tokenizer) = tokenizer else { return format!("token_id:{id}") };
    let bytes = tokenizer.token_bytes(id);
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut spelled = "bytes:".to_owned();
    for byte in bytes {
        write!(spelled, "\\x{byte:02x}").expect("writing to a string");
    }
    spelled
}

/// Log-probabilities in chat's shape.
pub fn chat_logprob(tokenizer: Option<&Tokenizer>, logprobs: &TokenLogprobs) -> ChatTokenLogprob {
    let bytes = |id: u32| tokenizer.map(|tokenizer| tokenizer.token_bytes(id).to_vec());
    let top = |entry: &TokenLogprob| ChatTopLogprob {
        token: lossy(tokenizer, entry.id),
        logprob: entry.logprob,
        bytes: bytes(entry.id),
    };
    ChatTokenLogprob {
        token: lossy(tokenizer, logprobs.token.id),
        logprob: logprobs.token.logprob,
        bytes: bytes(logprobs.token.id),
        top_logprobs: logprobs.top.iter().map(top).collect(),
    }
}

/// `prompt_logprobs` in vLLM's shape: null for the first token, then a map from id to what is known.
pub fn prompt_logprobs(tokenizer: Option<&Tokenizer>, rows: &[TokenLogprobs], num_top: usize) -> PromptLogprobs {
    let entry = |entry: &TokenLogprob, rank: Option<u32>| PromptLogprob {
        logprob: entry.logprob,
        rank,
        decoded_token: lossy(tokenizer, entry.id),
    };
    let row = |row: &TokenLogprobs| {
        let mut map = BTreeMap::from([(row.token.id.to_string(), entry(&row.token, None))]);
        for (top, rank) in row.top.iter().take(num_top).zip(1..) {
            map.insert(top.id.to_string(), entry(top, Some(rank)));
        }
        Some(map)
    };
    std::iter::once(None).chain(rows.iter().map(row)).collect()
}
