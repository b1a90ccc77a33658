//! What anybody may ask of the ledger: for `status`, `events` and the tests' oracle. Nothing here refreshes, claims
//! or fetches.

use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::{EventKey, SinkId, at, attest, damaged, intake, ms, numbers, order, output, parked};
use crate::audit::Audit;
use crate::domain::{DeliveryId, DeliveryState, Parked};
use crate::store::{Store, Unavailable};

/// The questions.
#[derive(Clone)]
pub struct Query {
    pub(super) store: Store,
    pub(super) audit: Audit,
}

/// A lane as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRow {
    /// The clinic's name.
    pub clinic: String,
    /// The category.
    pub category: String,
    /// Whether the first whole listing is complete.
    pub baseline_done: bool,
    /// The last sweep that reached its end.
    pub polled_at: Option<DateTime<Utc>>,
    /// Parked as *scope missing* since.
    pub parked_at: Option<DateTime<Utc>>,
    /// The last failure in words, until a sweep succeeds.
    pub trouble: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// Not before this time, after a failure.
    pub retry_at: Option<DateTime<Utc>>,
    /// Events that only a later sweep found.
    pub late: u64,
    /// Events admitted since the time asked for.
    pub new: u64,
    /// Events quarantined: they name another clinic.
    pub quarantined: u64,
    /// Details owed.
    pub owed: u64,
}

/// An event as people see it: no health data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Fullscript's id.
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// The clinic that listed it first.
    pub clinic: String,
    /// When this program saw it.
    pub admitted_at: DateTime<Utc>,
    /// By which sweep.
    pub found_by: String,
    /// Why no sink gets it.
    pub skipped: Option<String>,
    /// Why its detail is not here yet.
    pub fetch_trouble: Option<String>,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryRow>,
}

/// A delivery as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its number.
    pub delivery: DeliveryId,
    /// The sink.
    pub sink: String,
    /// Which resend it is; the first is 1.
    pub ordinal: u32,
    /// Where it stands.
    pub state: DeliveryState,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is due, if it is queued.
    pub due_at: DateTime<Utc>,
    /// When it was settled.
    pub settled_at: Option<DateTime<Utc>>,
    /// How the last attempt ended, or why it was skipped.
    pub reason: Option<String>,
    /// What it waits for, if it is parked.
    pub parked: Option<Parked>,
}

/// Which events are asked for. Absent filters mean all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this clinic.
    pub clinic: Option<String>,
    /// Of this type, with `*` and `?` and `[seq]` as SQLite's `GLOB` has them.
    pub event_type: Option<String>,
    /// With a delivery in this state; for `skipped` also those that no sink gets.
    pub state: Option<DeliveryState>,
    /// With a delivery to this sink; together with `state`, with one in that state.
    pub sink: Option<String>,
    /// At most so many, the newest first.
    pub limit: u32,
}

