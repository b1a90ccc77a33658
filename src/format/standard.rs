//! Standard Webhooks 1.0 (<https://www.standardwebhooks.com>): the three headers and both kinds of key, so that a
//! receiver verifies an event with a library that it can get anywhere.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use chrono::{DateTime, Utc};
use ring::signature::Ed25519KeyPair;
use ring::{digest, hmac};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::{DeliveryId, EventId};

/// The header with the message's id, [`id`].
pub const ID: &str = "webhook-id";
/// The header with the time of the attempt, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, [`signatures`].
pub const SIGNATURE: &str = "webhook-signature";

/// The bytes that a symmetric key may have.
const SYMMETRIC: std::ops::RangeInclusive<usize> = 24..=64;
/// The bytes of an ed25519 seed; its public key, which may follow, has as many.
const SEED: usize = 32;

/// The official libraries take a secret with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a secret is no key. No variant holds any part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    /// The text cannot be decoded.
    #[error("its text is not base64")]
    NotBase64,
    /// Too short to be safe, or longer than the specification allows.
    #[error("it has {0} bytes")]
    Symmetric(usize),
    /// Neither a seed nor a seed and its public key.
    #[error("it has {0} bytes behind whsk_")]
    Asymmetric(usize),
    /// The two halves do not belong together.
    #[error("its public half does not belong to its seed")]
    Halves,
    /// The half that the receiver has.
    #[error("it is the public key (whpk_), which only verifies")]
    Public,
}

/// What [`Key::parse`] wants, for messages.
pub const WANTED: &str = "whsec_ and base64 of 24 to 64 bytes, or whsk_ and base64 of an ed25519 seed (32 bytes, or 64 \
     with the public key behind it)";

/// A key that signs. Has no `Debug`.
pub struct Key(Kind);

enum Kind {
    Symmetric(hmac::Key),
    Asymmetric(Ed25519KeyPair),
}

impl Key {
    /// Reads a secret: `whsec_…` or bare base64 for HMAC-SHA256, `whsk_…` for ed25519.
    pub fn parse(secret: &SecretString) -> Result<Self, NotAKey> {
        let text = secret.expose_secret().trim();
        if text.starts_with("whpk_") {
            return Err(NotAKey::Public);
        }
        if let Some(text) = text.strip_prefix("whsk_") {
            return asymmetric(&decode(text)?).map(|pair| Self(Kind::Asymmetric(pair)));
        }
        let bytes = decode(text.strip_prefix("whsec_").unwrap_or(text))?;
        if !SYMMETRIC.contains(&bytes.len()) {
            return Err(NotAKey::Symmetric(bytes.len()));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        Ok(Self(Kind::Symmetric(key)))
    }

    fn sign(&self, content: &[u8]) -> String {
        let encode = |bytes: &[u8]| general_purpose::STANDARD.encode(bytes);
        match &self.0 {
            Kind::Symmetric(key) => format!("v1,{}", encode(hmac::sign(key, content).as_ref())),
            Kind::Asymmetric(pair) => format!("v1a,{}", encode(pair.sign(content).as_ref())),
        }
    }
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, NotAKey> {
    // Not the decoder's own words: they name the character at fault, which is a part of the secret.
    let decoded = BASE64.decode(text).map_err(|_| NotAKey::NotBase64)?;
    Ok(Zeroizing::new(decoded))
}

fn asymmetric(bytes: &[u8]) -> Result<Ed25519KeyPair, NotAKey> {
    let size = |_| NotAKey::Asymmetric(bytes.len());
    match bytes.split_at_checked(SEED) {
        Some((seed, public)) if public.len() == SEED => {
            Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| NotAKey::Halves)
        }
        _ => Ed25519KeyPair::from_seed_unchecked(bytes).map_err(size),
    }
}

/// The id of a message: the same on every attempt of a delivery, another one when a person sends the event again.
/// Receivers drop an id that they have seen, and deliveries are counted from 1 in every state directory. So the number
/// does not stand alone: without the event in it, a second instance or a new state directory would lose events there.
/// No dot can be in it, since dots part what is signed.
pub fn id(delivery: DeliveryId, event: &EventId) -> String {
    let hash = digest::digest(&digest::SHA256, event.as_str().as_bytes());
    let mut short = hex::encode(hash);
    short.truncate(16);
    format!("msg_{delivery}_{short}")
}

/// `v1,<base64>` or `v1a,<base64>` of `{id}.{timestamp}.{body}` for each key, in their order, with spaces between. Made
/// anew for each attempt: receivers tolerate five minutes between the timestamp and their own clock.
pub fn signatures(keys: &[Key], id: &str, at: DateTime<Utc>, body: &[u8]) -> String {
    let mut content = format!("{id}.{}.", at.timestamp()).into_bytes();
    content.extend_from_slice(body);
    let signatures: Vec<_> = keys.iter().map(|key| key.sign(&content)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, KeyPair as _, UnparsedPublicKey};

    use super::*;

    /// The example of the official libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(1_614_265_330, 0).unwrap()
    }

