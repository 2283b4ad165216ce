//! API keys.

use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};

/// SHA-256 of a key.
type KeyHash = [u8; 32];

/// Before the key in a WebSocket's subprotocol: pages of browsers can set no headers.
const SUBPROTOCOL: &[u8] = b"openai-insecure-api-key.";

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

    /// Whose request it is: any right key counts, in whichever header it comes and beside whichever others.
    /// `None` where keys are required and none of them is right.
    pub fn check(&self, headers: &HeaderMap) -> Option<ClientKey> {
        if !self.are_required() {
            return Some(ClientKey(None));
        }
        let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| bearer(value.as_bytes()));
        let plain = headers.get_all("x-api-key").iter().map(HeaderValue::as_bytes);
        let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let protocols = protocols.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let of_pages = protocols.filter_map(|protocol| protocol.trim_ascii().strip_prefix(SUBPROTOCOL));
        // Every key that was sent is compared with every known one, all bytes of each: no early exit to measure.
        bearer.chain(plain).chain(of_pages).fold(None, |found, key| {
            let sent: KeyHash = Sha256::digest(key.trim_ascii()).into();
            let matches = self.0.iter().fold(false, |found, known| {
                found | (known.iter().zip(&sent).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0)
            });
            found.or(matches.then_some(ClientKey(Some(sent))))
        })
    }
}

/// The key of `Bearer KEY`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}
