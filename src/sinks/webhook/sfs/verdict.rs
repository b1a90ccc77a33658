//! What an EMR's answer says: 200, or 400 with a message. The message is kept for whoever has to decide, and is in no
//! outcome: it may repeat health data.

use chrono::{DateTime, Utc};
use http::StatusCode;
use reqwest::Response;
use serde::Deserialize;

use crate::domain::Outcome;
use crate::format::retry_after;
use crate::http::read_body;

/// The longest answer that is read for its message.
const LONGEST_ANSWER: usize = 64 << 10;
/// So much of a message is kept, in characters.
const LONGEST_MESSAGE: usize = 2000;

/// What is known of all that a post has carried.
pub(super) enum Answer {
    /// It was accepted.
    Taken,
    /// Something in it was refused, and all of it with that: smaller posts find out what.
    Refused {
        /// For logs: the status.
        reason: String,
        /// What the receiver says of it.
        message: Option<String>,
    },
    /// The receiver failed, and may have done a part of it before. If it was of one event, that may be why: those behind
    /// are sent. Of several, the next attempt finds out which ([`super::Alone`]).
    Failed {
        /// For logs: the status.
        reason: String,
    },
    /// How it ended for all of it, and the clinic's next posts wait.
    Ends(Outcome, Arrived),
}

/// Whether a post that was not taken may have had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Certainly not.
    No,
    /// Nobody knows.
    Maybe,
}

/// The answer where there was none.
pub(super) fn unanswered(outcome: Outcome) -> Answer {
    let arrived = if matches!(outcome, Outcome::NotSent { .. }) {
        Arrived::No
    } else {
        Arrived::Maybe
    };
    Answer::Ends(outcome, arrived)
}

#[derive(Deserialize)]
struct Error {
    #[serde(rename = "Message", alias = "message")]
    message: String,
}

pub(super) async fn answered(response: Response, now: DateTime<Utc>) -> Answer {
    let status = response.status();
    let reason = status.to_string();
    match status {
        // 409: it has it already.
        _ if status.is_success() || status == StatusCode::CONFLICT => Answer::Taken,
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::GONE => Answer::Ends(Outcome::ClinicRefused { reason }, Arrived::No),
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE => {
            let later = Outcome::Later {
                reason,
                retry_after: retry_after(response.headers(), now),
            };
            // Only these two are said of what was not even begun; the others also by what stands between, which cannot
            // know.
            let unbegun = [StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
            let arrived = if unbegun.contains(&status) {
                Arrived::No
            } else {
                Arrived::Maybe
            };
            Answer::Ends(later, arrived)
        }
        _ if status.is_client_error() => Answer::Refused {
            reason,
            message: message(response).await,
        },
        // Nobody has answered in time: those behind would wait as long each.
        StatusCode::GATEWAY_TIMEOUT => Answer::Ends(Outcome::Doubt { reason }, Arrived::Maybe),
        _ if status.is_server_error() => Answer::Failed { reason },
        // A redirect, which is not followed: about the address, and not about what it was sent. Some answer so after they
        // have done their work.
        _ => {
            let retry_after = None;
            Answer::Ends(
                Outcome::No {
                    reason,
                    retry_after,
                },
                Arrived::Maybe,
            )
        }
    }
}

async fn message(response: Response) -> Option<String> {
    let body = read_body(response, LONGEST_ANSWER).await.ok()?;
    let error: Error = serde_json::from_slice(&body).ok()?;
    Some(error.message.chars().take(LONGEST_MESSAGE).collect())
}

/// What the end of a post means for those behind it, which were not sent. It says nothing of the receiver, so that one
/// event which ends each turn cannot open the breaker for all; only where the receiver was not reached, neither would they
/// have been.
pub(super) fn of_unsent(ended: &Outcome) -> Outcome {
    let behind =
        |reason: &str| format!("not sent, behind one of its clinic that ended so: {reason}");
    match ended {
        Outcome::Later {
            reason,
            retry_after,
        } => Outcome::Later {
            reason: behind(reason),
            retry_after: *retry_after,
        },
        Outcome::ClinicRefused { reason } => Outcome::ClinicRefused {
            reason: reason.clone(),
        },
        Outcome::NotSent { reason } => Outcome::NotSent {
            reason: behind(reason),
        },
        Outcome::Doubt { reason }
        | Outcome::No { reason, .. }
        | Outcome::Gone { reason }
        | Outcome::Park { reason, .. }
        | Outcome::Skip { reason } => Outcome::Later {
            reason: behind(reason),
            retry_after: None,
        },
        // Never behind one.
        Outcome::Yes => Outcome::Later {
            reason: behind("taken"),
            retry_after: None,
        },
    }
}

/// How an event has ended of which several things were sent: as the worst of them has.
pub(super) fn worst(ends: Vec<Outcome>) -> Option<Outcome> {
    ends.into_iter().max_by_key(|outcome| match outcome {
        Outcome::Skip { .. } => 0,
        Outcome::Yes => 1,
        Outcome::Park { .. } => 2,
        Outcome::NotSent { .. } => 3,
        Outcome::Later { .. } => 4,
        Outcome::Doubt { .. } => 5,
        Outcome::No { .. } => 6,
        Outcome::ClinicRefused { .. } | Outcome::Gone { .. } => 7,
    })
}
