//! The routes, and what every request goes through: a request id, the limiter, the latency, the counters.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{DATE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use tokio::net::TcpListener;

use super::handle::Handle;
use super::limiter::RetryAfter;
use super::{api, control, oauth, reply};

/// Serves until the handle says that it ended.
pub(super) async fn serve(listener: TcpListener, handle: Handle) {
    let mut ended = handle.ended.subscribe();
    let stop = async move {
        drop(ended.wait_for(|ended| *ended).await);
    };
    // Accepting goes on after every error that a connection has; nothing else comes back.
    drop(
        axum::serve(listener, router(handle))
            .with_graceful_shutdown(stop)
            .await,
    );
}

fn router(handle: Handle) -> Router {
    let api = Router::new()
        .route("/events/{segment}", get(api::events))
        .route("/clinic", get(api::clinic))
        .route("/clinic/patients/{id}", get(api::patient))
        .route("/clinic/treatment_plans/{id}", get(api::treatment_plan))
        .route("/oauth/authorize", get(oauth::ask).post(oauth::decide))
        .route("/oauth/token", post(oauth::token))
        .route("/oauth/revoke", post(oauth::revoke))
        .fallback(unrouted)
        .method_not_allowed_fallback(unrouted)
        .layer(from_fn_with_state(handle.clone(), pass));
    Router::new()
        .nest("/api", api)
        .nest("/_control", control::router())
        .route("/", get(control::front))
        .fallback(unrouted)
        .layer(from_fn_with_state(handle.clone(), identify))
        .with_state(handle)
}

async fn unrouted() -> Response {
    reply::not_found()
}

/// Gives every answer an `X-Request-Id`, and a `Date` by the simulator's clock: the server's own would be the
/// machine's.
async fn identify(State(handle): State<Handle>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let date = http_date(handle.now());
    if let Ok(date) = HeaderValue::from_str(&date) {
        response.headers_mut().insert(DATE, date);
    }
    let id = handle.world().request_ids.uuid();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Counts an API request, holds it to the limit and to the latency.
async fn pass(State(handle): State<Handle>, request: Request, next: Next) -> Response {
    let admitted = {
        let mut world = handle.world();
        // Read under the lock, so that arrivals are in order.
        let now = handle.clock().monotonic();
        world.counters.requests += 1;
        world.limiter.admit(now)
    };
    if !handle.options.latency.is_zero() {
        tokio::time::sleep(handle.options.latency).await;
    }
    let response = match admitted {
        Ok(()) => next.run(request).await,
        Err(wait) => over_the_limit(&handle, wait),
    };
    let status = response.status().as_u16();
    *handle.world().counters.answered.entry(status).or_default() += 1;
    response
}

fn over_the_limit(handle: &Handle, wait: Duration) -> Response {
    let options = &handle.options;
    let status =
        StatusCode::from_u16(options.rate_limit.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut response = reply::error(status, options.error_body, "Rate limit exceeded");
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let value = match options.rate_limit.retry_after {
        RetryAfter::None => return response,
        RetryAfter::Seconds => seconds.to_string(),
        RetryAfter::Date => http_date(handle.now() + Duration::from_secs(seconds + 1)),
    };
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

fn http_date(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
