//! The `Authorization` header of a request to a receiver: `Basic` (RFC 7617) or `Bearer` (RFC 6750). Its value is marked
//! sensitive, so that no library shows it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

/// A secret that no header can carry. Holds no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// A token of something else than visible ASCII.
    #[error("holds no token: wanted are visible ASCII characters, without spaces")]
    Token,
    /// A password with control characters.
    #[error("holds no password: there are control characters in it")]
    Password,
}

/// `Bearer TOKEN`.
pub fn bearer(token: &SecretString) -> Result<HeaderValue, Unsendable> {
    let token = token.expose_secret();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Unsendable::Token);
    }
    sensitive(&Zeroizing::new(format!("Bearer {token}"))).ok_or(Unsendable::Token)
}

/// `Basic base64(USER:PASSWORD)`, in UTF-8.
pub fn basic(user: &str, password: &SecretString) -> Result<HeaderValue, Unsendable> {
    let password = password.expose_secret();
    if password.chars().any(char::is_control) {
        return Err(Unsendable::Password);
    }
    let pair = Zeroizing::new(format!("{user}:{password}"));
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    sensitive(&Zeroizing::new(format!("Basic {}", *encoded))).ok_or(Unsendable::Password)
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfcs_come_out_and_are_not_shown() {
        let basic = basic("Aladdin", &"open sesame".into()).unwrap();
        let utf8 = super::basic("test", &"123£".into()).unwrap();
        let bearer = bearer(&"mF_9.B5f-4.1JqM".into()).unwrap();
        assert_eq!(basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(utf8, "Basic dGVzdDoxMjPCow==");
        assert_eq!(bearer, "Bearer mF_9.B5f-4.1JqM");
        assert_eq!(format!("{basic:?} {bearer:?}"), "Sensitive Sensitive");
    }

    #[test]
    fn what_no_header_can_carry_is_refused() {
        for token in ["", "two words", "tab\t", "a\nb", "ä", "\u{7f}"] {
            assert_eq!(bearer(&token.into()), Err(Unsendable::Token), "{token:?}");
        }
        for password in ["a\nb", "a\r", "\0", "\u{85}"] {
            let refused = basic("user", &password.into());
            assert_eq!(refused, Err(Unsendable::Password), "{password:?}");
        }
    }
}
