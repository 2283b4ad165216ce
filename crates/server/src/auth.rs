//! API keys.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::routes::messages;
use crate::state::AppState;

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

    /// `takes_plain_key`: a key may also come in `x-api-key`, as Anthropic's clients send it.
    fn check(&self, headers: &HeaderMap, takes_plain_key: bool) -> Option<ClientKey> {
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

/// Lets requests with an accepted key through and notes whose they are.
pub async fn layer(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    match state.api_keys.check(request.headers(), request.uri().path().starts_with(messages::PATH)) {
        Some(key) => {
            request.extensions_mut().insert(key);
            next.run(request).await
        }
        None => ApiError::unauthorized().into_response(),
    }
}
