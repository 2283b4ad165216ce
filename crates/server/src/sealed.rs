//! Texts that clients carry for the server: encrypted, so that only a server with the same key reads them, and bound to
//! whom and what they were made for.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::auth::ClientKey;

/// The first byte of a sealed text, so that another form can be told from this one.
const VERSION: u8 = 1;

/// What a sealed text is: one kind is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// What a model thought.
    Thought,
    /// What remains of a conversation.
    Summary,
}

/// Seals and opens texts with one key.
pub struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Debug for Sealer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// `secret`: what servers that open each other's texts share; without one, the key is this process's own.
    ///
    /// # Panics
    /// When the system gives no random bytes.
    pub fn new(secret: Option<&str>) -> Self {
        let random = SystemRandom::new();
        let mut key = [0; 32];
        match secret {
            Some(secret) => key = Sha256::new().chain_update("moesaic sealed\n").chain_update(secret).finalize().into(),
            None => random.fill(&mut key).expect("the system has random bytes"),
        }
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).expect("32 bytes are a key");
        Self { key: LessSafeKey::new(key), random }
    }

    /// For the texts of a client and a model.
    pub fn bound_to(self: &Arc<Self>, client: ClientKey, model: &str) -> Seal {
        Seal { sealer: Arc::clone(self), client, model: model.to_owned() }
    }
}

/// Seals and opens the texts of a client and a model.
#[derive(Debug, Clone)]
pub struct Seal {
    sealer: Arc<Sealer>,
    client: ClientKey,
    model: String,
}

impl Seal {
    /// The text, for the client to carry: 1 byte of version, 12 of nonce, the encrypted text, 16 of tag, in base64.
    ///
    /// # Panics
    /// When the system gives no random bytes.
    pub fn seal(&self, kind: Sealed, text: &str) -> String {
        let mut nonce = [0; NONCE_LEN];
        self.sealer.random.fill(&mut nonce).expect("the system has random bytes");
        let mut sealed = text.as_bytes().to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let key = &self.sealer.key;
        key.seal_in_place_append_tag(nonce_used, self.bound(kind), &mut sealed)
            .expect("a request's text is not too long");
        URL_SAFE_NO_PAD.encode([&[VERSION][..], &nonce, &sealed].concat())
    }

    /// The text again; `None` where it was changed, or sealed with another key, as another kind or for others.
    pub fn open(&self, kind: Sealed, sealed: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.strip_prefix(&[VERSION])?.split_at_checked(NONCE_LEN)?;
        let (nonce, mut sealed) = (Nonce::try_assume_unique_for_key(nonce).ok()?, sealed.to_vec());
        let text = self.sealer.key.open_in_place(nonce, self.bound(kind), &mut sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn bound(&self, kind: Sealed) -> Aad<Vec<u8>> {
        let mut bound = format!("{kind:?}\n{}\n", self.model).into_bytes();
        bound.extend(self.client.0.into_iter().flatten());
        Aad::from(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_client_model_and_kind_open() {
        let (clients, secret) = ([ClientKey(None), ClientKey(Some([7; 32]))], "0123456789abcdef");
        let sealer = Arc::new(Sealer::new(Some(secret)));
        let seal = sealer.bound_to(clients[1], "m");
        let sealed = seal.seal(Sealed::Thought, "Größe ✓");
        assert_ne!(sealed, seal.seal(Sealed::Thought, "Größe ✓"), "equal texts are not seen to be equal");
        let opens = |secret, client, model, kind| {
            let other = Arc::new(Sealer::new(secret)).bound_to(client, model);
            other.open(kind, &sealed)
        };
        assert_eq!(opens(Some(secret), clients[1], "m", Sealed::Thought).as_deref(), Some("Größe ✓"));
        assert_eq!(opens(Some("another secret"), clients[1], "m", Sealed::Thought), None);
        assert_eq!(opens(None, clients[1], "m", Sealed::Thought), None);
        assert_eq!(opens(Some(secret), clients[0], "m", Sealed::Thought), None);
        assert_eq!(opens(Some(secret), clients[1], "n", Sealed::Thought), None);
        assert_eq!(opens(Some(secret), clients[1], "m", Sealed::Summary), None);
    }

    #[test]
    fn what_is_not_whole_is_not_opened() {
        let seal = Arc::new(Sealer::new(None)).bound_to(ClientKey(None), "m");
        let sealed = URL_SAFE_NO_PAD.decode(seal.seal(Sealed::Summary, "")).unwrap();
        assert_eq!(seal.open(Sealed::Summary, &URL_SAFE_NO_PAD.encode(&sealed)).as_deref(), Some(""));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(seal.open(Sealed::Summary, &URL_SAFE_NO_PAD.encode(changed)), None, "byte {at}");
            assert_eq!(seal.open(Sealed::Summary, &URL_SAFE_NO_PAD.encode(&sealed[..at])), None, "{at} bytes");
        }
        for text in ["", "gAAAAA", "=", "é", "AQ"] {
            assert_eq!(seal.open(Sealed::Summary, text), None, "{text:?}");
        }
    }
}