impl Query {
    /// The questions to a store.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            audit: Audit::off(),
        }
    }

    /// The same, recording what is done.
    #[must_use]
    pub fn audited(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// Whether the database answers a read: what the watchdog asks.
    pub async fn answers(&self) -> Result<(), Unavailable> {
        self.store
            .read(|c| c.query_row("SELECT epoch FROM instance", (), |_| Ok(())))
            .await
    }

    /// Every lane, with what it admitted since `since`.
    pub async fn lanes(&self, since: DateTime<Utc>) -> Result<Vec<LaneRow>, Unavailable> {
        self.store
            .read(move |c| {
                c.prepare(
                    "SELECT clinic, category, baseline_done, polled_at, parked_at, trouble, failures, retry_at, late,
                       coalesce(new, 0), coalesce(quarantined, 0), coalesce(owed, 0)
                     FROM lane
                       LEFT JOIN (SELECT lane, sum(admitted_at >= ?1 AND skipped IS NOT 'baseline') AS new
                                  FROM event GROUP BY lane) USING (lane)
                       LEFT JOIN (SELECT through AS lane, count(DISTINCT event) AS owed
                                  FROM delivery WHERE state = 'queued' AND ready = 0 GROUP BY through) USING (lane)
                       LEFT JOIN (SELECT lane, count(*) AS quarantined FROM quarantine GROUP BY lane) USING (lane)
                     ORDER BY clinic, category",
                )?
                .query_map([ms(since)], |row| {
                    Ok(LaneRow {
                        clinic: row.get(0)?,
                        category: row.get(1)?,
                        baseline_done: row.get(2)?,
                        polled_at: time(row, 3)?,
                        parked_at: time(row, 4)?,
                        trouble: row.get(5)?,
                        failures: row.get(6)?,
                        retry_at: time(row, 7)?,
                        late: row.get(8)?,
                        new: row.get(9)?,
                        quarantined: row.get(10)?,
                        owed: row.get(11)?,
                    })
                })?
                .collect()
            })
            .await
    }

    /// Events, the newest first.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<EventRow>, Unavailable> {
        self.store.read(move |c| events(c, &filter)).await
    }

    /// One event.
    pub async fn event(&self, id: String) -> Result<Option<EventRow>, Unavailable> {
        self.store
            .read(move |c| {
                c.prepare(&format!("{SELECT_EVENT} WHERE id = ?1"))?
                    .query_row([&id], |row| event_row(c, row))
                    .optional()
            })
            .await
    }

    /// Issues a new delivery of an event to a sink that had it: a person's resend.
    pub async fn resend(
        &self,
        id: String,
        sink: String,
        now: DateTime<Utc>,
    ) -> Result<Resend, Unavailable> {
        let audit = self.audit.clone();
        self.store
            .write(move |c| {
                let event = number(c, "SELECT event FROM event WHERE id = ?1", &id)?;
                let sink = number(c, "SELECT sink FROM sink WHERE name = ?1", &sink)?;
                match (event, sink) {
                    (None, _) => Ok(Resend::NoSuchEvent),
                    (_, None) => Ok(Resend::NoSuchSink),
                    (Some(event), Some(sink)) => {
                        resend(c, &audit, (EventKey(event), SinkId(sink)), now)
                    }
                }
            })
            .await
    }

    /// Resends, in one transaction, at most `limit` events whose delivery to a sink is in `state`, the oldest first.
    /// Gives how many.
    pub async fn resend_all(
        &self,
        state: DeliveryState,
        sink: String,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<u64, Unavailable> {
        let audit = self.audit.clone();
        self.store
            .write(move |c| {
                let due: Vec<(i64, i64)> = c
                    .prepare(
                        "SELECT DISTINCT event, sink FROM delivery JOIN sink USING (sink) JOIN event USING (event)
                         WHERE name = ?1 AND state = ?2 ORDER BY created_at, id LIMIT ?3",
                    )?
                    .query_map((&sink, state.as_str(), limit), |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<rusqlite::Result<_>>()?;
                let mut issued = 0;
                for (event, sink) in due {
                    let of = (EventKey(event), SinkId(sink));
                    let resent = resend(c, &audit, of, now)?;
                    issued += u64::from(matches!(resent, Resend::Issued(_)));
                }
                Ok(issued)
            })
            .await
    }
}

/// What became of the wish to send an event again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resend {
    /// It is queued, as a delivery of its own.
    Issued(DeliveryId),
    /// A delivery of it to this sink is not settled yet: nothing was changed.
    Open(DeliveryRow),
    /// This sink never had the event: that is what a backfill is for.
    NeverHad,
    /// The ledger does not know the event.
    NoSuchEvent,
    /// The ledger does not know the sink.
    NoSuchSink,
}

fn number(c: &Connection, sql: &str, key: &str) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached(sql)?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// A held or dead delivery that is resent needs nobody's decision any more: it is skipped, and says why.
fn resend(
    c: &Connection,
    audit: &Audit,
    (event, sink): (EventKey, SinkId),
    now: DateTime<Utc>,
) -> rusqlite::Result<Resend> {
    let before: Vec<DeliveryRow> = c
        .prepare_cached(&format!(
            "SELECT {DELIVERY_COLUMNS} FROM delivery d JOIN sink USING (sink)
             WHERE event = ?1 AND sink = ?2 ORDER BY ordinal DESC"
        ))?
        .query_map((event.0, sink.0), delivery_row)?
        .collect::<rusqlite::Result<_>>()?;
    let Some(newest) = before.first() else {
        return Ok(Resend::NeverHad);
    };
    let is_open =
        |d: &&DeliveryRow| matches!(d.state, DeliveryState::Queued | DeliveryState::Claimed);
    if let Some(open) = before.iter().find(is_open) {
        return Ok(Resend::Open(open.clone()));
    }
    c.prepare_cached(&format!(
        "INSERT INTO delivery (event, sink, lane, through, ordinal, state, due_at, issued_at, place)
         SELECT event, sink, d.lane, e.lane, ?1, 'queued', ?2, ?2,
           CASE WHEN order_by <> 'none' THEN {} END
         FROM delivery d JOIN event e USING (event) JOIN sink USING (sink) WHERE delivery = ?3",
        order::PLACE
    ))?
    .execute((newest.ordinal + 1, ms(now), newest.delivery.0))?;
    let delivery = DeliveryId(c.last_insert_rowid());
    c.prepare_cached(
        "UPDATE delivery SET state = 'skipped', settled_at = ?1,
           reason = 'resent as delivery ' || ?2 || ' (was ' || state || coalesce(': ' || reason, '') || ')'
         WHERE event = ?3 AND sink = ?4 AND state IN ('held', 'parked', 'dead')",
    )?
    .execute((ms(now), delivery.0, event.0, sink.0))?;
    let resent = numbers(before.iter().map(|delivery| delivery.delivery.0));
    parked::tidy(c, &resent)?;
    output::forget(c, &resent)?;
    intake::wait_for_body(c, event)?;
    attest::decided(c, audit, (delivery, "events resend"), now)?;
    Ok(Resend::Issued(delivery))
}

