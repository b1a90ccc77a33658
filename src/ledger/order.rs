//! The lines of the sinks that keep an order: of each key (a clinic, a patient) one delivery at a time may be claimed,
//! the one that happened first; the others that are here wait behind it.
//!
//! `ready` says where a queued delivery is: 0, its body is not here; 1, it may be claimed; 2, it waits in line. Two laws,
//! checked after every test: of a key at most one delivery is claimed or may be, and where any waits in line there is
//! one. Whoever changes what is queued or claimed calls [`next_in_line`] for it, in the same transaction.
//!
//! What is listed and not here yet has no known patient, and may be anybody's: it holds back what happened later at its
//! clinic, for a while ([`Gate`]). What comes later than that comes late.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use ring::digest;
use rusqlite::vtab::array::Array;
use rusqlite::{Connection, OptionalExtension};

use super::{EventKey, SinkId, ms, numbers};
use crate::domain::{EventBody, EventType, OrderBy, Reference, patient_of};

/// So long an event whose detail cannot be fetched holds back others.
const LONGEST_WAIT_FOR_DETAIL: TimeDelta = TimeDelta::hours(1);

/// The place in line by the columns of `event`, as [`place`] makes it.
pub(super) const PLACE: &str = "printf('%016d %s', created_at, id)";

/// The place in line: the order of happening, as text.
pub(super) fn place(reference: &Reference) -> String {
    format!("{:016} {}", ms(reference.created_at), reference.id)
}

/// A patient as the ledger knows him: not by the vendor's id, which is nobody's business here.
pub(super) fn patient_key(event_type: &EventType, body: &EventBody) -> Option<String> {
    let patient = patient_of(event_type, body)?;
    let digest = digest::digest(&digest::SHA256, patient.as_bytes());
    Some(hex::encode(digest.as_ref().get(..16)?))
}

/// The sinks that keep an order.
pub(super) fn ordered(c: &Connection) -> rusqlite::Result<Vec<SinkId>> {
    c.prepare_cached("SELECT sink FROM sink WHERE order_by <> 'none'")?
        .query_map((), |row| row.get(0).map(SinkId))?
        .collect()
}

/// Makes the indexes of the lines where a sink keeps an order. Where none does, every delivery that is written would look
/// at them for nothing.
pub(super) fn index_lines(c: &Connection) -> rusqlite::Result<()> {
    c.execute_batch(if ordered(c)?.is_empty() {
        "DROP INDEX IF EXISTS delivery_line;
         DROP INDEX IF EXISTS delivery_unseen"
    } else {
        "CREATE INDEX IF NOT EXISTS delivery_line ON delivery (sink, key, place)
           WHERE key IS NOT NULL AND (state = 'queued' OR state = 'claimed');
         CREATE INDEX IF NOT EXISTS delivery_unseen ON delivery (sink, lane, place)
           WHERE place IS NOT NULL AND state = 'queued' AND ready = 0"
    })
}

/// Notes which order a sink keeps; where that is another than before, its deliveries are lined up anew.
pub(super) fn keep_order(c: &Connection, sink: SinkId, by: OrderBy) -> rusqlite::Result<()> {
    let changed = c
        .prepare_cached("UPDATE sink SET order_by = ?1 WHERE sink = ?2 AND order_by <> ?1")?
        .execute((by.as_str(), sink.0))?;
    if changed > 0 {
        index_lines(c)?;
        line_up_all(c, sink)?;
    }
    Ok(())
}

