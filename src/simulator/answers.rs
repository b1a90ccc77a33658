//! What lists and retrieves say to an authenticated caller (`fullscript-api.md` §2), with the faults that change their
//! content.

use serde::Serialize;

use super::data::Reference;
use super::events::created_at;
use super::faults::Fault;
use super::handle::Handle;
use super::listing::{self, Meta, Order, Query, SortBy};
use super::world::World;
use super::{ClinicCounters, Counters};
use crate::domain::KNOWN_CATEGORIES;

/// How long the id of [`Fault::HugeId`] is.
const HUGE: usize = 1 << 20;
/// An id of nothing here.
pub(super) const ELSEWHERE: &str = "00000000-0000-4000-8000-000000000000";

#[derive(Serialize)]
struct List<'a> {
    events: Vec<Reference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Meta>,
}

/// Who a valid access token belongs to.
pub(super) struct Caller {
    pub(super) clinic: u32,
    pub(super) scopes: Vec<String>,
}

/// Why an authenticated request gets nothing.
pub(super) enum Refusal {
    /// 403: its scope is missing.
    Scope,
    /// 404: it does not exist for this clinic, or not any more.
    NotFound,
}

/// The text of a list.
pub(super) fn list(
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
            Some(Reference {
                id,
                event_type: events.type_of(record),
                created_at: created_at(record.created),
                clinic_id: match fault {
                    Some(Fault::WrongClinic) => Some(ELSEWHERE),
                    _ => world.clinic_id_of(record),
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

/// The text of an event, counted as retrieved.
pub(super) fn retrieve(
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
    let mut text = world
        .reply_for(&handle.options, index)
        .ok_or(Refusal::NotFound)?;
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
    of_all: impl FnOnce(&mut Counters),
    of_clinic: impl FnOnce(&mut ClinicCounters),
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
