//! One page of a lane's list, read with suspicion.
//!
//! Asks always with an explicit order, size and day window (`fullscript-api.md` §7.1). Knows nothing of what a record
//! holds. A page that is no page is the lane's trouble ([`Trouble::Contract`]); a single malformed event on a good
//! page is reported beside the good ones, so that it costs nobody else's event.

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use ring::digest;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::budget::Share;
use crate::api::{Api, Trouble};
use crate::domain::{ClinicId, EventId, EventType, IdError, Lane, ListDigest, Reference};

/// The vendor's largest page.
const PAGE_SIZE: u32 = 100;
/// A page of a hundred references is some 20 KiB; a hundred times that is no page.
const LARGEST_PAGE: usize = 2 << 20;

/// The days that are asked for. Wider than what is wanted: the bounds may be exclusive, and the vendor's day may be
/// cut at another midnight (`fullscript-api.md` §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    /// Asks for what is after this day.
    pub after: NaiveDate,
    /// Asks for what is up to this day.
    pub until: Option<NaiveDate>,
}

impl Days {
    fn filter(self) -> String {
        match self.until {
            None => format!(">{}", self.after),
            Some(until) => format!("{}..{until}", self.after),
        }
    }
}

/// A page of a list, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The events that could be read.
    pub references: Vec<Reference>,
    /// What was wrong with those that could not.
    pub malformed: Option<String>,
    /// The next page, if there is one.
    pub next: Option<u32>,
    /// Whether the page really is newest first: only then may a sweep stop before the end.
    pub descending: bool,
    /// The clinic that the grant is pinned to that asked for it, if it is yet.
    pub clinic_id: Option<ClinicId>,
}

/// A page as it came: not read yet, because most are the one of a minute ago.
pub struct Page {
    /// The server's clock.
    pub server_now: Option<DateTime<Utc>>,
    clinic_id: Option<ClinicId>,
    lane: Lane,
    number: u32,
    body: Bytes,
}

impl Page {
    /// Tells whether this page is another one than before; `None` before the grant is pinned. The clinic belongs to it,
    /// because whose events these are depends on it, and the day, because the ledger notes on which day an event was
    /// last listed.
    pub fn digest(&self, today: NaiveDate) -> Option<ListDigest> {
        let clinic_id = self.clinic_id.as_ref()?.as_str();
        let mut context = digest::Context::new(&digest::SHA256);
        // Neither holds a line break.
        context.update(format!("{today}\n{clinic_id}\n").as_bytes());
        context.update(&self.body);
        context.finish().as_ref().try_into().ok().map(ListDigest)
    }

    /// What it says.
    pub fn read(self) -> Result<Listing, Trouble> {
        let (number, lane) = (self.number, self.lane);
        let mut listing = read(&self.body, number)
            .map_err(|problem| Trouble::Contract(format!("page {number} of {lane}: {problem}")))?;
        listing.clinic_id = self.clinic_id;
        Ok(listing)
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    // Each is read on its own: one that is malformed must not cost the page.
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    next_page: Option<u32>,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    r#type: String,
    created_at: DateTime<Utc>,
    clinic_id: Option<String>,
}

/// Asks for page `number` of a lane.
pub async fn page(
    api: &Api,
    lane: &Lane,
    days: Days,
    number: u32,
    share: Share,
) -> Result<Page, Trouble> {
    let mut url = api.url(&["events", lane.category.as_str()]);
    url.query_pairs_mut()
        .append_pair("created_at", &days.filter())
        .append_pair("sort_by", "created_at")
        .append_pair("order_by", "DESC")
        .append_pair("page[number]", &number.to_string())
        .append_pair("page[size]", &PAGE_SIZE.to_string());
    let reply = api.get(&lane.clinic, url, share, LARGEST_PAGE).await?;
    Ok(Page {
        server_now: reply.server_now(),
        clinic_id: reply.clinic_id().cloned(),
        lane: lane.clone(),
        number,
        body: reply.body,
    })
}

/// Reads a page. Errors never repeat the body: an HTML page may hold anything.
fn read(body: &[u8], number: u32) -> Result<Listing, String> {
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| {
        format!(
            "not the list that the contract describes ({:?} at line {}, column {})",
            error.classify(),
            error.line(),
            error.column()
        )
    })?;
    let next = body.meta.next_page;
    if let Some(next) = next {
        if next <= number {
            return Err(format!("its next_page is {next}, which goes in a circle"));
        }
        if body.events.is_empty() {
            return Err(format!("it is empty and yet names page {next} as the next"));
        }
    }
    let mut references = Vec::with_capacity(body.events.len());
    let mut malformed = None;
    for (place, item) in (1..).zip(body.events) {
        match reference(item) {
            Ok(reference) => references.push(reference),
            Err(error) => {
                malformed.get_or_insert_with(|| format!("event {place} of page {number}: {error}"));
            }
        }
    }
    let descending =
        references.is_sorted_by(|a: &Reference, b: &Reference| a.created_at >= b.created_at);
    Ok(Listing {
        references,
        malformed,
        next,
        descending,
        clinic_id: None,
    })
}

