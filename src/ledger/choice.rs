//! What needs a person: deliveries that are held or dead, and what a person chooses for them.
//!
//! A choice changes only what is held or dead at that moment, whatever the daemon does beside it: one that is queued
//! again, or settled by somebody else, stays as it is.

use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::query::{DELIVERY_COLUMNS, DeliveryRow, delivery_row};
use super::{EventKey, Query, at, attest, intake, ms, numbers, outbox, output, parked};
use crate::domain::{DeliveryId, DeliveryState};
use crate::store::Unavailable;

/// Which deliveries are asked for. Absent filters mean all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// These, in whichever state.
    pub ids: Option<Vec<DeliveryId>>,
    /// In this state; without ids and without this: held or dead.
    pub state: Option<DeliveryState>,
    /// To this sink.
    pub sink: Option<String>,
    /// Of this clinic.
    pub clinic: Option<String>,
    /// Of events of this type, with `*` and `?` and `[seq]` as SQLite's `GLOB` has them.
    pub event_type: Option<String>,
    /// At most so many, the oldest event first.
    pub limit: u32,
}

/// A delivery, and what it delivers: no health data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryOf {
    /// The delivery.
    pub delivery: DeliveryRow,
    /// Fullscript's id of the event.
    pub event: String,
    /// The event's type.
    pub event_type: String,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// The clinic that the sink is told.
    pub clinic: String,
}

/// What a person chooses for a delivery that is held, parked or dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It has arrived: done.
    Done,
    /// Attempt it again: the same delivery, with the same number, so that its receiver can recognise it.
    Retry,
    /// It shall not arrive: skipped.
    Drop,
}

impl Choice {
    /// The command that says it.
    fn command(self) -> &'static str {
        match self {
            Self::Done => "deliveries done",
            Self::Retry => "deliveries retry",
            Self::Drop => "deliveries drop",
        }
    }
}

impl Query {
    /// Deliveries, the oldest event first.
    pub async fn deliveries(&self, filter: DeliveryFilter) -> Result<Vec<DeliveryOf>, Unavailable> {
        self.store.read(move |c| deliveries(c, &filter)).await
    }

    /// Settles those of `deliveries` that are held, parked or dead; gives how many. One transaction.
    pub async fn choose(
        &self,
        choice: Choice,
        deliveries: Vec<DeliveryId>,
        now: DateTime<Utc>,
    ) -> Result<u64, Unavailable> {
        let audit = self.audit.clone();
        self.store
            .write(move |c| {
                let mut changed = 0;
                for delivery in &deliveries {
                    let chosen = choose(c, choice, *delivery, now)?;
                    if chosen > 0 {
                        attest::decided(c, &audit, (*delivery, choice.command()), now)?;
                    }
                    changed += chosen;
                }
                Ok(changed)
            })
            .await
    }
}

fn deliveries(c: &Connection, filter: &DeliveryFilter) -> rusqlite::Result<Vec<DeliveryOf>> {
    let mut wheres = vec!["1"];
    let mut values: Vec<Value> = Vec::new();
    let state = filter.state.map(|state| state.as_str().to_owned());
    for (sql, value) in [
        ("d.state = ?", state),
        ("name = ?", filter.sink.clone()),
        ("clinic = ?", filter.clinic.clone()),
        ("type GLOB ?", filter.event_type.clone()),
    ] {
        if let Some(value) = value {
            wheres.push(sql);
            values.push(value.into());
        }
    }
    let ids = filter.ids.as_ref();
    let ids = ids.map(|ids| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>());
    // Numbers, so they can stand in the statement.
    let of_ids = ids.map(|ids| format!("delivery IN ({})", ids.join(",")));
    match &of_ids {
        Some(of_ids) => wheres.push(of_ids),
        None if filter.state.is_none() => wheres.push("(d.state = 'held' OR d.state = 'dead')"),
        None => {}
    }
    values.push(filter.limit.into());
    c.prepare(&format!(
        "SELECT {DELIVERY_COLUMNS}, e.id, e.type, e.created_at, clinic
         FROM delivery d JOIN sink USING (sink) JOIN event e USING (event) JOIN lane l ON l.lane = d.lane
         WHERE {} ORDER BY e.created_at, e.id, delivery LIMIT ?",
        wheres.join(" AND ")
    ))?
    .query_map(params_from_iter(values), delivery_of)?
    .collect()
}

fn delivery_of(row: &Row<'_>) -> rusqlite::Result<DeliveryOf> {
    Ok(DeliveryOf {
        delivery: delivery_row(row)?,
        event: row.get(9)?,
        event_type: row.get(10)?,
        created_at: at(row.get(11)?),
        clinic: row.get(12)?,
    })
}

fn choose(
    c: &Connection,
    choice: Choice,
    delivery: DeliveryId,
    now: DateTime<Utc>,
) -> rusqlite::Result<u64> {
    let sql = match choice {
        Choice::Done => {
            "UPDATE delivery SET state = 'done', settled_at = ?1,
               reason = 'a person says it has arrived (was ' || state || coalesce(': ' || reason, '') || ')'"
        }
        // Since when it is owed begins anew: what was given up after thirty days would be given up again at once. So
        // does what may have arrived: a person has looked, and what is held because it reads otherwise now would be
        // held again.
        Choice::Retry => {
            "UPDATE delivery SET state = 'queued', ready = 0, settled_at = NULL, due_at = ?1, issued_at = ?1, refusals = 0,
               failing_since = NULL, key = NULL, maybe_sent = NULL"
        }
        Choice::Drop => {
            "UPDATE delivery SET state = 'skipped', settled_at = ?1,
               reason = 'dropped by a person (was ' || state || coalesce(': ' || reason, '') || ')'"
        }
    };
    let event = c
        .prepare_cached(&format!(
            "{sql} WHERE delivery = ?2 AND (state = 'held' OR state = 'parked' OR state = 'dead') RETURNING event"
        ))?
        .query_map((ms(now), delivery.0), |row| row.get(0).map(EventKey))?
        .next()
        .transpose()?;
    let Some(event) = event else {
        return Ok(0);
    };
    parked::tidy(c, &numbers([delivery.0]))?;
    match choice {
        Choice::Retry => intake::wait_for_body(c, event)?,
        Choice::Done | Choice::Drop => {
            outbox::forget_bodies(c, &numbers([event.0]))?;
            output::forget(c, &numbers([delivery.0]))?;
        }
    }
    Ok(1)
}
