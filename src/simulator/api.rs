//! The authenticated calls: list, retrieve, clinic (`fullscript-api.md` §2, §4, §5).

use axum::extract::{Path, RawQuery, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;

use super::data::Reference;
use super::events::created_at;
use super::faults::{Endpoint, Fault, Request};
use super::handle::{Handle, World, reply_for};
use super::listing::{self, Meta, Order, Query, SortBy};
use super::reply;
use super::tokens::Rejection;
use crate::domain::KNOWN_CATEGORIES;

/// How long the id of [`Fault::HugeId`] is.
const HUGE: usize = 1 << 20;
const ELSEWHERE: &str = "00000000-0000-4000-8000-000000000000";

#[derive(Serialize)]
struct List<'a> {
    events: Vec<Reference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Meta>,
}

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
    let fault = fault(&handle, endpoint, bearer, category);
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
        Some(category) => list(&handle, &caller, category, query.as_deref(), fault),
        None => retrieve(&handle, &caller, &segment, fault),
    };
    match answer {
        Ok(text) => reply::broken(fault, StatusCode::OK, text).await,
        Err(refusal) => refuse(&handle, &refusal),
    }
}

/// `GET /clinic`.
pub(super) async fn clinic(State(handle): State<Handle>, headers: HeaderMap) -> Response {
    let bearer = bearer(&headers);
    let fault = fault(&handle, Endpoint::Clinic, bearer, None);
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
    reply::broken(fault, StatusCode::OK, text).await
}

/// Who a valid access token belongs to.
struct Caller {
    clinic: u32,
    scopes: Vec<String>,
}

