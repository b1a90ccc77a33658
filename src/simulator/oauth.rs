//! Authorize, token and revoke (`fullscript-api.md` §4).

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{Form, Query, State};
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::faults::Endpoint;
use super::handle::Handle;
use super::tokens::{Credentials, Pair, Refusal};
use super::{pages, reply};

/// What an app sends a person's browser with. The scope is ignored: the dashboard's apply.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    redirect_uri: String,
    #[serde(default)]
    response_type: String,
    state: Option<String>,
}

/// What the form of the authorize page sends.
#[derive(Debug, Deserialize)]
pub(super) struct Decision {
    client_id: String,
    redirect_uri: String,
    state: Option<String>,
    #[serde(default)]
    clinic_id: String,
    #[serde(rename = "decision")]
    button: String,
}

/// `GET /oauth/authorize`.
pub(super) async fn ask(State(handle): State<Handle>, Query(ask): Query<Ask>) -> Response {
    if let Some(refused) = refuse_app(&handle, &ask.client_id, &ask.redirect_uri) {
        return refused;
    }
    if ask.response_type != "code" {
        return refusal(StatusCode::BAD_REQUEST, "unsupported_response_type");
    }
    let form = pages::Form {
        client_id: &ask.client_id,
        redirect_uri: &ask.redirect_uri,
        state: ask.state.as_deref(),
    };
    reply::html(StatusCode::OK, pages::authorize(form, &handle.clinics()))
}

/// `POST /oauth/authorize`: the person has decided.
pub(super) async fn decide(
    State(handle): State<Handle>,
    Form(decision): Form<Decision>,
) -> Response {
    let Decision {
        client_id,
        redirect_uri,
        ..
    } = &decision;
    if let Some(refused) = refuse_app(&handle, client_id, redirect_uri) {
        return refused;
    }
    let Ok(mut back) = Url::parse(redirect_uri) else {
        return reply::not_found();
    };
    if decision.button == "allow" {
        let clinics = handle.clinics();
        let Some(clinic) = clinics
            .iter()
            .find(|clinic| clinic.clinic_id == decision.clinic_id)
        else {
            return reply::not_found();
        };
        let now = handle.now();
        let mut world = handle.world();
        let code = world
            .tokens
            .issue_code(clinic.number, client_id, redirect_uri, now);
        back.query_pairs_mut().append_pair("code", &code);
    } else {
        back.query_pairs_mut()
            .append_pair("error", "access_denied")
            .append_pair(
                "error_description",
                "The resource owner denied the request.",
            );
    }
    if let Some(state) = &decision.state {
        back.query_pairs_mut().append_pair("state", state);
    }
    Redirect::to(back.as_str()).into_response()
}

/// `POST /oauth/token`, JSON or form.
pub(super) async fn token(
    State(handle): State<Handle>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fields = fields(&headers, &body);
    let token = fields.get("refresh_token").map(String::as_str);
    let fault = handle.world().fault_for(Endpoint::Token, token, None);
    if let Some(fault) = fault
        && let Some(instead) = reply::instead(fault, handle.ended.subscribe()).await
    {
        return instead;
    }
    let grant_type = fields.get("grant_type").map_or("", String::as_str);
    let result = issue(&handle, grant_type, &fields);
    let outcome = match &result {
        Ok(_) => "ok".to_owned(),
        Err(refusal) => refusal.to_string(),
    };
    {
        let mut world = handle.world();
        // Only the grant types that exist have counters: anything else is one.
        let grant_type = match grant_type {
            "authorization_code" | "refresh_token" => grant_type,
            _ => "other",
        };
        let key = format!("{grant_type} {outcome}");
        *world.counters.tokens.entry(key).or_default() += 1;
        if let (Ok(pair), "refresh_token") = (&result, grant_type)
            && let Some(id) = world
                .clinic(pair.clinic)
                .map(|clinic| clinic.clinic_id.clone())
        {
            world.counters.clinics.entry(id).or_default().refreshes += 1;
        }
    }
    match result {
        Ok(pair) => reply::broken(fault, StatusCode::OK, body_of(&pair)),
        Err(Refusal::InvalidClient) => refusal(StatusCode::UNAUTHORIZED, &outcome),
        Err(_) => refusal(StatusCode::BAD_REQUEST, &outcome),
    }
}

