//! The webhook, and `/control`: what another process says to the double, and what it can ask. JSON.

use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Bytes};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::inside::Handle;
use super::script::Rule;
use crate::simulator::reply;

/// The longest event that is taken, in bytes.
const LONGEST_EVENT: usize = 16 << 20;

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
    Router::new()
        .route("/webhook", post(receive))
        .route("/control/state", get(state))
        .route("/control/rules", post(add_rule).delete(clear_rules))
        .route("/control/late", post(late))
        .route("/control/call-back", post(call_back))
        .route("/control/post-orders", post(post_orders))
        .route("/control/finalise-notes", post(finalise_notes))
        .layer(DefaultBodyLimit::max(LONGEST_EVENT))
        .with_state(handle)
}

async fn receive(State(handle): State<Handle>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let answer = handle.receive(header("x-event-id"), header("x-delivery-attempt"), &body);
    if let Some(id) = answer.owed {
        handle.begin_call_back(id);
    }
    tokio::time::sleep(answer.delay).await;
    if answer.hang {
        // Ends with the double, or when the sender hangs up and this future is dropped.
        let mut ended = handle.ended.subscribe();
        drop(ended.wait_for(|ended| *ended).await);
        return reply::lost();
    }
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match answer.message {
        Some(message) => reply::json_value(status, &json!({ "Message": message })),
        None => status.into_response(),
    };
    if let Some(seconds) = answer.retry_after_s {
        let value = HeaderValue::from(seconds);
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

async fn state(State(handle): State<Handle>) -> Response {
    Json(handle.state()).into_response()
}

async fn add_rule(State(handle): State<Handle>, Json(rule): Json<Rule>) -> Json<Value> {
    handle.script(rule);
    Json(json!({}))
}

async fn clear_rules(State(handle): State<Handle>) -> Json<Value> {
    handle.clear_script();
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Late {
    guid: String,
    status: i64,
    #[serde(default)]
    message: String,
}

async fn late(State(handle): State<Handle>, Json(late): Json<Late>) -> Json<Value> {
    handle.set_late_result(&late.guid, late.status, &late.message);
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfBatch {
    id: String,
}

async fn call_back(State(handle): State<Handle>, Json(of): Json<OfBatch>) -> Response {
    match handle.call_back(&of.id).await {
        Some(called) => Json(called).into_response(),
        None => reply::json_value(
            StatusCode::NOT_FOUND,
            &json!({ "error": "there is no such batch, or no --call-back to post it to" }),
        ),
    }
}

async fn post_orders(State(handle): State<Handle>) -> Json<Value> {
    handle.post_orders();
    Json(json!({}))
}

async fn finalise_notes(State(handle): State<Handle>) -> Json<Value> {
    handle.finalise_notes();
    Json(json!({}))
}