/// Why an authenticated request gets nothing.
enum Refusal {
    Scope,
    NotFound,
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn fault(
    handle: &Handle,
    endpoint: Endpoint,
    bearer: Option<&str>,
    category: Option<&str>,
) -> Option<Fault> {
    let mut world = handle.world();
    let clinic_id = bearer
        .and_then(|token| world.tokens.clinic_of(token))
        .and_then(|number| world.clinic(number))
        .map(|clinic| clinic.clinic_id.clone());
    let request = Request {
        endpoint,
        clinic_id: clinic_id.as_deref(),
        category,
    };
    let fault = world.faults.take(request);
    world.counters.faults += u64::from(fault.is_some());
    fault
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

fn list(
    handle: &Handle,
    caller: &Caller,
    category: &str,
    raw: Option<&str>,
    fault: Option<Fault>,
) -> Result<String, Refusal> {
    let options = &handle.options;
    let now = handle.now().timestamp();
    let query = Query::parse(raw.unwrap_or_default(), options.page_sizes);
    let mut world = handle.world();
    count(
        &mut world,
        caller,
        |counters| {
            *counters.lists.entry(category.to_owned()).or_default() += 1;
        },
        |clinic| clinic.lists += 1,
    );
    require_scope(caller, category)?;
    world.events.settle(now);
    let span = query.days.map_or(i64::MIN..i64::MAX, |days| {
        days.span(options.zone, options.bounds)
    });
    let events = &world.events;
    let window = events.listed(caller.clinic, category, span, now);
    let sorted = sorted(&world, window, &query);
    let rows = sorted.as_deref().unwrap_or(window);
    let (range, mut meta) = listing::page(rows.len(), query.page, query.size);
    let page: Vec<u32> = match query.order {
        Order::Ascending => rows
            .iter()
            .skip(range.start)
            .take(range.len())
            .copied()
            .collect(),
        Order::Descending => rows
            .iter()
            .rev()
            .skip(range.start)
            .take(range.len())
            .copied()
            .collect(),
    };
    let mut ids: Vec<String> = page.iter().map(|&index| events.id(index)).collect();
    if let Some(first) = ids.first_mut() {
        spoil_id(first, fault);
    }
    let references = page
        .iter()
        .zip(&ids)
        .filter_map(|(&index, id)| {
            let record = events.get(index)?;
            let clinic = record.clinic.and_then(|number| world.clinic(number));
            let clinic_id = clinic.map(|clinic| clinic.clinic_id.as_str());
            Some(Reference {
                id,
                event_type: events.type_of(record),
                created_at: created_at(record.created),
                clinic_id: match fault {
                    Some(Fault::WrongClinic) => Some(ELSEWHERE),
                    _ => clinic_id,
                },
            })
        })
        .collect();
    if fault == Some(Fault::LoopingNextPage) {
        meta.next_page = Some(meta.current_page);
    }
    let list = List {
        events: references,
        meta: (fault != Some(Fault::MissingMeta)).then_some(meta),
    };
    Ok(serde_json::to_string(&list).unwrap_or_default())
}

/// What a filter or an order by type makes of a window; `None` leaves it as it is. Costs the whole window, which the
/// plain order by time does not.
fn sorted(world: &World, window: &[u32], query: &Query) -> Option<Vec<u32>> {
    if query.event_type.is_none() && query.sort_by == SortBy::CreatedAt {
        return None;
    }
    let type_of = |index: u32| {
        world
            .events
            .get(index)
            .map(|record| world.events.type_of(record))
    };
    let mut rows: Vec<u32> = window
        .iter()
        .copied()
        .filter(|&index| {
            query.event_type.is_none() || type_of(index) == query.event_type.as_deref()
        })
        .collect();
    if query.sort_by == SortBy::EventType {
        rows.sort_by_key(|&index| type_of(index));
    }
    Some(rows)
}

fn retrieve(
    handle: &Handle,
    caller: &Caller,
    id: &str,
    fault: Option<Fault>,
) -> Result<String, Refusal> {
    let now = handle.now().timestamp();
    let mut world = handle.world();
    count(
        &mut world,
        caller,
        |counters| counters.retrieves += 1,
        |clinic| clinic.retrieves += 1,
    );
    let index = world.events.find(id, now).ok_or(Refusal::NotFound)?;
    let record = *world.events.get(index).ok_or(Refusal::NotFound)?;
    if record.clinic.is_some_and(|clinic| clinic != caller.clinic) {
        return Err(Refusal::NotFound);
    }
    require_scope(caller, world.events.category_of(&record))?;
    let mut text = reply_for(&world, handle.options.seed, index).ok_or(Refusal::NotFound)?;
    match fault {
        Some(Fault::WrongClinic) => {
            let own = world
                .clinic(caller.clinic)
                .map_or("", |clinic| &clinic.clinic_id);
            text = text.replace(own, ELSEWHERE);
        }
        Some(Fault::IdWithNewline | Fault::HugeId | Fault::WrongId) => {
            let mut spoilt = id.to_owned();
            spoil_id(&mut spoilt, fault);
            let spoilt = serde_json::to_string(&spoilt).unwrap_or_default();
            text = text.replacen(&format!("\"{id}\""), &spoilt, 1);
        }
        _ => {}
    }
    world.counters.retrieved_again += u64::from(record.retrieved > 0);
    world.events.count_retrieve(index);
    Ok(text)
}

fn spoil_id(id: &mut String, fault: Option<Fault>) {
    match fault {
        Some(Fault::IdWithNewline) => id.push('\n'),
        Some(Fault::HugeId) => *id = "a".repeat(HUGE),
        Some(Fault::WrongId) => ELSEWHERE.clone_into(id),
        _ => {}
    }
}

fn count(
    world: &mut World,
    caller: &Caller,
    of_all: impl FnOnce(&mut super::Counters),
    of_clinic: impl FnOnce(&mut super::ClinicCounters),
) {
    of_all(&mut world.counters);
    if let Some(id) = world
        .clinic(caller.clinic)
        .map(|clinic| clinic.clinic_id.clone())
    {
        of_clinic(world.counters.clinics.entry(id).or_default());
    }
}

fn require_scope(caller: &Caller, category: &str) -> Result<(), Refusal> {
    let required = KNOWN_CATEGORIES
        .iter()
        .find(|known| known.name == category)
        .and_then(|known| known.scope);
    match required {
        Some(scope) if !caller.scopes.iter().any(|has| has == scope) => Err(Refusal::Scope),
        _ => Ok(()),
    }
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
