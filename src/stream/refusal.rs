//! Why a subscription is refused, as HTTP says it and as a WebSocket says it.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Why a subscription is refused. No text holds a token or says anything of a patient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What was asked for is not understood, or too much of it.
    Malformed(String),
    /// No token, or none of ours.
    Unauthorised,
    /// The token does not reach so far.
    Forbidden(String),
    /// Frames behind the cursor are gone, or it belongs to another count of frames.
    Expired {
        /// The oldest cursor that is good.
        oldest: String,
    },
    /// As many subscribe as may.
    TooMany,
    /// The ledger cannot be read.
    Unavailable,
    /// What is told would not be in the audit log.
    Unaudited,
}

#[derive(Serialize)]
struct Body {
    error: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<String>,
}

impl Refusal {
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::Malformed(text.into())
    }

    /// In words.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Malformed(text) | Self::Forbidden(text) => text.clone(),
            Self::Unauthorised => {
                "a token is wanted: Authorization: Bearer TOKEN (never in the address)".to_owned()
            }
            Self::Expired { .. } => {
                "frames behind this seq are gone, or the ledger was restored: begin again with after=oldest, and look \
                 up what is in between"
                    .to_owned()
            }
            Self::TooMany => "as many subscribe as may (stream.max_connections)".to_owned(),
            Self::Unavailable => "the ledger cannot be read at the moment".to_owned(),
            Self::Unaudited => {
                "nothing is told while the audit log cannot be written".to_owned()
            }
        }
    }

    /// The oldest cursor that is good, where that is told.
    pub(super) fn oldest(&self) -> Option<String> {
        match self {
            Self::Expired { oldest } => Some(oldest.clone()),
            Self::Malformed(_)
            | Self::Unauthorised
            | Self::Forbidden(_)
            | Self::TooMany
            | Self::Unavailable
            | Self::Unaudited => None,
        }
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Unauthorised => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Expired { .. } => (StatusCode::GONE, "gone"),
            Self::TooMany => (StatusCode::SERVICE_UNAVAILABLE, "too_many_connections"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Unaudited => (StatusCode::SERVICE_UNAVAILABLE, "not_audited"),
        }
    }

    /// In one word.
    pub(super) fn word(&self) -> &'static str {
        self.status().1
    }

    /// As much as a close frame has room for.
    pub(super) fn close_reason(&self) -> String {
        match self.oldest() {
            Some(oldest) => format!("gone; oldest={oldest}"),
            None => self.message(),
        }
    }

    /// The code that a WebSocket is closed with.
    pub(super) fn close_code(&self) -> u16 {
        match self {
            Self::Malformed(_) => 4400,
            Self::Unauthorised => 4401,
            Self::Forbidden(_) => 4403,
            Self::Expired { .. } => 4410,
            Self::TooMany => 4429,
            Self::Unavailable | Self::Unaudited => 1013,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = self.status();
        let body = Body {
            error,
            message: self.message(),
            oldest: self.oldest(),
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self == Self::Unauthorised {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Bearer"),
            );
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_tried_again_says_when_and_what_is_in_the_way() {
        for refusal in [Refusal::TooMany, Refusal::Unavailable, Refusal::Unaudited] {
            let response = refusal.into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
        }
        let told = Refusal::Unaudited.message();
        assert!(told.contains("audit log"), "{told}");
    }
}