const SELECT_EVENT: &str =
    "SELECT event, id, type, created_at, clinic, admitted_at, found_by, skipped, fetch_trouble
     FROM event JOIN lane USING (lane)";

/// What [`delivery_row`] reads, of `delivery JOIN sink`.
pub(super) const DELIVERY_COLUMNS: &str =
    "delivery, name, ordinal, state, attempts, due_at, settled_at, reason,
     (SELECT why FROM parked p WHERE p.delivery = d.delivery)";

fn events(c: &Connection, filter: &EventFilter) -> rusqlite::Result<Vec<EventRow>> {
    let state = filter.state.map(|state| state.as_str().to_owned());
    let filters = [
        ("clinic = ?", [filter.clinic.clone(), None]),
        ("type GLOB ?", [filter.event_type.clone(), None]),
        (
            if filter.state == Some(DeliveryState::Skipped) && filter.sink.is_none() {
                "(skipped IS NOT NULL OR event IN (SELECT event FROM delivery WHERE state = ?))"
            } else if state.is_some() && filter.sink.is_some() {
                "event IN (SELECT event FROM delivery JOIN sink USING (sink) WHERE state = ? AND name = ?)"
            } else if state.is_some() {
                "event IN (SELECT event FROM delivery WHERE state = ?)"
            } else {
                "event IN (SELECT event FROM delivery JOIN sink USING (sink) WHERE name = ?)"
            },
            [state, filter.sink.clone()],
        ),
    ];
    let mut wheres = vec!["1"];
    let mut values: Vec<Value> = Vec::new();
    for (sql, found) in filters {
        let before = values.len();
        values.extend(found.into_iter().flatten().map(Value::from));
        if values.len() > before {
            wheres.push(sql);
        }
    }
    values.push(filter.limit.into());
    c.prepare(&format!(
        "{SELECT_EVENT} WHERE {} ORDER BY created_at DESC, id LIMIT ?",
        wheres.join(" AND ")
    ))?
    .query_map(params_from_iter(values), |row| event_row(c, row))?
    .collect()
}

fn event_row(c: &Connection, row: &Row<'_>) -> rusqlite::Result<EventRow> {
    let event: i64 = row.get(0)?;
    let deliveries = c
        .prepare_cached(&format!(
            "SELECT {DELIVERY_COLUMNS} FROM delivery d JOIN sink USING (sink)
             WHERE event = ?1 ORDER BY name, ordinal"
        ))?
        .query_map([event], delivery_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(EventRow {
        id: row.get(1)?,
        event_type: row.get(2)?,
        created_at: at(row.get(3)?),
        clinic: row.get(4)?,
        admitted_at: at(row.get(5)?),
        found_by: row.get(6)?,
        skipped: row.get(7)?,
        fetch_trouble: row.get(8)?,
        deliveries,
    })
}

pub(super) fn delivery_row(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        delivery: DeliveryId(row.get(0)?),
        sink: row.get(1)?,
        ordinal: row.get(2)?,
        state: state(row, 3)?,
        attempts: row.get(4)?,
        due_at: at(row.get(5)?),
        settled_at: time(row, 6)?,
        reason: row.get(7)?,
        parked: row
            .get::<_, Option<String>>(8)?
            .as_deref()
            .and_then(Parked::parse),
    })
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<DateTime<Utc>>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(at))
}

pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<DeliveryState> {
    DeliveryState::parse(row.get_ref(column)?.as_str()?)
        .ok_or_else(|| damaged(column, "an unknown delivery state"))
}
