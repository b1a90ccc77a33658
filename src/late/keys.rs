//! The two keys of a request, compared in constant time: how long it takes to be refused tells nothing about a key.

use ring::hmac;
use ring::rand::SystemRandom;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::ClinicName;

/// The keys that are taken. Only digests of them, by a key of this process alone: what is compared has one length, and a
/// digest that leaks is worth nothing. No `Debug`.
pub struct Keys {
    digest: hmac::Key,
    emr: hmac::Tag,
    clinics: Vec<(ClinicName, hmac::Tag)>,
}

impl Keys {
    /// The EMR's key, and each clinic's: those that its sinks send. A clinic may have several.
    ///
    /// # Panics
    ///
    /// Where the system gives no random bytes.
    pub fn new(
        emr: &SecretString,
        clinics: impl IntoIterator<Item = (ClinicName, SecretString)>,
    ) -> Self {
        let random = SystemRandom::new();
        #[allow(
            clippy::expect_used,
            reason = "a machine without random bytes must not listen"
        )]
        let digest =
            hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("the system gives random bytes");
        let tag = |key: &SecretString| hmac::sign(&digest, key.expose_secret().as_bytes());
        let clinics = clinics.into_iter().map(|(name, key)| (name, tag(&key)));
        Self {
            clinics: clinics.collect(),
            emr: tag(emr),
            digest,
        }
    }

    /// The clinics that a request with these keys speaks for; `None` if one of the two is unknown. Every known key is
    /// compared, whichever fits.
    pub(super) fn clinics_of(&self, emr: &[u8], clinic: &[u8]) -> Option<Vec<ClinicName>> {
        let is = |presented: &[u8], known: &hmac::Tag| {
            hmac::verify(&self.digest, presented, known.as_ref()).is_ok()
        };
        let is_emr = is(emr, &self.emr);
        let fitting = self.clinics.iter().filter(|(_, known)| is(clinic, known));
        let clinics: Vec<ClinicName> = fitting.map(|(name, _)| name.clone()).collect();
        (is_emr && !clinics.is_empty()).then_some(clinics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_are_asked_for_and_a_shared_one_speaks_for_all_its_clinics() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let clinic = |name: &str| ClinicName::new(name).unwrap();
        let known = [("oak", "k1"), ("elm", "k2"), ("fir", "k2")];
        let keys = Keys::new(
            &secret("emr"),
            known.map(|(name, key)| (clinic(name), secret(key))),
        );
        let of = |emr: &str, key: &str| keys.clinics_of(emr.as_bytes(), key.as_bytes());
        assert_eq!(of("emr", "k1"), Some(vec![clinic("oak")]));
        assert_eq!(of("emr", "k2"), Some(vec![clinic("elm"), clinic("fir")]));
        for (emr, key) in [
            ("emr", "k3"),
            ("em", "k1"),
            ("", "k1"),
            ("emr", ""),
            ("k1", "emr"),
        ] {
            assert_eq!(of(emr, key), None, "{emr} {key}");
        }
    }
}
