//! Who asks: bearer tokens, compared in a time that tells nothing of them.

use axum::http::{HeaderMap, header};
use ring::hmac;
use ring::rand::SystemRandom;
use secrecy::{ExposeSecret, SecretString};

use super::refusal::Refusal;
use super::subscribe::Grant;

/// A shorter one could be guessed.
const SHORTEST: usize = 20;

/// Why the tokens cannot be used. None of the texts holds one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTokens {
    /// It could be guessed.
    #[error(
        "stream: the token of {0} is shorter than {SHORTEST} characters: make one with `openssl rand -hex 32`"
    )]
    Short(String),
    /// No header can carry it.
    #[error("stream: the token of {0} has characters other than printable ASCII without spaces")]
    Unsendable(String),
    /// Whose it is would be unknown.
    #[error("stream: {0} and {1} have the same token: give each its own")]
    Same(String, String),
    /// The system gives no random bytes.
    #[error("stream: the system gives no random bytes")]
    NoRandom,
}

/// The tokens and what they grant. Keeps no token: only its MAC under a key that this process has made.
pub(super) struct Tokens {
    key: hmac::Key,
    known: Vec<(hmac::Tag, Grant)>,
}

impl Tokens {
    pub(super) fn new(tokens: Vec<(SecretString, Grant)>) -> Result<Self, BadTokens> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| BadTokens::NoRandom)?;
        let mut known: Vec<(hmac::Tag, Grant)> = Vec::new();
        for (token, grant) in tokens {
            let token = token.expose_secret().as_bytes();
            let name = || grant.name.clone();
            if token.len() < SHORTEST {
                return Err(BadTokens::Short(name()));
            }
            if !token.iter().all(u8::is_ascii_graphic) {
                return Err(BadTokens::Unsendable(name()));
            }
            if let Some((_, other)) = known.iter().find(|(tag, _)| is(&key, token, tag)) {
                return Err(BadTokens::Same(other.name.clone(), name()));
            }
            known.push((hmac::sign(&key, token), grant));
        }
        Ok(Self { key, known })
    }

    /// What the bearer of a request may see.
    pub(super) fn of(&self, headers: &HeaderMap) -> Result<&Grant, Refusal> {
        let header = headers.get(header::AUTHORIZATION);
        let (scheme, token) = header
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .ok_or(Refusal::Unauthorised)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::Unauthorised);
        }
        let token = token.trim().as_bytes();
        // All are looked at, so that the time does not tell which of them it is like.
        let matching = self
            .known
            .iter()
            .filter(|(tag, _)| is(&self.key, token, tag));
        let found = matching.fold(None, |_, (_, grant)| Some(grant));
        found.ok_or(Refusal::Unauthorised)
    }
}

/// Compares MACs in constant time; the MAC of what was sent tells nothing of the token.
fn is(key: &hmac::Key, token: &[u8], tag: &hmac::Tag) -> bool {
    hmac::verify(key, token, tag.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClinicSelection, EntitySelection, Phi};

    fn tokens(tokens: &[(&str, &str)]) -> Result<Tokens, BadTokens> {
        let of = |(name, token): &(&str, &str)| {
            let grant = Grant {
                name: (*name).to_owned(),
                clinics: ClinicSelection::All,
                entities: EntitySelection::All,
                phi: Phi::Ids,
            };
            (SecretString::from(*token), grant)
        };
        Tokens::new(tokens.iter().map(of).collect())
    }

    #[test]
    fn a_bearer_is_known_by_the_whole_token_in_the_header_alone() {
        let tokens = tokens(&[
            ("a", "aaaaaaaaaaaaaaaaaaaaaaaa"),
            ("b", "bbbbbbbbbbbbbbbbbbbbbbbb"),
        ])
        .unwrap();
        for (header, name) in [
            ("Bearer aaaaaaaaaaaaaaaaaaaaaaaa", Some("a")),
            ("bearer bbbbbbbbbbbbbbbbbbbbbbbb", Some("b")),
            ("Bearer aaaaaaaaaaaaaaaaaaaaaaa", None),
            ("Bearer aaaaaaaaaaaaaaaaaaaaaaaaa", None),
            ("Bearer ", None),
            ("Basic aaaaaaaaaaaaaaaaaaaaaaaa", None),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, header.parse().unwrap());
            let found = tokens.of(&headers).map(|grant| grant.name.as_str());
            assert_eq!(found.ok(), name, "{header}");
        }
        assert!(tokens.of(&HeaderMap::new()).is_err());
    }

    #[test]
    fn tokens_that_could_be_guessed_or_mistaken_are_refused() {
        let refused = |list: &[(&str, &str)]| tokens(list).err();
        assert_eq!(
            refused(&[("a", "short")]),
            Some(BadTokens::Short("a".to_owned()))
        );
        assert_eq!(
            refused(&[("a", "a token with spaces in it")]),
            Some(BadTokens::Unsendable("a".to_owned()))
        );
        let same = "cccccccccccccccccccccccc";
        assert_eq!(
            refused(&[("a", same), ("b", same)]),
            Some(BadTokens::Same("a".to_owned(), "b".to_owned()))
        );
    }
}