/// Why an event on a good page cannot be read.
#[derive(Debug, thiserror::Error)]
enum Malformed {
    #[error("not the reference that the contract describes")]
    NoReference,
    #[error(transparent)]
    Id(#[from] IdError),
}

fn reference(item: &RawValue) -> Result<Reference, Malformed> {
    let item: Item = serde_json::from_str(item.get()).map_err(|_| Malformed::NoReference)?;
    Ok(Reference {
        id: EventId::new(item.id)?,
        event_type: EventType::new(item.r#type)?,
        created_at: item.created_at,
        clinic_id: item.clinic_id.map(ClinicId::new).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Category, ClinicName};

    fn body(events: &str, next: &str) -> String {
        format!(r#"{{"events":[{events}],"meta":{{"next_page":{next}}},"more":1}}"#)
    }

    fn item(id: &str, second: u8) -> String {
        format!(r#"{{"id":"{id}","type":"a.b","created_at":"2026-01-01T00:00:0{second}.000Z"}}"#)
    }

    #[test]
    fn a_page_that_goes_in_a_circle_or_is_none_is_refused_without_repeating_it() {
        let circle = read(body(&item("a", 1), "2").as_bytes(), 2).unwrap_err();
        assert!(circle.contains("circle"));
        assert!(
            read(body("", "7").as_bytes(), 6)
                .unwrap_err()
                .contains("empty")
        );
        for bad in [
            "<html>Jane Doe</html>",
            r#"{"events":[]}"#,
            r#"{"events":[{"id":"#,
            "",
        ] {
            let error = read(bad.as_bytes(), 1).unwrap_err();
            assert!(
                error.contains("contract") && !error.contains("Jane"),
                "{error}"
            );
        }
    }

    #[test]
    fn one_malformed_event_does_not_cost_the_others() {
        let events = [item("a", 3), item(r"b\nc", 2), item("d", 1)].join(",");
        let listing = read(body(&events, "null").as_bytes(), 1).unwrap();
        let ids: Vec<_> = listing.references.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["a", "d"]);
        assert_eq!(
            listing.malformed.unwrap(),
            "event 2 of page 1: an id contains a control character"
        );
    }

    #[test]
    fn one_oddly_typed_event_does_not_cost_the_others() {
        let odd = r#"{"id":7,"type":null}"#.to_owned();
        let events = [item("a", 3), odd, item("d", 1)].join(",");
        let listing = read(body(&events, "null").as_bytes(), 1).unwrap();
        assert_eq!(listing.references.len(), 2);
        assert_eq!(
            listing.malformed.unwrap(),
            "event 2 of page 1: not the reference that the contract describes"
        );
    }

    #[test]
    fn a_page_is_another_one_on_another_day_of_another_clinic_and_with_another_byte() {
        let page = |body: &str, clinic_id: Option<&str>| Page {
            server_now: None,
            clinic_id: clinic_id.map(|id| ClinicId::new(id).unwrap()),
            lane: Lane {
                clinic: ClinicName::new("oak").unwrap(),
                category: Category::new("patients").unwrap(),
            },
            number: 1,
            body: Bytes::from(body.to_owned()),
        };
        let today: NaiveDate = "2026-03-20".parse().unwrap();
        let digest = |body, clinic_id, day| page(body, clinic_id).digest(day);
        let first = digest("{}", Some("c1"), today);
        assert!(first.is_some());
        assert_eq!(digest("{}", Some("c1"), today), first);
        assert_ne!(digest("{} ", Some("c1"), today), first);
        assert_ne!(digest("{}", Some("c2"), today), first);
        assert_ne!(digest("{}", Some("c1"), today.succ_opt().unwrap()), first);
        assert_eq!(digest("{}", None, today), None, "whose it is, is not known");
    }

    #[test]
    fn a_page_in_another_order_is_noticed() {
        let read = |a, b| {
            read(
                body(&[item("a", a), item("b", b)].join(","), "null").as_bytes(),
                1,
            )
        };
        assert!(read(2, 1).unwrap().descending);
        assert!(read(1, 1).unwrap().descending);
        assert!(!read(1, 2).unwrap().descending);
    }

    #[test]
    fn days_are_asked_for_as_the_contract_writes_them() {
        let after = "2026-03-01".parse().unwrap();
        assert_eq!(Days { after, until: None }.filter(), ">2026-03-01");
        let until = "2026-03-04".parse().ok();
        assert_eq!(Days { after, until }.filter(), "2026-03-01..2026-03-04");
    }
}
