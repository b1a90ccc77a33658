//! Parked deliveries: what waits for something outside, and the clinics that a receiver refuses.
//!
//! A parked delivery keeps its body, is not claimed and counts towards nothing. Its row in `parked` says what it waits for,
//! and until when; that row is there exactly as long as the delivery is parked. A clinic's pause is durable with the first
//! delivery that is parked for it, so that no crash leaves one parked that nobody would ever resume.

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use rusqlite::vtab::array::Array;

use super::{EventKey, Ledger, Query, SinkId, at, intake, ms, numbers, order, outbox, output};
use crate::domain::{DeliveryId, Parked};
use crate::store::Unavailable;

/// What is said of a delivery whose clinic was paused before it was attempted.
const CLINIC_PAUSED: &str = "its clinic is paused at this sink";
/// What is said of a delivery whose result never came.
const UNCONFIRMED: &str = "accepted_unconfirmed";

/// A clinic whose deliveries to a sink wait for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PausedClinic {
    /// The clinic.
    pub clinic: String,
    /// Why: what the receiver answered, or that a person said so.
    pub why: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl Ledger {
    /// Looks after what is parked at a sink: what has waited long enough for a crosswalk is queued again, and what has
    /// waited long enough for its result is done without. Where bodies are never kept, also parks what waits of paused
    /// clinics; where they are, a claim does that.
    pub async fn tend_parked(
        &self,
        sink: SinkId,
        are_kept: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let has_work = self
            .store
            .read(move |c| {
                let is_due = c
                    .prepare_cached("SELECT 1 FROM parked WHERE sink = ?1 AND until_at <= ?2")?
                    .exists((sink.0, ms(now)))?;
                Ok(is_due || (!are_kept && has_paused(c, sink)?))
            })
            .await?;
        if !has_work {
            return Ok(());
        }
        self.store
            .write(move |c| {
                const DUE: &str = "sink = ?1 AND until_at <= ?2 AND why = ?3";
                let due = |why: Parked| (sink.0, ms(now), why.as_str());
                release(c, DUE, due(Parked::NoCrosswalk))?;
                let awaiting = parked_ids(c, DUE, due(Parked::AwaitsResult))?;
                conclude(c, &awaiting, "done", Some(UNCONFIRMED), now)?;
                if !are_kept {
                    park_paused(c, sink, 0, now)?;
                }
                Ok(())
            })
            .await
    }
}

impl Query {
    /// Has the deliveries of a clinic to a sink wait, from now on. Gives whether there is such a sink.
    pub async fn pause_clinic(
        &self,
        sink: String,
        clinic: String,
        why: String,
        now: DateTime<Utc>,
    ) -> Result<bool, Unavailable> {
        self.store
            .write(move |c| {
                let known = c
                    .prepare_cached("SELECT 1 FROM sink WHERE name = ?1")?
                    .exists([&sink])?;
                c.prepare_cached(
                    "INSERT INTO paused_clinic (sink, clinic, why, paused_at)
                     SELECT sink, ?2, ?3, ?4 FROM sink WHERE name = ?1 ON CONFLICT DO NOTHING",
                )?
                .execute((&sink, &clinic, &why, ms(now)))?;
                Ok(known)
            })
            .await
    }

    /// Lets the deliveries of a clinic to a sink go on, or of every clinic. Gives how many were parked for it; `None` if
    /// nothing was paused.
    pub async fn resume_clinic(
        &self,
        sink: String,
        clinic: Option<String>,
    ) -> Result<Option<usize>, Unavailable> {
        self.store
            .write(move |c| resume_clinic(c, &sink, clinic.as_deref()))
            .await
    }
}

fn resume_clinic(
    c: &Connection,
    sink: &str,
    clinic: Option<&str>,
) -> rusqlite::Result<Option<usize>> {
    let resumed = c
        .prepare_cached(
            "DELETE FROM paused_clinic WHERE sink = (SELECT sink FROM sink WHERE name = ?1)
               AND (?2 IS NULL OR clinic = ?2)",
        )?
        .execute((sink, clinic))?;
    if resumed == 0 {
        return Ok(None);
    }
    let released = release(
        c,
        "why = ?1 AND sink = (SELECT sink FROM sink WHERE name = ?2) AND (?3 IS NULL OR delivery IN
           (SELECT delivery FROM delivery JOIN lane USING (lane) WHERE clinic = ?3))",
        (Parked::ClinicPaused.as_str(), sink, clinic),
    )?;
    Ok(Some(released))
}

/// Parks a delivery whose claim is settled so; with its clinic, where the receiver refuses that.
pub(super) fn park(
    c: &Connection,
    delivery: DeliveryId,
    (why, reason, until): (Parked, &str, Option<DateTime<Utc>>),
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT OR REPLACE INTO parked (delivery, sink, why, until_at)
         SELECT delivery, sink, ?2, ?3 FROM delivery WHERE delivery = ?1",
    )?
    .execute((delivery.0, why.as_str(), until.map(ms)))?;
    if why == Parked::ClinicPaused {
        c.prepare_cached(
            "INSERT INTO paused_clinic (sink, clinic, why, paused_at)
             SELECT sink, clinic, ?2, ?3 FROM delivery JOIN lane USING (lane) WHERE delivery = ?1
             ON CONFLICT DO NOTHING",
        )?
        .execute((delivery.0, reason, ms(now)))?;
    }
    Ok(())
}

