//! Details: which events are owed a fetch, and what the fetch brought.
//!
//! Nothing says so but the deliveries: an event is owed while one of them is queued and its body is not here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row};

use super::order;
use super::outbox::{self, Claim, DueNow};
use super::{EventKey, Ledger, SinkId, at, body_place, damaged, ms, numbers, output};
use crate::audit::Attested;
use crate::domain::{ClinicId, ClinicName, EventBody, EventId, EventType, Reference};
use crate::store::{Sealer, Unavailable};

/// An event whose detail is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Its number.
    pub event: EventKey,
    /// What the listing said of it.
    pub reference: Reference,
    /// Failed fetches so far.
    pub failures: u32,
    /// The ledger says why it could not be fetched.
    pub in_trouble: bool,
}

/// What a clinic is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owing {
    /// The oldest events.
    pub events: Vec<Owed>,
    /// There are no others.
    pub whole: bool,
}

/// A detail that is here. Carries health data: no `Debug`.
#[derive(Clone)]
pub struct Detail {
    /// The event's number.
    pub event: EventKey,
    /// What the listing said of it.
    pub reference: Reference,
    /// What the retrieve gave.
    pub body: EventBody,
    /// See [`Owed::in_trouble`]: that is over now.
    pub in_trouble: bool,
    /// The record of its being read.
    pub attested: Attested,
}

/// A sink that can take deliveries at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Which.
    pub sink: SinkId,
    /// How much: the bodies' [`EventBody::kib`].
    pub kib: usize,
}

/// What became of fetched details.
pub struct Fetched {
    /// Claimed at once, for this sink; their bodies are nowhere else.
    pub claims: Vec<(SinkId, Claim)>,
    /// Sinks that have more work in the ledger now.
    pub ready: Vec<SinkId>,
}

impl Ledger {
    /// The details that a clinic is owed at `now` beside those `taken` already, the oldest event first, at most `limit`.
    /// At least one if nothing is taken and there is one.
    pub async fn owed(
        &self,
        clinic: &ClinicName,
        now: DateTime<Utc>,
        taken: HashSet<EventKey>,
        limit: usize,
    ) -> Result<Owing, Unavailable> {
        let clinic = clinic.as_str().to_owned();
        self.store
            .read(move |c| owed_to(c, &clinic, now, &taken, limit))
            .await
    }

    /// The clinics that are owed a detail at `now`.
    pub async fn clinics_owed(&self, now: DateTime<Utc>) -> Result<Vec<ClinicName>, Unavailable> {
        self.store
            .read(move |c| {
                c.prepare_cached(
                    "SELECT DISTINCT clinic FROM lane WHERE EXISTS
                       (SELECT 1 FROM delivery WHERE through = lane.lane AND state = 'queued' AND ready = 0 AND due_at <= ?1)",
                )?
                .query_map([ms(now)], |row| {
                    ClinicName::new(row.get::<_, String>(0)?)
                        .map_err(|_| damaged(0, "a malformed clinic name"))
                })?
                .collect()
            })
            .await
    }

    /// Details are here. Those that `takers` can take at once are claimed for them, and their bodies stay in memory
    /// (see `handover`); the bodies of all others are sealed and kept, and their deliveries made ready. One transaction,
    /// all or nothing.
    pub async fn fetched(
        &self,
        details: &Arc<[Detail]>,
        takers: Vec<Taker>,
        now: DateTime<Utc>,
    ) -> Result<Fetched, Unavailable> {
        let (epoch, sealer, fetched) =
            (self.epoch, self.store.sealer().clone(), Arc::clone(details));
        let attested = Attested::all(details.iter().map(|detail| &detail.attested));
        let kept = self.store.write(move |c| {
            attested.insert(c)?;
            let due = outbox::claim_fetched(c, &fetched, &takers, epoch, now)?;
            let ready = keep(c, &sealer, &fetched, &due)?;
            Ok((due, ready))
        });
        let (due, ready) = kept.await?;
        let of_event: HashMap<EventKey, &Detail> = details
            .iter()
            .map(|detail| (detail.event, detail))
            .collect();
        let claims = due.into_iter().filter_map(|due| {
            let detail = *of_event.get(&due.event)?;
            Some((due.sink, due.claimed(detail, epoch)))
        });
        Ok(Fetched {
            claims: claims.collect(),
            ready,
        })
    }

