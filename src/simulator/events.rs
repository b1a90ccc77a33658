//! Every event there is, as 32 bytes each: ids and bodies are computed from the seed and the index when asked for, so
//! that a million events fit and a page of them costs a page.
//!
//! A list is the indices of the events of one category that one clinic sees, by `created_at`. An event that is not yet
//! visible waits apart and is put in its place when its time has come, as a late one is at Fullscript.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};

use super::seeded::{event_id, event_index};
use crate::domain::KNOWN_CATEGORIES;

/// How long an event can be listed and retrieved.
const RETENTION: TimeDelta = TimeDelta::days(30);

/// One event, without its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Unix seconds.
    pub(super) created: i64,
    /// From when on it is shown, Unix seconds.
    pub(super) visible: i64,
    /// Its clinic; `None` for an event that belongs to none and that every clinic may retrieve.
    pub(super) clinic: Option<u32>,
    /// How often it was retrieved with a 200.
    pub(super) retrieved: u32,
    event_type: u16,
    category: u16,
}

/// Names as small numbers.
#[derive(Debug, Default)]
struct Names {
    texts: Vec<String>,
    numbers: HashMap<String, u16>,
}

impl Names {
    fn number(&mut self, text: &str) -> u16 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        // More than 65,535 names share the last number: nobody makes so many types by hand.
        let number = u16::try_from(self.texts.len()).unwrap_or(u16::MAX);
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    fn text(&self, number: u16) -> &str {
        self.texts
            .get(usize::from(number))
            .map_or("", String::as_str)
    }
}

/// All events.
#[derive(Debug)]
pub(super) struct Events {
    seed: u64,
    records: Vec<Record>,
    types: Names,
    categories: Names,
    lists: HashMap<(u32, u16), Vec<u32>>,
    /// (visible, index, clinic, category) of what is not shown yet.
    pending: BTreeSet<(i64, u32, u32, u16)>,
}

/// A new event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft<'a> {
    pub(super) event_type: &'a str,
    pub(super) category: &'a str,
    pub(super) clinic: Option<u32>,
    pub(super) created: i64,
    pub(super) visible: i64,
}

impl Events {
    pub(super) fn new(seed: u64) -> Self {
        let mut categories = Names::default();
        for known in KNOWN_CATEGORIES {
            categories.number(known.name);
        }
        Self {
            seed,
            records: Vec::new(),
            types: Names::default(),
            categories,
            lists: HashMap::new(),
            pending: BTreeSet::new(),
        }
    }

    /// Makes an event and gives its index; it is shown in the lists of these clinics.
    pub(super) fn add(
        &mut self,
        draft: Draft<'_>,
        shown_to: impl IntoIterator<Item = u32>,
        now: i64,
    ) -> u32 {
        let index = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        let category = self.categories.number(draft.category);
        self.records.push(Record {
            created: draft.created,
            visible: draft.visible,
            clinic: draft.clinic,
            retrieved: 0,
            event_type: self.types.number(draft.event_type),
            category,
        });
        for clinic in shown_to {
            if draft.visible <= now {
                self.show(index, clinic, category);
            } else {
                self.pending
                    .insert((draft.visible, index, clinic, category));
            }
        }
        index
    }

    /// Puts what has become visible into its lists.
    pub(super) fn settle(&mut self, now: i64) {
        while let Some(&next) = self.pending.first() {
            let (visible, index, clinic, category) = next;
            if visible > now {
                return;
            }
            self.pending.remove(&next);
            self.show(index, clinic, category);
        }
    }

    fn show(&mut self, index: u32, clinic: u32, category: u16) {
        let created = created_of(&self.records, index);
        let list = self.lists.entry((clinic, category)).or_default();
        let at = list.partition_point(|&other| {
            (created_of(&self.records, other), other) <= (created, index)
        });
        list.insert(at, index);
    }

    /// The events of a list whose `created_at` is in the span, by `created_at`; aged-out ones are gone.
    pub(super) fn listed(&self, clinic: u32, category: &str, span: Range<i64>, now: i64) -> &[u32] {
        let list = self
            .categories
            .numbers
            .get(category)
            .and_then(|&category| self.lists.get(&(clinic, category)))
            .map_or(&[][..], Vec::as_slice);
        let from = span.start.max(now.saturating_sub(RETENTION.num_seconds()));
        let start = list.partition_point(|&index| created_of(&self.records, index) < from);
        let end = list.partition_point(|&index| created_of(&self.records, index) < span.end);
        list.get(start..end).unwrap_or_default()
    }

