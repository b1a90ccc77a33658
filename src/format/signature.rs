//! `Fullscript-Signature`, exactly as the vendor signs its own webhooks (`fullscript-api.md` §6): a receiver written
//! for Fullscript verifies a relayed event with the code it has.

use chrono::{DateTime, Utc};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};

/// The header's name.
pub const HEADER: &str = "fullscript-signature";

/// `t=<unix seconds>,v1=<lowercase hex HMAC-SHA256(secret, t + "." + body)>`. Made anew for each attempt: receivers
/// tolerate five minutes between `t` and their own clock.
pub fn fullscript(secret: &SecretString, at: DateTime<Utc>, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let t = at.timestamp();
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{t}.").as_bytes());
    context.update(body);
    format!("t={t},v1={}", hex::encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"event":{"id":"0f8b6c1e-2a44-4a57-9f3e-6c1f0a9d2b10","type":"patient.created","created_at":"2026-01-01T00:00:00.000Z","clinic_id":"6f1d2c3b-4a5e-4f60-8b7c-9d0e1f2a3b4c","data":{"patient":{"id":"3c2b1a09-8f7e-4d6c-9b5a-4f3e2d1c0b9a","first_name":"Ada","last_name":"Example","email":"ada@example.test","date_of_birth":null,"gender":"female","discount":0,"total_discount":0,"mobile_number":null,"text_message_notification":true}}}}"#;

    #[test]
    fn the_contracts_test_vectors_come_out() {
        let secret = SecretString::from("test_webhook_secret_key");
        let at = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        assert_eq!(BODY.len(), 429);
        assert_eq!(
            fullscript(&secret, at, BODY.as_bytes()),
            "t=1767225600,v1=aa60a8f04098b34b92e6609674a81b11343a8429106a45e8824ad0e6f5313762"
        );
        let wrapped = format!(r#"{{"event_payload":{BODY}}}"#);
        assert_eq!(
            fullscript(&secret, at, wrapped.as_bytes()),
            "t=1767225600,v1=a29db6096fca8176b8e14ee4b8771aa16e33e26bdd5481f0b7ce3bc628cd95f5"
        );
    }
}