    /// A fetch failed: the event is owed again at `retry_at`.
    pub async fn fetch_failed(
        &self,
        event: EventKey,
        trouble: String,
        retry_at: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                c.prepare_cached(
                    "UPDATE event SET fetch_failures = fetch_failures + 1, fetch_trouble = ?1 WHERE event = ?2",
                )?
                .execute((&trouble, event.0))?;
                c.prepare_cached(
                    "UPDATE delivery SET due_at = max(due_at, ?1) WHERE event = ?2 AND state = 'queued' AND ready = 0",
                )?
                .execute((ms(retry_at), event.0))
                .map(drop)
            })
            .await
    }

    /// A clinic's grant does not work: what it is owed and another clinic has listed too is handed over to that one,
    /// and what is older than the vendor keeps events is given up. `too_old` is that edge.
    pub async fn hand_over(
        &self,
        clinic: &ClinicName,
        too_old: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        const OTHER: &str = "SELECT s.lane FROM sighting s JOIN lane l USING (lane) WHERE s.event = event.event AND l.clinic <> ?1";
        let clinic = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                let through = "through IN (SELECT lane FROM lane WHERE clinic = ?1) AND state = 'queued' AND ready = 0";
                let owed = format!("event IN (SELECT event FROM delivery WHERE {through})");
                c.prepare_cached(&format!(
                    "INSERT OR IGNORE INTO sighting (event, lane)
                     SELECT event, lane FROM event WHERE {owed} AND EXISTS ({OTHER})"
                ))?
                .execute([&clinic])?;
                c.prepare_cached(&format!(
                    "UPDATE event SET lane = ({OTHER} LIMIT 1) WHERE {owed} AND EXISTS ({OTHER})"
                ))?
                .execute([&clinic])?;
                c.prepare_cached(&format!(
                    "UPDATE delivery SET through = (SELECT e.lane FROM event e WHERE e.event = delivery.event) WHERE {through}"
                ))?
                .execute([&clinic])?;
                let lost = c
                    .prepare_cached(&format!(
                        "SELECT event FROM event WHERE {owed} AND created_at < ?2"
                    ))?
                    .query_map((&clinic, ms(too_old)), |row| row.get(0).map(EventKey))?
                    .collect::<rusqlite::Result<Vec<_>>>()?;
                for event in lost {
                    skip_all(c, event, "unreachable", now)?;
                }
                Ok(())
            })
            .await
    }

    /// The vendor does not have the event any more: its deliveries are skipped with this reason.
    pub async fn fetch_gone(
        &self,
        event: EventKey,
        reason: &'static str,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        self.store
            .write(move |c| skip_all(c, event, reason, now))
            .await
    }
}

/// Keeps the bodies that nobody has claimed; gives the sinks that have work now.
fn keep(
    c: &Connection,
    sealer: &Sealer,
    fetched: &[Detail],
    claimed: &[DueNow],
) -> rusqlite::Result<Vec<SinkId>> {
    let mended = fetched.iter().filter(|detail| detail.in_trouble);
    let mended = numbers(mended.map(|detail| detail.event.0));
    if !mended.is_empty() {
        c.prepare_cached("UPDATE event SET fetch_trouble = NULL WHERE event IN rarray(?1)")?
            .execute([mended])?;
    }
    let claimed: HashSet<EventKey> = claimed.iter().map(|due| due.event).collect();
    let waiting = || {
        fetched
            .iter()
            .filter(|detail| !claimed.contains(&detail.event))
    };
    if waiting().next().is_none() {
        return Ok(Vec::new());
    }
    for detail in waiting() {
        let event_type = &detail.reference.event_type;
        keep_body(c, sealer, (detail.event, event_type), &detail.body)?;
    }
    let events = numbers(waiting().map(|detail| detail.event.0));
    let sinks = c
        .prepare_cached(
            "SELECT DISTINCT sink FROM delivery WHERE event IN rarray(?1) AND state = 'queued'",
        )?
        .query_map([&events], |row| row.get(0).map(SinkId))?
        .collect::<rusqlite::Result<_>>()?;
    c.prepare_cached(
        "UPDATE delivery SET ready = 1 WHERE event IN rarray(?1) AND state = 'queued' AND ready = 0",
    )?
    .execute([&events])?;
    order::line_up(c, &events)?;
    // Nobody may wait for one of them any more.
    outbox::forget_bodies(c, &events)?;
    Ok(sinks)
}

