//! API keys.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// SHA-256 of a key.
type KeyHash = [u8; 32];

/// The accepted keys, as hashes: comparing hashes takes the same time whatever was sent.
#[derive(Debug, Clone)]
pub struct ApiKeys(Vec<KeyHash>);

/// Who sends a request; requests of different clients never share cached blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ClientKey(pub Option<KeyHash>);

impl ApiKeys {
    /// Hashes the configured keys.
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| Sha256::digest(key).into()).collect())
    }

    /// Whether requests need a key at all.
    pub fn are_required(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whose request it is, if its key is an accepted one or none is needed. `takes_plain_key`: a key may also come in
    /// `x-api-key`, as Anthropic's clients send it.
    pub fn check(&self, headers: &HeaderMap, takes_plain_key: bool) -> Option<ClientKey> {
        if !self.are_required() {
            return Some(ClientKey(None));
        }
        let plain = headers.get("x-api-key").filter(|_| takes_plain_key).and_then(|value| value.to_str().ok());
        let (scheme, key) = match plain {
            Some(key) => ("bearer", key),
            None => headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?,
        };
        let sent: KeyHash = Sha256::digest(key.trim()).into();
        // All keys are compared, all bytes of each: no early exit to measure.
        let matches = self.0.iter().fold(false, |found, known| {
            found | (known.iter().zip(&sent).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0)
        });
        (matches && scheme.eq_ignore_ascii_case("bearer")).then_some(ClientKey(Some(sent)))
    }
}
