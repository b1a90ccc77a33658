//! Deliveries whose bodies are never kept (`bodies = "never"`): each is fetched for each attempt, and claimed with what
//! was fetched.
//!
//! What an attempt that may have arrived has sent is remembered by its digest alone: the same event may read otherwise
//! when it is fetched again, and then a second attempt would not be the same message. Such a delivery is held.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ring::digest;
use rusqlite::{Connection, OptionalExtension};

use super::details::{self, Owed};
use super::outbox::{self, Claim};
use super::query::time;
use super::{EventKey, LONGEST_WAIT_FOR_SWEEP, Ledger, Next, SinkId, at, damaged, ms};
use crate::decide::Facts;
use crate::domain::{ClinicName, DeliveryId, EventBody, Reference};
use crate::store::{Epoch, OpenError, Unavailable};

/// Why a delivery is held whose event reads otherwise than before.
const CHANGED: &str =
    "it may have been delivered before, and Fullscript tells the event differently now";

/// A delivery that is due and waits for its event to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The clinic that fetches it.
    pub through: ClinicName,
    /// Its event.
    pub owed: Owed,
}

/// A delivery and its event, fetched just now. Carries health data: no `Debug`.
pub struct Brought {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The event's number.
    pub event: EventKey,
    /// What the listing said of it.
    pub reference: Reference,
    /// The event.
    pub body: EventBody,
}

/// What is in a sink's hands already, and what is left alone.
#[derive(Clone, Debug, Default)]
pub struct InHand {
    /// These are being fetched, or were.
    pub deliveries: HashMap<DeliveryId, ClinicName>,
    /// Nothing can be fetched of these clinics for a while.
    pub resting: HashSet<ClinicName>,
    /// At most so many of one clinic are fetched at once.
    pub of_clinic: usize,
}

