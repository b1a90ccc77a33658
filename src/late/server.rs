//! HTTP: who asks, how much is read, what is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::results::{self, Refusal};
use super::{Keys, PATH, SharedLateResults};
use crate::clock::SharedClock;
use crate::listener::Bounded;

/// The longest body that is read: a batch of thousands of treatments, in bytes.
pub(super) const LONGEST_BODY: usize = 4 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to be answered, its body and the ledger included. Nothing is known of it until its head
/// has come: without this a half-sent one would stay.
const ANSWERED_IN: Duration = Duration::from_secs(40);
/// How long an answer may wait to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many connections are open at once; more wait.
const CONNECTIONS: usize = 64;
/// So long requests have at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// So many requests are worked on at once.
const AT_ONCE: usize = 16;
/// What a sender is told when the ledger, or a place, cannot be had.
const LATER: HeaderValue = HeaderValue::from_static("30");

struct Inside {
    keys: Keys,
    results: SharedLateResults,
    clock: SharedClock,
    places: Semaphore,
}

/// The connections of an endpoint.
pub(super) fn bounded(listener: TcpListener) -> Bounded {
    Bounded::new(listener, CONNECTIONS, ANSWERED_IN, PATIENCE)
}

pub(super) async fn serve(
    listener: Bounded,
    (keys, results, clock): (Keys, SharedLateResults, SharedClock),
    stop: CancellationToken,
) {
    let inside = Arc::new(Inside {
        keys,
        results,
        clock,
        places: Semaphore::new(AT_ONCE),
    });
    let router = Router::new()
        .route(PATH, post(receive))
        .layer(middleware::map_response(once))
        .with_state(inside);
    let serve =
        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let farewell = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        // Accepting goes on after every error that a connection has; nothing else comes back.
        served = serve => drop(served),
        // Who is silent does not hold up the end.
        () = farewell => {}
    }
}

/// One request each: a connection that waits for a second one would keep others out.
async fn once(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn receive(State(inside): State<Arc<Inside>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let key = |name| header(&head.headers, name);
    let clinics = inside
        .keys
        .clinics_of(key("emrapikey"), key("clinicapikey"));
    let Some(clinics) = clinics else {
        tracing::warn!("late results refused: emrApiKey or clinicApiKey is unknown");
        return message(
            StatusCode::UNAUTHORIZED,
            "emrApiKey or clinicApiKey is unknown",
        );
    };
    let Ok(_place) = inside.places.try_acquire() else {
        return later("too many requests at once");
    };
    let body = match whole(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let results = match results::read(&body) {
        Ok(results) => results,
        Err(refusal) => return refused(refusal),
    };
    let id = results.id.clone();
    let batch = match inside.results.batch(id.clone()).await {
        Ok(Some(batch)) => batch,
        Ok(None) => return message(StatusCode::NOT_FOUND, "there is no such id"),
        Err(error) => {
            tracing::error!("late results cannot be kept: {error}");
            return later("the results cannot be kept now");
        }
    };
    let verdicts = match results::judge(results, &batch, &clinics) {
        Ok(verdicts) => verdicts,
        Err(refusal) => return refused(refusal),
    };
    let said = verdicts.len();
    if let Err(error) = inside
        .results
        .settle(id, verdicts, inside.clock.now())
        .await
    {
        tracing::error!("late results cannot be kept: {error}");
        return later("the results cannot be kept now");
    }
    tracing::info!(clinic = %batch.clinic, treatments = said, "late results kept");
    StatusCode::OK.into_response()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a [u8] {
    headers.get(name).map_or(&[], HeaderValue::as_bytes)
}

/// The body, if it is not too long and does not take too long.
async fn whole(body: Body) -> Result<axum::body::Bytes, Response> {
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, LONGEST_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(message(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is cut off, or longer than 4 MiB",
        )),
        Err(_) => Err(message(
            StatusCode::REQUEST_TIMEOUT,
            "the body takes too long",
        )),
    }
}

fn refused(refusal: Refusal) -> Response {
    match refusal {
        Refusal::Malformed(words) => message(StatusCode::BAD_REQUEST, &words),
        Refusal::AnotherClinics => message(StatusCode::FORBIDDEN, "the id is another clinic's"),
    }
}

fn later(words: &str) -> Response {
    let mut response = message(StatusCode::SERVICE_UNAVAILABLE, words);
    response.headers_mut().insert(RETRY_AFTER, LATER);
    response
}

fn message(status: StatusCode, words: &str) -> Response {
    let json = HeaderValue::from_static("application/json");
    let body = json!({ "Message": words }).to_string();
    (status, [(CONTENT_TYPE, json)], body).into_response()
}