    fn key(text: &str) -> Key {
        Key::parse(&text.into()).ok().unwrap()
    }

    fn encoded(bytes: &[u8]) -> String {
        general_purpose::STANDARD.encode(bytes)
    }

    /// A `whsk_` of this seed, and its public key.
    fn pair(seed: [u8; 32]) -> (String, Vec<u8>) {
        let public = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public = public.public_key().as_ref().to_vec();
        (format!("whsk_{}", encoded(&seed)), public)
    }

    #[test]
    fn the_official_vector_comes_out_with_the_prefix_and_without() {
        for secret in [SECRET, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert_eq!(signatures(&[key(secret)], MESSAGE, at(), BODY), SIGNED);
        }
    }

    #[test]
    fn padding_is_taken_or_left_and_the_end_of_a_line_does_not_count() {
        let padded = format!("whsec_{}", encoded(&[7; 32]));
        let expected = signatures(&[key(&padded)], MESSAGE, at(), BODY);
        for secret in [padded.trim_end_matches('='), &format!("{padded} \t")] {
            assert_eq!(signatures(&[key(secret)], MESSAGE, at(), BODY), expected);
        }
    }

    #[test]
    fn an_ed25519_signature_verifies_with_the_public_key_alone() {
        let (secret, public) = pair([7; 32]);
        let both = [[7; 32].as_slice(), &public].concat();
        for secret in [secret, format!("whsk_{}", encoded(&both))] {
            let signature = signatures(&[key(&secret)], MESSAGE, at(), BODY);
            let signature = signature.strip_prefix("v1a,").unwrap();
            let signature = general_purpose::STANDARD.decode(signature).unwrap();
            let content = [format!("{MESSAGE}.1614265330.").as_bytes(), BODY].concat();
            let public = UnparsedPublicKey::new(&ED25519, &public);
            public.verify(&content, &signature).unwrap();
        }
    }

    #[test]
    fn during_a_rotation_each_key_signs_the_current_one_first() {
        let (current, _) = pair([7; 32]);
        let alone = signatures(&[key(&current)], MESSAGE, at(), BODY);
        assert_eq!(
            signatures(&[key(&current), key(SECRET)], MESSAGE, at(), BODY),
            format!("{alone} {SIGNED}")
        );
    }

    #[test]
    fn what_is_no_key_is_refused_without_a_word_of_it() {
        let (_, other) = pair([8; 32]);
        let halves = [[7; 32].as_slice(), &other].concat();
        for (text, expected) in [
            ("whsec_s3cr3t!".to_owned(), NotAKey::NotBase64),
            ("s3cr3t s3cr3t".to_owned(), NotAKey::NotBase64),
            ("whsec_".to_owned(), NotAKey::Symmetric(0)),
            (encoded(&[7; 23]), NotAKey::Symmetric(23)),
            (
                format!("whsec_{}", encoded(&[7; 65])),
                NotAKey::Symmetric(65),
            ),
            ("whsk_s3cr3t!".to_owned(), NotAKey::NotBase64),
            (
                format!("whsk_{}", encoded(&[7; 31])),
                NotAKey::Asymmetric(31),
            ),
            (
                format!("whsk_{}", encoded(&[7; 33])),
                NotAKey::Asymmetric(33),
            ),
            (
                format!("whsk_{}", encoded(&[7; 65])),
                NotAKey::Asymmetric(65),
            ),
            (format!("whsk_{}", encoded(&halves)), NotAKey::Halves),
            (format!("whpk_{}", encoded(&other)), NotAKey::Public),
        ] {
            let refused = Key::parse(&text.as_str().into()).err().unwrap();
            assert_eq!(refused, expected);
            let said = format!("{refused} {refused:?}");
            assert!(!said.contains("s3cr3t"), "{said}");
        }
        for size in [24, 64] {
            key(&encoded(&vec![7; size]));
        }
    }

    #[test]
    fn an_id_belongs_to_one_delivery_of_one_event_and_has_no_dot() {
        let event = |id: &str| EventId::new(id).unwrap();
        let of = |delivery, event_id| id(DeliveryId(delivery), &event(event_id));
        assert_eq!(of(7, "e-7"), "msg_7_9adf2aa09cfc8180");
        assert_ne!(of(7, "e-7"), of(8, "e-7"));
        assert_ne!(of(7, "e-7"), of(7, "e-8"));
        assert!(!of(7, "e.7").contains('.'));
    }
}
