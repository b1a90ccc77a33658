//! The HTTP side: who asks, for what, and over which wire.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{RawQuery, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catch_up;
use super::cursor;
use super::hub::Hub;
use super::presence::{Attendance, Wire};
use super::refusal::Refusal;
use super::subscribe::{Clinics, Grant, Request, Wanted};
use super::subscription::{Said, Subscription};
use super::tokens::Tokens;
use super::ws;
use crate::config;
use crate::domain::ClinicName;
use crate::ledger::Extent;

/// The largest subscribe frame, in bytes. Of an address the HTTP parser takes no more either.
const LARGEST_FRAME: usize = 64 << 10;

/// What a WebSocket reads and gathers at a time, in bytes.
const SOCKET_BUFFER: usize = 4 << 10;

/// How often things are said, and how long is waited. A test has no minute.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two signs of life.
    pub ping: Duration,
    /// A WebSocket of which nothing is heard for so long is closed.
    pub silence: Duration,
    /// A request, and a WebSocket's subscribe frame, have to come within.
    pub greeting: Duration,
    /// A client that takes nothing for so long is cut.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(15),
            silence: Duration::from_secs(45),
            greeting: Duration::from_secs(10),
            patience: Duration::from_secs(45),
        }
    }
}

/// What all requests share.
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) tokens: Tokens,
    pub(super) settings: config::Stream,
    pub(super) clinics: Vec<(ClinicName, Option<String>)>,
    pub(super) timing: Timing,
    pub(super) places: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    /// Sockets outlive their requests: who waits for the end waits for these.
    pub(super) sockets: TaskTracker,
    pub(super) attendance: Attendance,
}

impl Shared {
    /// A place for one more subscriber.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| Refusal::TooMany)
    }

    /// The clinics, with the ids that logins have told of.
    pub(super) async fn clinics(&self) -> Result<Clinics, Refusal> {
        let told = self.hub.log.clinic_ids().await;
        let told = told.map_err(|_| Refusal::Unavailable)?;
        let clinics = self.clinics.iter().map(|(name, configured)| {
            let told = told.iter().find(|(clinic, _)| clinic == name.as_str());
            let id = configured
                .clone()
                .or_else(|| told.map(|(_, id)| id.clone()));
            (name.clone(), id)
        });
        Ok(clinics.collect())
    }

    /// What can be read now.
    pub(super) async fn extent(&self) -> Result<Extent, Refusal> {
        let extent = self.hub.log.extent().await;
        extent.map_err(|_| Refusal::Unavailable)
    }

    /// What a bearer gets of what it asks for.
    pub(super) async fn granted(
        &self,
        grant: &Grant,
        request: &Request,
    ) -> Result<Wanted, Refusal> {
        let ids = self.hub.log.id_digest();
        request.granted(grant, &self.clinics().await?, &|id| ids.of(id))
    }

    /// A subscription to what is asked for, if it may be had.
    pub(super) async fn subscribe(
        &self,
        grant: &Grant,
        request: &Request,
        last_event_id: Option<&str>,
        present: (Wire, OwnedSemaphorePermit),
    ) -> Result<Subscription, Refusal> {
        let wanted = self.granted(grant, request).await?;
        let after = request.after.as_ref();
        let begin = cursor::begin(after, last_event_id, &self.extent().await?)?;
        let presence = self.attendance.open(grant, present, begin.0).await?;
        Ok(Subscription::new(
            &self.hub,
            wanted,
            begin,
            self.timing.ping,
            &self.stop,
            presence,
        ))
    }
}

/// The paths.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/stream", get(sse))
        .route("/v1/subscribe", get(subscribe))
        .route("/v1/events", get(catch_up::events))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            for_pages,
        ))
        .with_state(shared)
}

async fn sse(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let grant = shared.tokens.of(&headers)?;
    let query = query.unwrap_or_default();
    let most = shared.settings.max_filter;
    let request = Request::from_query(&query, most, |_, _| Ok(false))?;
    let last = match headers.get("last-event-id").map(HeaderValue::to_str) {
        None | Some(Ok("")) => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => return Err(Refusal::malformed("Last-Event-ID is no seq")),
    };
    let place = shared.place()?;
    let subscription = shared.subscribe(grant, &request, last, (Wire::Sse, place));
    let subscription = subscription.await?;
    let texts = stream::unfold(Some(subscription), |subscription| async {
        let mut subscription = subscription?;
        let (bytes, rest) = match subscription.next().await {
            Said::Ping => (Bytes::from_static(b": ping\n\n"), Some(subscription)),
            Said::Text(text) => (text.sse(), Some(subscription)),
            Said::Last(text, _) => (text.sse(), None),
        };
        Some((Ok::<_, Infallible>(bytes), rest))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // nginx would gather frames otherwise.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(texts)).into_response())
}

async fn subscribe(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let grant = shared.tokens.of(&headers)?.clone();
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(Refusal::malformed(
            "parameters: on a WebSocket the first frame says what is wanted",
        ));
    }
    let upgrade = upgrade.map_err(|_| {
        Refusal::malformed("a WebSocket is wanted here; /v1/stream speaks server-sent events")
    })?;
    let of_task = shared.sockets.token();
    let upgrade = upgrade
        .max_message_size(LARGEST_FRAME)
        .max_frame_size(LARGEST_FRAME)
        // A thousand clients that only listen: what they say is short.
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(SOCKET_BUFFER);
    Ok(upgrade.on_upgrade(move |socket| async move {
        ws::serve(shared, grant, socket).await;
        drop(of_task);
    }))
}

/// Lets pages of the configured origins read, and no others: a browser asks first, without the token.
async fn for_pages(
    State(shared): State<Arc<Shared>>,
    request: HttpRequest,
    next: Next,
) -> Response {
    let allowed = request.headers().get(header::ORIGIN).filter(|origin| {
        let listed = shared.settings.allow_origins.iter();
        listed
            .into_iter()
            .any(|listed| listed.as_bytes() == origin.as_bytes())
    });
    let allowed = allowed.cloned();
    let asks_first = request.method() == Method::OPTIONS;
    let mut response = if asks_first {
        let status = if allowed.is_some() {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::FORBIDDEN
        };
        status.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // One request each: a connection that waits for a second one would keep others out.
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let headers = response.headers_mut();
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if asks_first {
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
                (
                    header::ACCESS_CONTROL_ALLOW_HEADERS,
                    "authorization, last-event-id",
                ),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
    }
    response
}
