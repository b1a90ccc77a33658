//! `/_control`: what another process says to the simulator, and what it can ask. JSON. Not part of the imitated API,
//! not counted and not limited.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Json, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, http};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::events::category_for;
use super::faults::FaultRule;
use super::handle::Handle;
use super::records::RecordKind;
use super::world::MadeEvent;
use super::{pages, reply};

/// Events per chunk of the answer of `GET /_control/events`.
const CHUNK: usize = 1000;

pub(super) fn router() -> Router<Handle> {
    Router::new()
        .route("/", get(front))
        .route("/clinics", get(clinics).post(add_clinic))
        .route("/events", get(events).post(make_events))
        .route("/history", post(make_history))
        .route("/grants", post(grant))
        .route("/grants/expire", post(expire))
        .route("/grants/revoke", post(revoke))
        .route("/grants/scopes", post(scopes))
        .route("/emr-ids", post(emr_id))
        .route("/faults", post(add_fault).delete(clear_faults))
        .route("/counters", get(counters))
}

/// `GET /`: for people.
pub(super) async fn front(State(handle): State<Handle>) -> Response {
    let page = pages::front(&handle.clinics(), handle.event_count());
    reply::html(StatusCode::OK, page)
}

async fn clinics(State(handle): State<Handle>) -> Json<Value> {
    let clinics: Vec<Value> = handle
        .clinics()
        .iter()
        .map(|clinic| json!({ "clinic_id": clinic.clinic_id, "name": clinic.name }))
        .collect();
    Json(json!({ "clinics": clinics }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClinic {
    name: String,
}

async fn add_clinic(State(handle): State<Handle>, Json(new): Json<NewClinic>) -> Json<Value> {
    let clinic = handle.add_clinic(&new.name);
    let refresh_token = handle.grant(&clinic.clinic_id);
    Json(
        json!({ "clinic_id": clinic.clinic_id, "name": clinic.name, "refresh_token": refresh_token }),
    )
}

#[derive(Deserialize)]
struct Which {
    clinic: Option<String>,
}

/// All events, or those that one clinic sees, as JSON lines in the order of making, streamed.
async fn events(State(handle): State<Handle>, Query(which): Query<Which>) -> Response {
    let indices = handle.indices(which.clinic.as_deref());
    let chunks = stream::unfold((handle, indices, 0), |(handle, indices, from)| async move {
        let rest = indices.get(from..).unwrap_or_default();
        let chunk = rest.get(..CHUNK).unwrap_or(rest);
        if chunk.is_empty() {
            return None;
        }
        let lines: String = handle.made_events(chunk).iter().map(line).collect();
        Some((
            Ok::<_, Infallible>(Bytes::from(lines)),
            (handle, indices, from + CHUNK),
        ))
    });
    let json_lines = http::HeaderValue::from_static("application/x-ndjson");
    ([(CONTENT_TYPE, json_lines)], Body::from_stream(chunks)).into_response()
}

fn line(event: &MadeEvent) -> String {
    let mut line = json!({
        "id": event.id,
        "type": event.event_type,
        "category": event.category,
        "clinic_id": event.clinic_id,
        "created_at": event.created_at,
        "visible_at": event.visible_at,
        "retrieved": event.retrieved,
    })
    .to_string();
    line.push('\n');
    line
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEvents {
    clinic_id: String,
    #[serde(rename = "type")]
    event_type: String,
    category: Option<String>,
    created_at: Option<DateTime<Utc>>,
    #[serde(default = "one")]
    count: u32,
}

fn one() -> u32 {
    1
}

async fn make_events(State(handle): State<Handle>, Json(new): Json<NewEvents>) -> Response {
    let at = new.created_at.unwrap_or_else(|| handle.now());
    let category = new
        .category
        .unwrap_or_else(|| category_for(&new.event_type));
    let ids: Vec<String> = (0..new.count)
        .map_while(|_| handle.make_event_in(&new.clinic_id, &category, &new.event_type, at))
        .collect();
    if ids.is_empty() && new.count > 0 {
        return no_such_clinic(&new.clinic_id);
    }
    Json(json!({ "ids": ids })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewHistory {
    clinic_id: String,
    category: String,
    count: u32,
    days: u64,
}

async fn make_history(State(handle): State<Handle>, Json(new): Json<NewHistory>) -> Response {
    let span = Duration::from_hours(new.days.saturating_mul(24));
    handle.make_history(&new.clinic_id, &new.category, new.count, span);
    done(&handle, &new.clinic_id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfClinic {
    clinic_id: String,
}

async fn grant(State(handle): State<Handle>, Json(of): Json<OfClinic>) -> Response {
    match handle.grant(&of.clinic_id) {
        Some(refresh_token) => Json(json!({ "refresh_token": refresh_token })).into_response(),
        None => no_such_clinic(&of.clinic_id),
    }
}

async fn expire(State(handle): State<Handle>, Json(of): Json<OfClinic>) -> Response {
    handle.expire_access_tokens(&of.clinic_id);
    done(&handle, &of.clinic_id)
}

async fn revoke(State(handle): State<Handle>, Json(of): Json<OfClinic>) -> Response {
    handle.revoke_grants(&of.clinic_id);
    done(&handle, &of.clinic_id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewScopes {
    clinic_id: String,
    scopes: Vec<String>,
}

async fn scopes(State(handle): State<Handle>, Json(new): Json<NewScopes>) -> Response {
    let scopes: Vec<&str> = new.scopes.iter().map(String::as_str).collect();
    handle.set_grant_scopes(&new.clinic_id, &scopes);
    done(&handle, &new.clinic_id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEmrId {
    clinic_id: String,
    kind: RecordKind,
    id: String,
    emr_id: Option<String>,
}

async fn emr_id(State(handle): State<Handle>, Json(new): Json<NewEmrId>) -> Response {
    handle.set_emr_id(&new.clinic_id, new.kind, &new.id, new.emr_id.as_deref());
    done(&handle, &new.clinic_id)
}

async fn add_fault(State(handle): State<Handle>, Json(rule): Json<FaultRule>) -> Json<Value> {
    handle.fail(rule);
    Json(json!({}))
}

async fn clear_faults(State(handle): State<Handle>) -> Json<Value> {
    handle.clear_faults();
    Json(json!({}))
}

async fn counters(State(handle): State<Handle>) -> Response {
    Json(handle.counters()).into_response()
}

/// `{}`, unless the clinic that something was done to does not exist.
fn done(handle: &Handle, clinic_id: &str) -> Response {
    let exists = handle
        .clinics()
        .iter()
        .any(|clinic| clinic.clinic_id == clinic_id);
    if exists {
        Json(json!({})).into_response()
    } else {
        no_such_clinic(clinic_id)
    }
}

fn no_such_clinic(clinic_id: &str) -> Response {
    let error = format!("no clinic has the id {clinic_id:?}; GET /_control/clinics lists them");
    reply::json_value(StatusCode::NOT_FOUND, &json!({ "error": error }))
}