impl Ledger {
    /// Notes whether bodies are kept: where they are not, those that are here are dropped, and what waits is fetched
    /// again for each attempt.
    pub async fn keep_bodies(&self, are_kept: bool) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                if are_kept {
                    // Every event that is admitted would write it.
                    return c.execute_batch("DROP INDEX IF EXISTS delivery_unkept");
                }
                c.execute_batch(
                    "CREATE INDEX IF NOT EXISTS delivery_unkept ON delivery (sink, due_at, delivery)
                       WHERE state = 'queued' AND ready = 0;
                     DELETE FROM body;
                     UPDATE delivery SET ready = 0 WHERE state = 'queued' AND ready > 0",
                )
            })
            .await
    }

    /// Leaves nothing of what was deleted: see [`crate::store::Store::empty_log`].
    pub async fn empty_log(&self) -> Result<(), OpenError> {
        self.store.empty_log().await
    }

    /// As [`Ledger::next`], where bodies are not kept.
    pub async fn next_unkept(&self, sink: SinkId) -> Result<Next, Unavailable> {
        self.next_of(sink, "ready = 0").await
    }

    /// At most `limit` deliveries of a sink that are due at `now` and nobody has in hand, the oldest event first.
    pub async fn wanted(
        &self,
        sink: SinkId,
        in_hand: InHand,
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Vec<Wanted>, Unavailable> {
        self.store
            .read(move |c| wanted(c, sink, &in_hand, limit, now))
            .await
    }

    /// Claims what was fetched. What may have been delivered with other bytes is held instead.
    pub async fn claim_brought(
        &self,
        brought: Vec<Brought>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Claim>, Unavailable> {
        let epoch = self.epoch;
        let brought: Arc<[Brought]> = brought.into();
        let all = Arc::clone(&brought);
        let claimed = self
            .store
            .write(move |c| {
                let claimed = all.iter().map(|one| claim(c, one, epoch, now));
                claimed.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        let claims = brought.iter().zip(claimed).filter_map(|(one, claimed)| {
            let (clinic, facts, sent_before) = claimed?;
            Some(Claim::unkept(one, clinic, facts, sent_before, epoch))
        });
        Ok(claims.collect())
    }
}

fn wanted(
    c: &Connection,
    sink: SinkId,
    in_hand: &InHand,
    limit: usize,
    now: DateTime<Utc>,
) -> rusqlite::Result<Vec<Wanted>> {
    let mut due = c.prepare_cached(
        "SELECT event, id, type, created_at, clinic_id, fetch_failures, fetch_trouble IS NOT NULL, delivery, t.clinic
         FROM delivery d JOIN event e USING (event) JOIN lane l ON l.lane = d.lane JOIN lane t ON t.lane = d.through
         WHERE d.sink = ?1 AND d.state = 'queued' AND d.ready = 0 AND d.due_at <= ?2
           AND (event <= l.released OR admitted_at <= ?3)
         ORDER BY d.due_at, d.delivery",
    )?;
    let mut rows = due.query((sink.0, ms(now), ms(now - LONGEST_WAIT_FOR_SWEEP)))?;
    let mut of_clinic: HashMap<ClinicName, usize> = HashMap::new();
    for clinic in in_hand.deliveries.values() {
        *of_clinic.entry(clinic.clone()).or_default() += 1;
    }
    let mut wanted = Vec::new();
    while wanted.len() < limit
        && let Some(row) = rows.next()?
    {
        let delivery = DeliveryId(row.get(7)?);
        let through = ClinicName::new(row.get::<_, String>(8)?)
            .map_err(|_| damaged(8, "a malformed clinic name"))?;
        if in_hand.deliveries.contains_key(&delivery) || in_hand.resting.contains(&through) {
            continue;
        }
        let taken = of_clinic.entry(through.clone()).or_default();
        if *taken < in_hand.of_clinic {
            *taken += 1;
            wanted.push(Wanted {
                delivery,
                through,
                owed: details::owed(row)?,
            });
        }
    }
    Ok(wanted)
}

/// The clinic that the sink is told, the facts, and whether an earlier attempt may have arrived.
type Claimed = Option<(ClinicName, Facts, bool)>;

fn claim(
    c: &Connection,
    brought: &Brought,
    epoch: Epoch,
    now: DateTime<Utc>,
) -> rusqlite::Result<Claimed> {
    let digest = digest::digest(&digest::SHA256, brought.body.as_json().as_bytes());
    let known = c
        .prepare_cached(
            "SELECT maybe_sent, clinic, attempts, refusals, issued_at, failing_since
             FROM delivery JOIN lane USING (lane) WHERE delivery = ?1 AND state = 'queued'",
        )?
        .query_row([brought.delivery.0], |row| {
            let facts = Facts {
                attempt: row.get::<_, u32>(2)?.saturating_add(1),
                refusals: row.get(3)?,
                issued_at: at(row.get(4)?),
                failing_since: time(row, 5)?,
            };
            Ok((
                row.get::<_, Option<Vec<u8>>>(0)?,
                row.get::<_, String>(1)?,
                facts,
            ))
        })
        .optional()?;
    let Some((maybe_sent, clinic, facts)) = known else {
        return Ok(None);
    };
    if maybe_sent
        .as_deref()
        .is_some_and(|sent| sent != digest.as_ref())
    {
        c.prepare_cached(
            "UPDATE delivery SET state = 'held', reason = ?1, settled_at = ?2 WHERE delivery = ?3",
        )?
        .execute((CHANGED, ms(now), brought.delivery.0))?;
        return Ok(None);
    }
    outbox::mark_claimed(c, std::iter::once(brought.delivery), epoch)?;
    c.prepare_cached("UPDATE delivery SET maybe_sent = ?1 WHERE delivery = ?2")?
        .execute((digest.as_ref(), brought.delivery.0))?;
    c.prepare_cached(
        "UPDATE event SET fetch_trouble = NULL WHERE event = ?1 AND fetch_trouble IS NOT NULL",
    )?
    .execute([brought.event.0])?;
    let clinic = ClinicName::new(clinic).map_err(|_| damaged(1, "a malformed clinic name"))?;
    Ok(Some((clinic, facts, maybe_sent.is_some())))
}