/// Seals a body and keeps it. One that is here already stays: every attempt has the same bytes.
pub(super) fn keep_body(
    c: &Connection,
    sealer: &Sealer,
    (event, event_type): (EventKey, &EventType),
    body: &EventBody,
) -> rusqlite::Result<()> {
    c.prepare_cached("INSERT OR IGNORE INTO body (event, sealed, patient) VALUES (?1, ?2, ?3)")?
        .execute((
            event.0,
            sealer.seal(&body_place(event), body.as_json().as_bytes()),
            order::patient_key(event_type, body),
        ))
        .map(drop)
}

fn skip_all(
    c: &Connection,
    event: EventKey,
    reason: &str,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    c.prepare_cached("UPDATE event SET fetch_trouble = ?1 WHERE event = ?2")?
        .execute((reason, event.0))?;
    c.prepare_cached(
        "UPDATE delivery SET state = 'skipped', reason = ?1, settled_at = ?2 WHERE event = ?3 AND state = 'queued'",
    )?
    .execute((reason, ms(now), event.0))?;
    output::forget_of(c, &numbers([event.0]))?;
    order::next_in_line(c, &order::of_event(c, event)?)
}

/// Asks lane by lane, which the index alone answers in order: over all lanes at once, SQLite would read and sort
/// everything that the clinic is owed, however long its backlog. Of each lane a share is asked for; up to where the
/// first of the shares ends, the order over all lanes is known.
fn owed_to(
    c: &Connection,
    clinic: &str,
    now: DateTime<Utc>,
    taken: &HashSet<EventKey>,
    limit: usize,
) -> rusqlite::Result<Owing> {
    let lanes: Vec<i64> = c
        .prepare_cached("SELECT lane FROM lane WHERE clinic = ?1")?
        .query_map([clinic], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let share = (2 * (taken.len() + limit)).div_ceil(lanes.len().max(1));
    let mut of_lane = c.prepare_cached(
        "SELECT due_at, event FROM delivery WHERE through = ?1 AND state = 'queued' AND ready = 0 AND due_at <= ?2
         ORDER BY due_at, event LIMIT ?3",
    )?;
    let mut all: Vec<(i64, i64)> = Vec::new();
    let mut known_to: Option<(i64, i64)> = None;
    for lane in lanes {
        let before = all.len();
        for row in
            of_lane.query_map((lane, ms(now), share), |row| Ok((row.get(0)?, row.get(1)?)))?
        {
            all.push(row?);
        }
        if all.len() - before == share {
            let end = all.last().copied();
            known_to = if known_to.is_none() {
                end
            } else {
                known_to.min(end)
            };
        }
    }
    all.sort_unstable();
    // An event is owed once, however many sinks wait for it.
    let mut seen = HashSet::new();
    all.retain(|(_, event)| seen.insert(*event));
    all.retain(|owed| {
        known_to.is_none_or(|end| *owed <= end) && !taken.contains(&EventKey(owed.1))
    });
    let whole = known_to.is_none() && all.len() <= limit;
    let mut of_event = c.prepare_cached(
        "SELECT event, id, type, created_at, clinic_id, fetch_failures, fetch_trouble IS NOT NULL
         FROM event WHERE event = ?1",
    )?;
    let oldest = all.into_iter().take(limit);
    let events = oldest.map(|(_, event)| of_event.query_row([event], owed));
    Ok(Owing {
        events: events.collect::<rusqlite::Result<_>>()?,
        whole,
    })
}

pub(super) fn owed(row: &Row<'_>) -> rusqlite::Result<Owed> {
    Ok(Owed {
        event: EventKey(row.get(0)?),
        reference: Reference {
            id: EventId::new(row.get::<_, String>(1)?)
                .map_err(|_| damaged(1, "a malformed event id"))?,
            event_type: EventType::new(row.get::<_, String>(2)?)
                .map_err(|_| damaged(2, "a malformed event type"))?,
            created_at: at(row.get(3)?),
            clinic_id: row
                .get::<_, Option<String>>(4)?
                .map(ClinicId::new)
                .transpose()
                .map_err(|_| damaged(4, "a malformed clinic id"))?,
        },
        failures: row.get(5)?,
        in_trouble: row.get(6)?,
    })
}