/// `POST /oauth/revoke`.
pub(super) async fn revoke(
    State(handle): State<Handle>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fields = fields(&headers, &body);
    let field = |name| fields.get(name).map_or("", String::as_str);
    let fault = handle
        .world()
        .fault_for(Endpoint::Revoke, Some(field("token")), None);
    if let Some(fault) = fault
        && let Some(instead) = reply::instead(fault, handle.ended.subscribe()).await
    {
        return instead;
    }
    let now = handle.now();
    let revoked = {
        let mut world = handle.world();
        world.counters.revokes += 1;
        world
            .tokens
            .revoke(credentials(&fields), field("token"), now)
    };
    match revoked {
        Ok(()) => reply::broken(fault, StatusCode::OK, "{}".to_owned()),
        Err(_) => refusal(StatusCode::FORBIDDEN, "unauthorized_client"),
    }
}

fn issue(
    handle: &Handle,
    grant_type: &str,
    fields: &HashMap<String, String>,
) -> Result<Pair, Refusal> {
    let who = credentials(fields);
    let field = |name| {
        let found = fields.get(name).filter(|value| !value.is_empty());
        found.ok_or(Refusal::InvalidRequest)
    };
    let now = handle.now();
    let mut world = handle.world();
    match grant_type {
        "refresh_token" => world.tokens.refresh(who, field("refresh_token")?, now),
        "authorization_code" => {
            let scopes = world.scopes.clone();
            let (code, redirect_uri) = (field("code")?, field("redirect_uri")?);
            world.tokens.exchange(who, code, redirect_uri, scopes, now)
        }
        "" => Err(Refusal::InvalidRequest),
        _ => Err(Refusal::UnsupportedGrantType),
    }
}

fn body_of(pair: &Pair) -> String {
    json!({
        "oauth": {
            "access_token": pair.access,
            "token_type": "Bearer",
            "expires_in": (pair.expires_at - pair.created_at).num_seconds(),
            "refresh_token": pair.refresh,
            "scope": pair.scopes.join(" "),
            "created_at": pair.created_at.format("%Y-%m-%dT%H:%M:%S.000Z").to_string(),
            "resource_owner": {
                "id": format!("00000000-0000-4000-9000-{:012x}", pair.clinic),
                "type": "Practitioner",
            },
        },
    })
    .to_string()
}

fn refuse_app(handle: &Handle, client_id: &str, redirect_uri: &str) -> Option<Response> {
    let options = &handle.options;
    if !handle.world().tokens.knows_client(client_id) {
        return Some(refusal(StatusCode::UNAUTHORIZED, "invalid_client"));
    }
    let is_registered = options.redirect_uris.iter().any(|uri| uri == redirect_uri);
    (!is_registered).then(reply::not_found)
}

fn refusal(status: StatusCode, error: &str) -> Response {
    let description = match error {
        "invalid_grant" => {
            "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used in \
             the authorization request, or was issued to another client."
        }
        "invalid_client" => {
            "Client authentication failed due to unknown client, no client authentication included, or unsupported \
             authentication method."
        }
        "unsupported_grant_type" => {
            "The authorization grant type is not supported by the authorization server."
        }
        "unauthorized_client" => "You are not authorized to revoke this token",
        _ => "The request is missing a required parameter or is otherwise malformed.",
    };
    let body = json!({ "error": error, "error_description": description });
    reply::json_value(status, &body)
}

fn credentials(fields: &HashMap<String, String>) -> Credentials<'_> {
    let field = |name| fields.get(name).map_or("", String::as_str);
    Credentials {
        client_id: field("client_id"),
        client_secret: field("client_secret"),
    }
}

/// The text fields of a JSON object or a form; what is neither has none.
fn fields(headers: &HeaderMap, body: &[u8]) -> HashMap<String, String> {
    let is_json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"));
    if !is_json {
        return url::form_urlencoded::parse(body).into_owned().collect();
    }
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        return HashMap::new();
    };
    object
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())))
        .collect()
}