    /// The event of this id, if it is visible and has not aged out.
    pub(super) fn find(&self, id: &str, now: i64) -> Option<u32> {
        let index = event_index(self.seed, id)?;
        let record = self.get(index)?;
        let alive = record.visible <= now && record.created >= now - RETENTION.num_seconds();
        alive.then_some(index)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Record> {
        self.records.get(usize::try_from(index).ok()?)
    }

    /// Counts a retrieve.
    pub(super) fn count_retrieve(&mut self, index: u32) {
        if let Some(record) = usize::try_from(index)
            .ok()
            .and_then(|at| self.records.get_mut(at))
        {
            record.retrieved += 1;
        }
    }

    pub(super) fn id(&self, index: u32) -> String {
        event_id(self.seed, index)
    }

    pub(super) fn index(&self, id: &str) -> Option<u32> {
        event_index(self.seed, id).filter(|&index| self.get(index).is_some())
    }

    pub(super) fn type_of(&self, record: &Record) -> &str {
        self.types.text(record.event_type)
    }

    pub(super) fn category_of(&self, record: &Record) -> &str {
        self.categories.text(record.category)
    }

    /// Whether a list endpoint of this name exists.
    pub(super) fn has_category(&self, name: &str) -> bool {
        self.categories.numbers.contains_key(name)
    }

    /// Every event that was ever made, oldest index first.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Record)> {
        (0..).zip(&self.records)
    }

    /// The indices of what a clinic's lists show or will show, aged-out events included, in the order of making.
    pub(super) fn shown_to(&self, clinic: u32) -> Vec<u32> {
        let lists = self.lists.iter().filter(|((of, _), _)| *of == clinic);
        let shown = lists.flat_map(|(_, list)| list.iter().copied());
        let pending = self.pending.iter().filter(|(_, _, of, _)| *of == clinic);
        let mut indices: Vec<u32> = shown.chain(pending.map(|&(_, index, ..)| index)).collect();
        indices.sort_unstable();
        indices
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

fn created_of(records: &[Record], index: u32) -> i64 {
    usize::try_from(index)
        .ok()
        .and_then(|at| records.get(at))
        .map_or(i64::MAX, |record| record.created)
}

/// `created_at` as Fullscript writes it: UTC, milliseconds that are always `.000`.
pub(super) fn created_at(seconds: i64) -> String {
    DateTime::<Utc>::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .format("%Y-%m-%dT%H:%M:%S.000Z")
        .to_string()
}

/// The list in which an event of this type is found: the contract's, or for an unknown type one named after its first
/// segment, such as `fulfillments`.
pub(super) fn category_for(event_type: &str) -> String {
    let family = event_type.split('.').next().unwrap_or_default();
    KNOWN_CATEGORIES
        .iter()
        .find(|known| {
            known
                .event_types
                .iter()
                .any(|known| known.split('.').next() == Some(family))
        })
        .map_or_else(|| format!("{family}s"), |known| known.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn add(events: &mut Events, created: i64, visible: i64, now: i64) -> u32 {
        let draft = Draft {
            event_type: "patient.created",
            category: "patients",
            clinic: Some(0),
            created,
            visible,
        };
        events.add(draft, [0], now)
    }

    fn all_listed(events: &Events, now: i64) -> Vec<u32> {
        events
            .listed(0, "patients", i64::MIN..i64::MAX, now)
            .to_vec()
    }

    #[test]
    fn an_event_ages_out_of_the_list_and_of_the_retrieve_together() {
        let mut events = Events::new(1);
        let now = 100 * DAY;
        let index = add(&mut events, now, now, now);
        let id = events.id(index);
        let edge = now + 30 * DAY;
        assert_eq!(all_listed(&events, edge), [index]);
        assert_eq!(events.find(&id, edge), Some(index));
        assert!(all_listed(&events, edge + 1).is_empty());
        assert_eq!(events.find(&id, edge + 1), None);
    }

    #[test]
    fn a_late_event_appears_behind_the_newest_with_its_old_time() {
        let mut events = Events::new(1);
        let late = add(&mut events, 1000, 1100, 1000);
        let newest = add(&mut events, 1050, 1050, 1050);
        events.settle(1099);
        assert_eq!(all_listed(&events, 1099), [newest]);
        assert_eq!(events.find(&events.id(late), 1099), None);
        events.settle(1100);
        assert_eq!(all_listed(&events, 1100), [late, newest]);
        assert_eq!(events.find(&events.id(late), 1100), Some(late));
    }

    #[test]
    fn unknown_types_get_a_list_of_their_own() {
        assert_eq!(
            category_for("treatment_plan.recommendation.updated"),
            "treatment_plans"
        );
        assert_eq!(category_for("order.cancelled"), "orders");
        assert_eq!(category_for("fulfillment.shipment.shipped"), "fulfillments");
    }
}