fn has_paused(c: &Connection, sink: SinkId) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT 1 FROM paused_clinic WHERE sink = ?1")?
        .exists([sink.0])
}

/// Parks what could be claimed of a sink's paused clinics. `ready` as a claim asks for it. In a line, the next of a key
/// comes forward, and is parked too.
pub(super) fn park_paused(
    c: &Connection,
    sink: SinkId,
    ready: u8,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    if !has_paused(c, sink)? {
        return Ok(());
    }
    loop {
        let parked: Vec<i64> = c
            .prepare_cached(&format!(
                "UPDATE delivery SET state = 'parked', reason = '{CLINIC_PAUSED}', settled_at = ?2
                 WHERE sink = ?1 AND state = 'queued' AND ready = {ready}
                   AND lane IN (SELECT lane FROM lane JOIN paused_clinic USING (clinic) WHERE sink = ?1)
                 RETURNING delivery"
            ))?
            .query_map((sink.0, ms(now)), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if parked.is_empty() {
            return Ok(());
        }
        let parked = numbers(parked);
        c.prepare_cached(
            "INSERT OR REPLACE INTO parked (delivery, sink, why)
             SELECT delivery, sink, 'clinic_paused' FROM delivery WHERE delivery IN rarray(?1)",
        )?
        .execute([&parked])?;
        order::next_in_line(c, &parked)?;
    }
}

fn parked_ids(
    c: &Connection,
    which: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<i64>> {
    c.prepare_cached(&format!(
        "SELECT delivery FROM parked WHERE {which} ORDER BY delivery"
    ))?
    .query_map(values, |row| row.get(0))?
    .collect()
}

/// Queues what is parked and `which` names, by the time it happened; gives how many. Waiting was no failure of theirs: what
/// holds back others is counted from the next one.
pub(super) fn release(
    c: &Connection,
    which: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<usize> {
    let deliveries = parked_ids(c, which, values)?;
    let count = deliveries.len();
    let ids = numbers(deliveries);
    let events: Vec<i64> = c
        .prepare_cached(
            "UPDATE delivery SET state = 'queued', ready = 0, key = NULL, settled_at = NULL, failing_since = NULL,
               due_at = (SELECT created_at FROM event e WHERE e.event = delivery.event)
             WHERE delivery IN rarray(?1) RETURNING event",
        )?
        .query_map([&ids], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    tidy(c, &ids)?;
    for event in events {
        intake::wait_for_body(c, EventKey(event))?;
    }
    Ok(count)
}

/// Ends what was parked, as a result says.
pub(super) fn conclude(
    c: &Connection,
    deliveries: &[i64],
    state: &str,
    reason: Option<&str>,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    let ids = numbers(deliveries.iter().copied());
    let events: Vec<i64> = c
        .prepare_cached(
            "UPDATE delivery SET state = ?1, reason = ?2, settled_at = ?3 WHERE delivery IN rarray(?4) RETURNING event",
        )?
        .query_map((state, reason, ms(now), &ids), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    tidy(c, &ids)?;
    if state == "done" {
        outbox::forget_bodies(c, &numbers(events))?;
        output::forget(c, &ids)?;
    }
    Ok(())
}

/// Of these deliveries, what is parked no more waits for nothing.
pub(super) fn tidy(c: &Connection, deliveries: &Array) -> rusqlite::Result<()> {
    c.prepare_cached(
        "DELETE FROM parked WHERE delivery IN rarray(?1)
           AND (SELECT state FROM delivery d WHERE d.delivery = parked.delivery) <> 'parked'",
    )?
    .execute([deliveries])
    .map(drop)
}

/// As [`tidy`], of all deliveries: for what happens to many, and seldom.
pub(super) fn tidy_all(c: &Connection) -> rusqlite::Result<()> {
    c.execute(
        "DELETE FROM parked WHERE (SELECT state FROM delivery d WHERE d.delivery = parked.delivery) <> 'parked'",
        (),
    )
    .map(drop)
}

/// What a sink's receiver has accepted is done without its result: it is not the next one's to do again.
pub(super) fn close_awaiting(
    c: &Connection,
    sink: SinkId,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    let awaiting = parked_ids(
        c,
        "sink = ?1 AND why = ?2",
        (sink.0, Parked::AwaitsResult.as_str()),
    )?;
    conclude(c, &awaiting, "done", Some(UNCONFIRMED), now)
}

/// The clinics that are paused at each sink, by its number.
pub(super) fn paused_clinics(c: &Connection) -> rusqlite::Result<Vec<(i64, PausedClinic)>> {
    c.prepare("SELECT sink, clinic, why, paused_at FROM paused_clinic ORDER BY sink, clinic")?
        .query_map((), |row| {
            let clinic = PausedClinic {
                clinic: row.get(1)?,
                why: row.get(2)?,
                since: at(row.get(3)?),
            };
            Ok((row.get(0)?, clinic))
        })?
        .collect()
}

/// How many deliveries of each sink wait for what.
pub(super) fn counts(c: &Connection) -> rusqlite::Result<Vec<(i64, Parked, u64)>> {
    let mut statement = c.prepare("SELECT sink, why, count(*) FROM parked GROUP BY sink, why")?;
    let mut rows = statement.query(())?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(why) = Parked::parse(row.get_ref(1)?.as_str()?) {
            counts.push((row.get(0)?, why, row.get(2)?));
        }
    }
    Ok(counts)
}
