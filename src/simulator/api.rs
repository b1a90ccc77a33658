//! The authenticated calls: list, retrieve, clinic, patient, treatment plan; and how they are refused (`fullscript-api.md` §4, §5).

use axum::extract::{Path, RawQuery, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::json;

use super::answers::{self, Caller, ELSEWHERE, Refusal};
use super::faults::{Endpoint, Fault};
use super::handle::Handle;
use super::records::RecordKind;
use super::reply;
use super::tokens::Rejection;

/// `GET /events/{segment}`: a list if the segment names a category, else a retrieve.
pub(super) async fn events(
    State(handle): State<Handle>,
    Path(segment): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let is_list = handle.world().events.has_category(&segment);
    let (endpoint, category) = if is_list {
        (Endpoint::List, Some(segment.as_str()))
    } else {
        (Endpoint::Retrieve, None)
    };
    let bearer = bearer(&headers);
    let fault = handle.world().fault_for(endpoint, bearer, category);
    if let Some(fault) = fault
        && let Some(instead) = reply::instead(fault, handle.ended.subscribe()).await
    {
        return instead;
    }
    let caller = match authenticate(&handle, bearer) {
        Ok(caller) => caller,
        Err(rejection) => return unauthorized(&handle, rejection),
    };
    let answer = match category {
        Some(category) => answers::list(&handle, &caller, category, query.as_deref(), fault),
        None => answers::retrieve(&handle, &caller, &segment, fault),
    };
    match answer {
        Ok(text) => reply::broken(fault, StatusCode::OK, text),
        Err(_) if fault == Some(Fault::ReplyLost) => reply::lost(),
        Err(refusal) => refuse(&handle, &refusal),
    }
}

/// `GET /clinic`.
pub(super) async fn clinic(State(handle): State<Handle>, headers: HeaderMap) -> Response {
    let bearer = bearer(&headers);
    let fault = handle.world().fault_for(Endpoint::Clinic, bearer, None);
    if let Some(fault) = fault
        && let Some(instead) = reply::instead(fault, handle.ended.subscribe()).await
    {
        return instead;
    }
    let caller = match authenticate(&handle, bearer) {
        Ok(caller) => caller,
        Err(rejection) => return unauthorized(&handle, rejection),
    };
    let text = {
        let mut world = handle.world();
        world.counters.clinic_calls += 1;
        if !caller.scopes.iter().any(|scope| scope == "clinic:read") {
            drop(world);
            return refuse(&handle, &Refusal::Scope);
        }
        let Some(clinic) = world.clinic(caller.clinic) else {
            drop(world);
            return refuse(&handle, &Refusal::NotFound);
        };
        let id = match fault {
            Some(Fault::WrongClinic) => ELSEWHERE,
            _ => &clinic.clinic_id,
        };
        json!({ "clinic": { "id": id, "name": clinic.name, "integration_id": null } }).to_string()
    };
    reply::broken(fault, StatusCode::OK, text)
}

/// `GET /clinic/patients/{id}`.
pub(super) async fn patient(
    State(handle): State<Handle>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    record(&handle, RecordKind::Patient, &id, &headers).await
}

/// `GET /clinic/treatment_plans/{id}`.
pub(super) async fn treatment_plan(
    State(handle): State<Handle>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    record(&handle, RecordKind::TreatmentPlan, &id, &headers).await
}

async fn record(handle: &Handle, kind: RecordKind, id: &str, headers: &HeaderMap) -> Response {
    let bearer = bearer(headers);
    let fault = handle.world().fault_for(kind.endpoint(), bearer, None);
    if let Some(fault) = fault
        && let Some(instead) = reply::instead(fault, handle.ended.subscribe()).await
    {
        return instead;
    }
    let caller = match authenticate(handle, bearer) {
        Ok(caller) => caller,
        Err(rejection) => return unauthorized(handle, rejection),
    };
    let answer = {
        let mut world = handle.world();
        match kind {
            RecordKind::Patient => world.counters.patients += 1,
            RecordKind::TreatmentPlan => world.counters.treatment_plans += 1,
        }
        if caller.scopes.iter().any(|scope| scope == kind.scope()) {
            let record = world.record(&handle.options, caller.clinic, kind, id);
            let wrong = fault == Some(Fault::WrongId);
            let record = record.map(|text| {
                if wrong {
                    text.replace(id, ELSEWHERE)
                } else {
                    text
                }
            });
            record.ok_or(Refusal::NotFound)
        } else {
            Err(Refusal::Scope)
        }
    };
    match answer {
        Ok(text) => reply::broken(fault, StatusCode::OK, text),
        Err(_) if fault == Some(Fault::ReplyLost) => reply::lost(),
        Err(refusal) => refuse(handle, &refusal),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Presents the token: the rotation's switch happens here.
fn authenticate(handle: &Handle, bearer: Option<&str>) -> Result<Caller, Rejection> {
    let now = handle.now();
    let mut world = handle.world();
    let presented = world.tokens.present(bearer.ok_or(Rejection::Invalid)?, now);
    let result = presented.map(|pair| Caller {
        clinic: pair.clinic,
        scopes: pair.scopes.clone(),
    });
    world.counters.presented += u64::from(result.as_ref().err() != Some(&Rejection::Invalid));
    result
}

fn unauthorized(handle: &Handle, rejection: Rejection) -> Response {
    let message = rejection.to_string();
    let mut response = reply::error(
        StatusCode::UNAUTHORIZED,
        handle.options.error_body,
        &message,
    );
    let challenge = format!(
        "Bearer realm=\"Doorkeeper\", error=\"invalid_token\", error_description=\"{message}\""
    );
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn refuse(handle: &Handle, refusal: &Refusal) -> Response {
    let body = handle.options.error_body;
    match refusal {
        Refusal::Scope => reply::error(
            StatusCode::FORBIDDEN,
            body,
            "Access to this resource requires another scope",
        ),
        Refusal::NotFound => reply::error(StatusCode::NOT_FOUND, body, "Not Found"),
    }
}