/// Lines up all that a sink has not settled.
pub(super) fn line_up_all(c: &Connection, sink: SinkId) -> rusqlite::Result<()> {
    c.prepare_cached(&format!(
        "UPDATE delivery SET key = NULL, ready = min(ready, 1), place =
           (SELECT {PLACE} FROM event JOIN sink WHERE event.event = delivery.event AND sink.sink = ?1 AND order_by <> 'none')
         WHERE sink = ?1 AND state <> 'done' AND state <> 'skipped'"
    ))?
    .execute([sink.0])?;
    let events: Vec<i64> = c
        .prepare_cached(
            "SELECT event FROM delivery WHERE sink = ?1 AND place IS NOT NULL AND state = 'queued' AND ready = 1",
        )?
        .query_map([sink.0], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    line_up(c, &numbers(events))
}

/// Deliveries of these events whose bodies have come take their places in line, where their sinks keep an order.
pub(super) fn line_up(c: &Connection, events: &Array) -> rusqlite::Result<()> {
    let lines: Vec<(i64, String)> = c
        .prepare_cached(
            "UPDATE delivery SET ready = 2, key = CASE order_by WHEN 'clinic' THEN clinic ELSE patient END
             FROM sink, lane, body
             WHERE delivery.event IN rarray(?1) AND delivery.state = 'queued' AND delivery.ready = 1
               AND delivery.place IS NOT NULL
               AND sink.sink = delivery.sink AND lane.lane = delivery.lane AND body.event = delivery.event
               AND (order_by = 'clinic' OR patient IS NOT NULL)
             RETURNING delivery.sink, key",
        )?
        .query_map([events], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    call_up_all(c, lines)
}

/// Some of these deliveries are not claimed any more, or not queued: whoever is next of their keys may be claimed.
pub(super) fn next_in_line(c: &Connection, deliveries: &Array) -> rusqlite::Result<()> {
    let lines: Vec<(i64, String)> = c
        .prepare_cached(
            "SELECT DISTINCT sink, key FROM delivery WHERE delivery IN rarray(?1) AND key IS NOT NULL",
        )?
        .query_map([deliveries], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    call_up_all(c, lines)
}

/// Deliveries were claimed by an owner that is gone: those that are queued again take their places, by the order that
/// their sinks keep now; whoever is next of the others' keys may be claimed.
pub(super) fn rejoin(c: &Connection, deliveries: &Array) -> rusqlite::Result<()> {
    let events: Vec<i64> = c
        .prepare_cached(
            "SELECT event FROM delivery WHERE delivery IN rarray(?1) AND place IS NOT NULL AND state = 'queued'",
        )?
        .query_map([deliveries], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    line_up(c, &numbers(events))?;
    next_in_line(c, deliveries)
}

fn call_up_all(c: &Connection, mut lines: Vec<(i64, String)>) -> rusqlite::Result<()> {
    lines.sort_unstable();
    lines.dedup();
    lines
        .iter()
        .try_for_each(|(sink, key)| call_up(c, *sink, key))
}

/// Lets the first in a line be claimed, unless one of the key is claimed.
fn call_up(c: &Connection, sink: i64, key: &str) -> rusqlite::Result<()> {
    let is_claimed = c
        .prepare_cached(
            "SELECT 1 FROM delivery WHERE sink = ?1 AND key = ?2 AND (state = 'queued' OR state = 'claimed')
               AND state = 'claimed' LIMIT 1",
        )?
        .exists((sink, key))?;
    if is_claimed {
        return Ok(());
    }
    let first: Option<i64> = c
        .prepare_cached(
            "SELECT delivery FROM delivery
             WHERE sink = ?1 AND key = ?2 AND (state = 'queued' OR state = 'claimed') AND ready > 0
             ORDER BY place, delivery LIMIT 1",
        )?
        .query_row((sink, key), |row| row.get(0))
        .optional()?;
    c.prepare_cached(
        "UPDATE delivery SET ready = 2 - (delivery = ?3)
         WHERE sink = ?1 AND key = ?2 AND (state = 'queued' OR state = 'claimed')
           AND (ready = 1 AND delivery <> ?3 OR ready = 2 AND delivery = ?3)",
    )?
    .execute((sink, key, first))
    .map(drop)
}

/// What holds back the deliveries of a sink: what happened earlier at their clinic and is not here yet.
pub(super) struct Gate<'c> {
    c: &'c Connection,
    sink: SinkId,
    since: DateTime<Utc>,
    of_clinic: HashMap<String, Option<String>>,
}

impl<'c> Gate<'c> {
    pub(super) fn new(c: &'c Connection, sink: SinkId, now: DateTime<Utc>) -> Self {
        Self {
            c,
            sink,
            since: now - LONGEST_WAIT_FOR_DETAIL,
            of_clinic: HashMap::new(),
        }
    }

    /// Whether a delivery in this place may go.
    pub(super) fn lets_pass(&mut self, clinic: &str, place: &str) -> rusqlite::Result<bool> {
        if !self.of_clinic.contains_key(clinic) {
            let first = self
                .c
                .prepare_cached(
                    "SELECT min(place) FROM delivery
                     WHERE sink = ?1 AND place IS NOT NULL AND state = 'queued' AND ready = 0 AND issued_at >= ?3
                       AND lane IN (SELECT lane FROM lane WHERE clinic = ?2)",
                )?
                .query_row((self.sink.0, clinic, ms(self.since)), |row| row.get(0))?;
            self.of_clinic.insert(clinic.to_owned(), first);
        }
        let first = self.of_clinic.get(clinic).and_then(Option::as_deref);
        Ok(first.is_none_or(|first| place < first))
    }
}

/// Every unsettled delivery of these events, for [`next_in_line`].
pub(super) fn of_event(c: &Connection, event: EventKey) -> rusqlite::Result<Array> {
    let deliveries: Vec<i64> = c
        .prepare_cached("SELECT delivery FROM delivery WHERE event = ?1 AND key IS NOT NULL")?
        .query_map([event.0], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(numbers(deliveries))
}
