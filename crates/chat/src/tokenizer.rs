//! A checkpoint's tokenizer: text to ids, and ids to bytes.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use thiserror::Error;

/// Why a tokenizer was refused or a text could not be encoded.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file is broken.
    #[error("{file}: {message}")]
    File {
        /// Which file.
        file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The tokenizer library refused a text.
    #[error("the text could not be tokenised: {0}")]
    Encode(String),
}

/// Text to ids and back. Immutable, shared by all requests.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of each token; `None` for ids without a token.
    bytes: Vec<Option<Box<[u8]>>>,
    special: HashSet<u32>,
    /// Added tokens, the special ones among them.
    control: HashSet<u32>,
    /// Bytes of the longest token; `None` where a normaliser or a token that swallows white space
    /// around it can make a text shorter than its tokens' bytes.
    longest_token: Option<usize>,
    bos: Option<String>,
    eos: Option<String>,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    adds_bos: bool,
    chat_templates: HashMap<String, String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} ids)", self.bytes.len())
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where there is one, `tokenizer_config.json`, for a model with
    /// `vocab_size` embeddings.
    ///
    /// # Errors
    /// When a file is broken, the tokenizer is not a byte-level one or has ids that the model has not.
    pub fn from_files(tokenizer: &[u8], config: Option<&Value>, vocab_size: usize) -> Result<Self, TokenizerError> {
        let broken = |message: String| TokenizerError::File { file: "tokenizer.json", message };
        let inner = tokenizers::Tokenizer::from_bytes(tokenizer).map_err(|error| broken(error.to_string()))?;
        let vocabulary = inner.get_vocab(true);
        if let Some(largest) = vocabulary.values().max().filter(|id| **id as usize >= vocab_size) {
            let last = vocab_size.saturating_sub(1);
            return Err(broken(format!(
                "it has token id {largest}, but the model's vocabulary ends at {last}: they do not belong together"
            )));
        }
        if !matches!(inner.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_))) {
            return Err(broken("its decoder is not ByteLevel; other tokenizers are not supported yet".to_owned()));
        }
        let special =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        let swallows = inner.get_added_tokens_decoder().values().any(|token| token.lstrip || token.rstrip);
        let bytes = token_bytes(vocabulary);
        let longest = bytes.iter().flatten().map(|bytes| bytes.len()).max().filter(|length| *length > 0);
        let token_of = |key: &str| config.and_then(|config| token_text(&config[key]));
        let (bos, eos) = (token_of("bos_token"), token_of("eos_token"));
        let id_of = |token: &Option<String>| token.as_ref().and_then(|token| inner.token_to_id(token));
        Ok(Self {
            longest_token: longest.filter(|_| !swallows && is_identity(inner.get_normalizer())),
            bytes,
            special,
            control: inner.get_added_tokens_decoder().into_keys().collect(),
            bos_id: id_of(&bos),
            eos_id: id_of(&eos),
            adds_bos: config.is_some_and(|config| config["add_bos_token"].as_bool() == Some(true)),
            chat_templates: config.map(|config| templates(&config["chat_template"])).unwrap_or_default(),
            bos,
            eos,
            inner,
        })
    }

    /// No encoding of a text of so many bytes is shorter than this; 0 where nothing is certain.
    pub fn least_tokens(&self, num_bytes: usize) -> usize {
        self.longest_token.map_or(0, |longest| num_bytes.div_ceil(longest))
    }

    /// The beginning-of-sequence token's text, for templates.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    /// The end-of-sequence token's text, for templates.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    /// The end-of-sequence token's id.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// A chat template of tokenizer_config.json by its name; one without a name is `default`.
    pub fn chat_template(&self, name: &str) -> Option<&str> {
        self.chat_templates.get(name).map(String::as_str)
    }

    /// Ids of a text. Special tokens spelled out in it become their ids; none are added.
    ///
    /// # Errors
    /// When the tokenizer library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a raw prompt: the beginning-of-sequence token first, where the checkpoint asks for
    /// it (`add_bos_token`) or the caller decides so.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str, add_special_tokens: Option<bool>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids: Vec<u32> = self.added_to_prompt(add_special_tokens).into_iter().collect();
        ids.extend(self.encode(text)?);
        Ok(ids)
    }

    /// The token that [`Self::encode_prompt`] puts first, if any.
    pub fn added_to_prompt(&self, add_special_tokens: Option<bool>) -> Option<u32> {
        self.bos_id.filter(|_| add_special_tokens.unwrap_or(true) && self.adds_bos)
    }

    /// Text of ids; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .filter(|id| !(skip_special_tokens && self.is_special(**id)))
            .flat_map(|id| self.token_bytes(*id))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The id of an added token, special or not: one that ordinary text is never cut into.
    pub fn control_id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text).filter(|id| self.control.contains(id))
    }

    /// Whether a token is an added one.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.contains(&id)
    }

    /// Number of ids, those without a token included.
    pub fn num_ids(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a token is one of control, left out of texts by default.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// A token's bytes; none for an id without a token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).and_then(Option::as_deref).unwrap_or_default()
    }
}

/// Whether texts pass the normaliser unchanged.
fn is_identity(normalizer: Option<&tokenizers::NormalizerWrapper>) -> bool {
    match normalizer {
        None => true,
        Some(tokenizers::NormalizerWrapper::Sequence(sequence)) => sequence.as_ref().is_empty(),
        Some(_) => false,
    }
}

/// A token in tokenizer_config.json: a string, or an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

/// `chat_template`: one template, or a list of named ones.
fn templates(value: &Value) -> HashMap<String, String> {
    if let Some(only) = value.as_str() {
        return HashMap::from([("default".to_owned(), only.to_owned())]);
    }
    let named =
        |template: &Value| Some((template["name"].as_str()?.to_owned(), template["template"].as_str()?.to_owned()));
    value.as_array().into_iter().flatten().filter_map(named).collect()
}

fn token_bytes(vocabulary: HashMap<String, u32>) -> Vec<Option<Box<[u8]>>> {
    let alphabet = byte_alphabet();
    let num_ids = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
    let mut bytes = vec![None; num_ids];
    for (token, id) in vocabulary {
        // A token with any character outside the alphabet stands for itself (added tokens).
        let mapped: Option<Vec<u8>> = token.chars().map(|c| alphabet.get(&c).copied()).collect();
        bytes[id as usize] = Some(mapped.unwrap_or_else(|| token.into_bytes()).into());
    }
    bytes
}

/// Byte-level BPE writes every byte as a printable character: printable Latin-1 as itself, the
/// rest as U+0100 onwards in byte order (GPT-2).
fn byte_alphabet() -> HashMap<char, u8> {
    let is_plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let plain = (0..=u8::MAX).filter(is_plain).map(|byte| (char::from(byte), byte));
    let shifted = ('\u{100}'..).zip((0..=u8::MAX).filter(|byte| !is_plain(byte)));
    plain.chain(shifted).collect()
}
