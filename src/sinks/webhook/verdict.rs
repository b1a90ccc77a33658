//! What a receiver's answer, or the lack of one, says about the delivery. No text of the receiver goes into an
//! outcome: it may repeat health data.

use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::StatusCode;
use reqwest::Response;
use ring::hmac;
use rustls::AlertDescription;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::domain::Outcome;
use crate::format::retry_after;
use crate::http::{BodyError, read_body};
use crate::sinks::address::Refused;

/// The longest answer that is read for its challenge.
const LONGEST_ANSWER: usize = 64 << 10;

#[derive(Deserialize)]
struct Echo {
    challenge: String,
}

/// The outcome of an attempt that was answered.
pub(super) async fn answered(
    response: Response,
    challenge: Option<&SecretString>,
    now: DateTime<Utc>,
) -> Outcome {
    let status = response.status();
    if !status.is_success() {
        return refusal(status, retry_after(response.headers(), now));
    }
    let Some(token) = challenge else {
        return Outcome::Yes;
    };
    let no = |reason: &str| Outcome::No {
        reason: format!("{status}, {reason}"),
        retry_after: None,
    };
    // With a challenge only these two count, as with Fullscript (`fullscript-api.md` §6).
    if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
        return no("expected 200 or 201 with the challenge");
    }
    match read_body(response, LONGEST_ANSWER).await {
        Ok(body) => match serde_json::from_slice::<Echo>(&body) {
            Ok(echo) if is_same(token, &echo.challenge) => Outcome::Yes,
            Ok(_) => no("with another challenge"),
            Err(_) => no("without the challenge"),
        },
        Err(BodyError::TooLong(limit)) => no(&format!("with more than {limit} bytes")),
        Err(BodyError::CutOff(_)) => Outcome::Doubt {
            reason: format!("{status}, and the answer was cut off"),
        },
    }
}

/// The outcome of a status that is not 2xx.
fn refusal(status: StatusCode, retry_after: Option<Duration>) -> Outcome {
    let reason = status.to_string();
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Outcome::Later {
                reason,
                retry_after,
            }
        }
        StatusCode::GONE => Outcome::Gone { reason },
        // A gateway's word: what became of the request behind it, it does not know.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Outcome::Doubt { reason },
        _ => Outcome::No {
            reason,
            retry_after,
        },
    }
}

/// The outcome of an attempt without an answer. Only what failed while connecting is certain not to have arrived.
pub(super) fn unanswered(error: &reqwest::Error) -> Outcome {
    if let Some(refused) = causes(error).find_map(|cause| cause.downcast_ref::<Refused>()) {
        return Outcome::NotSent {
            reason: refused.to_string(),
        };
    }
    if error.is_builder() {
        return Outcome::NotSent {
            reason: "the request cannot be built".to_owned(),
        };
    }
    if error.is_connect() {
        return Outcome::NotSent {
            reason: format!("cannot connect: {}", innermost(error)),
        };
    }
    if let Some(alert) = causes(error).find_map(refused_handshake) {
        return Outcome::NotSent {
            reason: format!("the receiver refused our certificate: {alert:?}"),
        };
    }
    let reason = if error.is_timeout() {
        "no answer in time"
    } else {
        "the connection ended without an answer"
    };
    Outcome::Doubt {
        reason: reason.to_owned(),
    }
}

/// The system's or the TLS library's word, without the URL.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let cause = causes(error).last().map(ToString::to_string);
    cause.unwrap_or_default()
}

/// The alerts by which a receiver refuses a certificate, or that there is none.
const ABOUT_CERTIFICATES: [AlertDescription; 10] = [
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::DecryptError,
    AlertDescription::HandshakeFailure,
];

/// The alert by which a receiver ended the handshake after we thought it over: with TLS 1.3 it judges our certificate
/// when the request may be on its way already. It cannot have read the request, whose keys it makes with the end of the
/// handshake.
fn refused_handshake(cause: &(dyn Error + 'static)) -> Option<AlertDescription> {
    // By its words: HTTP/2 hands on nothing else of what TLS has found.
    let found = cause.to_string();
    let words = |alert| rustls::Error::AlertReceived(alert).to_string();
    let mut alerts = ABOUT_CERTIFICATES.into_iter();
    alerts.find(|alert| words(*alert) == found)
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

/// Whether two tokens are equal, in a time that does not tell where they differ.
fn is_same(expected: &SecretString, found: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, expected.expose_secret().as_bytes());
    let tag = hmac::sign(&key, expected.expose_secret().as_bytes());
    hmac::verify(&key, found.as_bytes(), tag.as_ref()).is_ok()
}
