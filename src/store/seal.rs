//! Sealing of what lies on disk: AES-256-GCM, a random nonce per value, the row's identity as associated data, and a
//! key id in front.
//!
//! Without the row's identity somebody who can write the file could move one clinic's token into another clinic's
//! row; without the key id a rotated key could not be told from a damaged row.
#![allow(
    clippy::missing_panics_doc,
    reason = "sealing fails only where the system gives no random bytes, and then nothing must be stored"
)]

use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretBox};

const KEY_ID_LEN: usize = 4;

/// A 32-byte key. No `Debug` of its bytes: `SecretBox` redacts them.
pub struct SealKey(SecretBox<[u8; 32]>);

impl SealKey {
    /// Takes the bytes of a key.
    pub fn new(bytes: SecretBox<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// A new random key.
    pub fn generate() -> Self {
        let mut bytes = Box::new([0; 32]);
        fill_random(bytes.as_mut());
        Self(SecretBox::new(bytes))
    }
}

/// The bytes do not open: another key, another row, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open with the configured key")]
pub struct WrongKey;

/// What was sealed. No `Debug`.
pub struct Opened(Vec<u8>);

impl Opened {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text.
    pub fn into_text(self) -> Result<String, WrongKey> {
        String::from_utf8(self.0).map_err(|_| WrongKey)
    }
}

/// Seals and opens with one key. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    key: Arc<LessSafeKey>,
    id: [u8; KEY_ID_LEN],
    root: Arc<hmac::Key>,
}

impl Sealer {
    /// A sealer for a key.
    pub fn new(key: &SealKey) -> Self {
        let bytes = key.0.expose_secret();
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"fullscript-events key id");
        context.update(bytes);
        let mut id = [0; KEY_ID_LEN];
        id.iter_mut()
            .zip(context.finish().as_ref())
            .for_each(|(to, from)| *to = *from);
        #[allow(clippy::expect_used, reason = "the length is in the type")]
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes 32 bytes");
        Self {
            key: Arc::new(LessSafeKey::new(key)),
            id,
            root: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
        }
    }

    /// A key for keyed hashes, derived from the seal key by a label. One use, one label: what one proves says nothing
    /// about another, and none of them tells the seal key.
    pub fn derived(&self, label: &str) -> hmac::Key {
        let tag = hmac::sign(&self.root, format!("fullscript-events {label}").as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
    }

    /// Seals `plain` for the row that `place` names: key id, nonce, ciphertext and tag.
    pub fn seal(&self, place: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce);
        let mut sealed =
            Vec::with_capacity(KEY_ID_LEN + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        #[allow(clippy::expect_used, reason = "fails only beyond 64 GiB")]
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut body,
            )
            .expect("bodies are far below the cipher's limit");
        sealed.append(&mut body);
        sealed
    }

    /// Opens what was sealed for `place`.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Opened, WrongKey> {
        let (id, rest) = sealed.split_at_checked(KEY_ID_LEN).ok_or(WrongKey)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(WrongKey)?;
        if id != self.id {
            return Err(WrongKey);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| WrongKey)?;
        let mut body = body.to_vec();
        let length = self
            .key
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut body)
            .map_err(|_| WrongKey)?
            .len();
        body.truncate(length);
        Ok(Opened(body))
    }
}

fn fill_random(bytes: &mut [u8]) {
    #[allow(
        clippy::expect_used,
        reason = "a machine without random bytes must not seal"
    )]
    SystemRandom::new()
        .fill(bytes)
        .expect("the system gives random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_in_its_row_and_with_its_key() {
        let sealer = Sealer::new(&SealKey::generate());
        let sealed = sealer.seal("pair/oak/1", b"secret");
        assert_eq!(
            sealer.open("pair/oak/1", &sealed).unwrap().bytes(),
            b"secret"
        );
        assert!(sealer.open("pair/elm/1", &sealed).is_err());
        assert!(
            Sealer::new(&SealKey::generate())
                .open("pair/oak/1", &sealed)
                .is_err()
        );
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(sealer.open("pair/oak/1", &damaged).is_err());
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
    }
}
