//! Answers, whole and broken.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::watch;

use super::faults::{ErrorBody, Fault};

/// The length of a body that never seems to end.
const ENDLESS: usize = 10 << 30;
const CHUNK: usize = 64 << 10;
const HTML: &str = "<!DOCTYPE html><html><head><title>Simulated failure</title></head><body><h1>We're sorry, but \
                    something went wrong.</h1></body></html>";

/// JSON that is already text.
pub(super) fn json_text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// JSON.
pub(super) fn json_value(status: StatusCode, value: &serde_json::Value) -> Response {
    json_text(status, value.to_string())
}

/// A page.
pub(super) fn html(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

/// An answer that is no success.
pub(super) fn error(status: StatusCode, kind: ErrorBody, message: &str) -> Response {
    match kind {
        ErrorBody::Json if status == StatusCode::NOT_FOUND => not_found(),
        ErrorBody::Json => json_value(status, &json!({ "error": message })),
        ErrorBody::Html => html(status, HTML),
        ErrorBody::Empty => status.into_response(),
    }
}

/// What an unrouted path answers, and a missing event.
pub(super) fn not_found() -> Response {
    json_value(
        StatusCode::NOT_FOUND,
        &json!({ "status": 404, "error": "Not Found" }),
    )
}

/// The answer of a fault that keeps the request from being processed; `None` if it is processed all the same.
pub(super) async fn instead(fault: Fault, mut ended: watch::Receiver<bool>) -> Option<Response> {
    match fault {
        Fault::Status { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some(error(status, body, "simulated failure"))
        }
        Fault::Throttled {
            status,
            retry_after_s,
        } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
            let mut response = error(status, ErrorBody::Json, "Rate limit exceeded");
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
            Some(response)
        }
        Fault::Html => Some(html(StatusCode::OK, HTML)),
        Fault::Slow { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            None
        }
        Fault::Hang => {
            // Ends with the simulator, or when the client hangs up and this future is dropped.
            drop(ended.wait_for(|ended| *ended).await);
            Some(lost())
        }
        Fault::EndlessBody => {
            let chunk = Bytes::from(vec![b' '; CHUNK]);
            let chunks = (0..ENDLESS / CHUNK).map(move |_| Ok::<_, Infallible>(chunk.clone()));
            Some(json_body(Body::from_stream(stream::iter(chunks))))
        }
        Fault::DripFed { .. }
        | Fault::CutOff
        | Fault::ReplyLost
        | Fault::MalformedJson
        | Fault::MissingMeta
        | Fault::LoopingNextPage
        | Fault::IdWithNewline
        | Fault::HugeId
        | Fault::WrongId
        | Fault::WrongClinic => None,
    }
}

/// What a fault makes of the right answer's text on its way out.
pub(super) fn broken(fault: Option<Fault>, status: StatusCode, mut text: String) -> Response {
    match fault {
        Some(Fault::DripFed { every_ms }) => drip(text, Duration::from_millis(every_ms)),
        Some(Fault::CutOff) => cut_off(&text),
        Some(Fault::ReplyLost) => lost(),
        Some(Fault::MalformedJson) => {
            text.pop();
            json_text(status, text)
        }
        // These change the answer's content where it is made, or came before it.
        Some(
            Fault::MissingMeta
            | Fault::LoopingNextPage
            | Fault::IdWithNewline
            | Fault::HugeId
            | Fault::WrongId
            | Fault::WrongClinic
            | Fault::Slow { .. }
            | Fault::Status { .. }
            | Fault::Throttled { .. }
            | Fault::Html
            | Fault::Hang
            | Fault::EndlessBody,
        )
        | None => json_text(status, text),
    }
}

fn json_body(body: Body) -> Response {
    let mut response = json_text(StatusCode::OK, Bytes::new());
    *response.body_mut() = body;
    response
}

fn drip(text: String, every: Duration) -> Response {
    let bytes = Bytes::from(text);
    let length = bytes.len();
    let drops = stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(every).await;
        let drop = rest.split_to(1);
        Some((Ok::<_, Infallible>(drop), rest))
    });
    with_length(json_body(Body::from_stream(drops)), length)
}

/// Half of the body, then the connection is closed: the error makes the server drop it.
fn cut_off(text: &str) -> Response {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let half = bytes.slice(..bytes.len() / 2);
    let parts = stream::unfold(Some(half), |half| async {
        if let Some(half) = half {
            return Some((Ok(half), None));
        }
        // Lets the server send the half before it meets the error.
        tokio::task::yield_now().await;
        Some((Err(io::Error::other("cut off on purpose")), None))
    });
    with_length(json_body(Body::from_stream(parts)), bytes.len())
}

/// Nothing: the body fails before the head has been sent.
pub(super) fn lost() -> Response {
    let error = stream::iter([Err::<Bytes, _>(io::Error::other("lost on purpose"))]);
    json_body(Body::from_stream(error))
}

fn with_length(mut response: Response, length: usize) -> Response {
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}
